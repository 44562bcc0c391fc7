# Mask R-CNN, DINOv3 ConvNeXt-T (LVD-1689M); a recipe of ours, not measured
# drop path 0.4, lr 1e-4, decay 0.95, COCO 1333 x 800
_base_ = [
    '../_base_/models/mask_rcnn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_3x.py',
]

from convnext_backbones.recipes import settings

model, optim_wrapper = settings('mask_rcnn_dinov3_convnext_t')
