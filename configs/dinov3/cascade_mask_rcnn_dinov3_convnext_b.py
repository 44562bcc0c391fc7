# Cascade Mask R-CNN, DINOv3 ConvNeXt-B (LVD-1689M); a recipe of ours, not measured
# drop path 0.7, lr 2e-4, decay 0.8, COCO 1333 x 800
_base_ = [
    '../_base_/models/cascade_mask_rcnn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_3x.py',
]

from convnext_backbones.recipes import settings

model, optim_wrapper = settings('cascade_mask_rcnn_dinov3_convnext_b')
