# A small UperNet that trains from random weights, also on a CPU.
_base_ = ['./upernet.py']

dims = [32, 64, 128, 256]
model = dict(
    backbone=dict(
        _delete_=True,
        type='ConvNeXt',
        arch=dict(depths=[2, 2, 4, 2], dims=dims),
        layer_scale_init_value=1.0,
    ),
    decode_head=dict(in_channels=dims, channels=64),
    auxiliary_head=dict(in_channels=dims[2], channels=64),
)
