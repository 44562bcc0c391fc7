# UperNet, ConvNeXt-B from ImageNet-1K, ADE20K.
_base_ = ['./upernet_convnext_t.py']

from convnext_backbones.experiments import settings

model, optim_wrapper = settings('upernet_convnext_b')
