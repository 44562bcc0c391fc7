# Mask R-CNN, ConvNeXt V2-L (FCMAE); a recipe of ours, not measured
# drop path 0.5, lr 1e-4, decay 0.95, COCO 1333 x 800, trained on large-scale jitter of 1024 x 1024
_base_ = [
    '../_base_/models/mask_rcnn_soft_nms.py',
    '../_base_/datasets/coco_instance_lsj.py',
    '../_base_/schedules/coco_lsj.py',
]

from convnext_backbones.recipes import settings

model, optim_wrapper = settings('mask_rcnn_convnextv2_l')
