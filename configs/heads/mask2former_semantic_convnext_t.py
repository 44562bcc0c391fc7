# Mask2Former, semantic, ConvNeXt-T (ImageNet-1K); a recipe of ours, not measured
# drop path 0.4, lr 1e-4, decay 0.9, ADE20K 512 x 512
_base_ = ['../_base_/datasets/ade20k.py', '../_base_/schedules/ade20k_160k.py']

from convnext_backbones.config import head_settings

model, optim_wrapper = head_settings('mask2former_semantic', weights='convnext_tiny_1k_224')
