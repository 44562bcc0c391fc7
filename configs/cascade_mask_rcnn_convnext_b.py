# Cascade Mask R-CNN, ConvNeXt-B (ImageNet-1K), drop path 0.7, lr 2e-4, decay 0.8, COCO 1333 x 800
_base_ = ['./cascade_mask_rcnn_convnext_t.py']

from convnext_backbones.experiments import settings

model, optim_wrapper = settings('cascade_mask_rcnn_convnext_b')
