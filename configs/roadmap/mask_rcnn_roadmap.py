# Mask R-CNN over any step from ResNet to ConvNeXt; a recipe of ours, not measured
#   --cfg-options model.backbone.step=kernel_size_7 model.backbone.regime=B
# The commands of tools/ give the neck the channels of the step.
_base_ = [
    '../_base_/models/mask_rcnn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_3x.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='RoadmapNet',
        step='convnext',
        regime='T',
        drop_path_rate=0.1,
        layer_scale_init_value=1.0,
    )
)
# Layer-wise decay is for ConvNeXt's names only.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(lr=1e-4),
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, norm_decay_mult=0, bias_decay_mult=0, flat_decay_mult=0),
)
