# A small Mask R-CNN that trains from random weights, also on a CPU.
_base_ = ['./mask_rcnn.py']

dims = [32, 64, 128, 256]
channels = 64
norm = dict(type='GN', num_groups=16)  # trains from scratch at small batches
model = dict(
    backbone=dict(
        _delete_=True,
        type='ConvNeXt',
        arch=dict(depths=[2, 2, 4, 2], dims=dims),
        layer_scale_init_value=1.0,
    ),
    neck=dict(in_channels=dims, out_channels=channels, norm_cfg=norm),
    rpn_head=dict(in_channels=channels, feat_channels=channels),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(in_channels=channels, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=dict(num_convs=2, in_channels=channels, conv_out_channels=channels),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)
