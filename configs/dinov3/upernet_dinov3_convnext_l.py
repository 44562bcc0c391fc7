# UperNet, DINOv3 ConvNeXt-L (LVD-1689M); a recipe of ours, not measured
# drop path 0.4, lr 1e-4, decay 0.9, ADE20K 640 x 640
_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_640.py',
    '../_base_/schedules/ade20k_160k.py',
]

from convnext_backbones.recipes import settings

model, optim_wrapper = settings('upernet_dinov3_convnext_l')
