# Cascade Mask R-CNN, ConvNeXt-L (ImageNet-22K), drop path 0.7, lr 1e-4, decay 0.7, COCO 1333 x 800
_base_ = ['./cascade_mask_rcnn_convnext_t.py']

from convnext_backbones.experiments import settings

model, optim_wrapper = settings('cascade_mask_rcnn_convnext_l_in22k')
