# UperNet, ConvNeXt-L from ImageNet-22K, ADE20K.
_base_ = ['./upernet_convnext_b_in22k.py']

from convnext_backbones.experiments import settings

model, optim_wrapper = settings('upernet_convnext_l_in22k')
