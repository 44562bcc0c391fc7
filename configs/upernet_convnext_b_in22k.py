# UperNet, ConvNeXt-B from ImageNet-22K, ADE20K.
_base_ = [
    './_base_/models/upernet.py',
    './_base_/datasets/ade20k_640.py',
    './_base_/schedules/ade20k_160k.py',
]

from convnext_backbones.experiments import settings

model, optim_wrapper = settings('upernet_convnext_b_in22k')
