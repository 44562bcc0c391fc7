# Mask2Former, instances, DINOv3 ConvNeXt-B (LVD-1689M); a recipe of ours, not measured
# drop path 0.7, lr 1e-4, decay 0.8, COCO 1333 x 800, trained on 1024 x 1024
_base_ = 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py'

from convnext_backbones.config import head_settings

custom_imports = dict(imports=['convnext_backbones'], allow_failed_imports=False)
model, optim_wrapper = head_settings(
    'mask2former_instance', weights='timm/convnext_base.dinov3_lvd1689m'
)
model['_delete_'] = optim_wrapper['_delete_'] = True  # in place of those of the base
