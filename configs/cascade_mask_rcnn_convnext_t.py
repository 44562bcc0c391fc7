# Cascade Mask R-CNN, ConvNeXt-T from ImageNet-1K, COCO.
_base_ = [
    './_base_/models/cascade_mask_rcnn.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/coco_3x.py',
]

from convnext_backbones.experiments import settings

model, optim_wrapper = settings('cascade_mask_rcnn_convnext_t')
