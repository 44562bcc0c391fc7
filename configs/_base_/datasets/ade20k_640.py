# ADE20K at 640 x 640, the size for models pretrained on ImageNet-22K.
_base_ = ['./ade20k.py']

size = 640
crop_size = (size, size)
scale = (4 * size, size)
train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = scale
train_pipeline[3].crop_size = crop_size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = scale
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0] = [
    dict(type='Resize', scale=tuple(int(side * r) for side in scale), keep_ratio=True)
    for r in _base_.tta_ratios
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
