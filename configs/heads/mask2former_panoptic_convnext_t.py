# Mask2Former, panoptic, ConvNeXt-T (ImageNet-1K); a recipe of ours, not measured
# drop path 0.4, lr 1e-4, decay 0.7, COCO 1333 x 800, trained on 1024 x 1024
_base_ = 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py'

from convnext_backbones.config import head_settings

custom_imports = dict(imports=['convnext_backbones'], allow_failed_imports=False)
model, optim_wrapper = head_settings('mask2former_panoptic', weights='convnext_tiny_1k_224')
model['_delete_'] = optim_wrapper['_delete_'] = True  # in place of those of the base
