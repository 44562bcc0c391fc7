# The 36 epochs of coco_3x.py for 32 images per step, with the warm-up of mmdet's ConvNeXt V2.
_base_ = ['./coco_3x.py']

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1001),
    dict(type='MultiStepLR', by_epoch=True, milestones=[27, 33], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=32)
