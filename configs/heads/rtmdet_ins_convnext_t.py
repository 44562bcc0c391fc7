# RTMDet-Ins, ConvNeXt-T (ImageNet-1K); a recipe of ours, not measured
# drop path 0.4, lr 1e-3, decay 0.7, COCO 640 x 640
_base_ = 'mmdet::rtmdet/rtmdet-ins_l_8xb32-300e_coco.py'

from convnext_backbones.config import head_settings

custom_imports = dict(imports=['convnext_backbones'], allow_failed_imports=False)
model, optim_wrapper = head_settings('rtmdet_ins', weights='convnext_tiny_1k_224', lr=1e-3)
model['_delete_'] = optim_wrapper['_delete_'] = True  # in place of those of the base
# The lowest rate of the base is for its rate of 4e-3.
param_scheduler = [
    dict(one, eta_min=5e-5) if 'eta_min' in one else one for one in _base_.param_scheduler
]
