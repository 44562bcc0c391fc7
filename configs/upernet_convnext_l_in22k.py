# UperNet, ConvNeXt-L (ImageNet-22K), drop path 0.4, lr 1e-4, decay 0.9, ADE20K 640 x 640
_base_ = ['./upernet_convnext_b_in22k.py']

from convnext_backbones.experiments import settings

model, optim_wrapper = settings('upernet_convnext_l_in22k')
