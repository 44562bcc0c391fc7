# UperNet, ConvNeXt V2-B (FCMAE, ImageNet-1K); a recipe of ours, not measured
# drop path 0.4, lr 1e-4, decay 0.9, ADE20K 512 x 512
_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/ade20k_160k.py',
]

from convnext_backbones.recipes import settings

model, optim_wrapper = settings('upernet_convnextv2_b')
