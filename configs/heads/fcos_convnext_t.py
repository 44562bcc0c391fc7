# FCOS, ConvNeXt-T (ImageNet-1K); a recipe of ours, not measured
# drop path 0.4, lr 2e-4, decay 0.7, COCO 1333 x 800
_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'

from convnext_backbones.config import head_settings

custom_imports = dict(imports=['convnext_backbones'], allow_failed_imports=False)
model, optim_wrapper = head_settings('fcos', weights='convnext_tiny_1k_224')
model['_delete_'] = optim_wrapper['_delete_'] = True  # in place of those of the base
