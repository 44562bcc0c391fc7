# Mask R-CNN over a quarter as wide a step, on the generated sample data; minutes on two CPU cores
#   python tools/make_sample_data.py data/sample
#   python tools/train.py configs/roadmap/mask_rcnn_roadmap_sample.py
#       --cfg-options model.backbone.step=kernel_size_7
_base_ = '../sample/mask_rcnn_convnext_sample.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='RoadmapNet',
        step='convnext',
        regime='T',
        width_factor=0.25,
        layer_scale_init_value=1.0,
    ),
    neck=dict(in_channels=[24, 48, 96, 192]),
)
