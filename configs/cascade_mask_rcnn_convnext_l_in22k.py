# Cascade Mask R-CNN, ConvNeXt-L from ImageNet-22K, COCO.
_base_ = ['./cascade_mask_rcnn_convnext_t.py']

from convnext_backbones.experiments import settings

model, optim_wrapper = settings('cascade_mask_rcnn_convnext_l_in22k')
