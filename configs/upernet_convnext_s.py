# UperNet, ConvNeXt-S (ImageNet-1K), drop path 0.3, lr 1e-4, decay 0.9, ADE20K 512 x 512
_base_ = ['./upernet_convnext_t.py']

from convnext_backbones.experiments import settings

model, optim_wrapper = settings('upernet_convnext_s')
