# Boxes of one's own. tools/new_config.py writes configs over this base; they set files, sizes,
# batches and the length, and take model and optimizer from a head by name.
_base_ = ['../task_det.py']

scale = (1333, 800)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=scale, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=scale[::-1]),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    # Images of one orientation are padded least. A last batch of one image would break batch norms.
    batch_sampler=dict(type='AspectRatioBatchSampler', drop_last=True),
    dataset=dict(
        type='CocoDataset', filter_cfg=dict(filter_empty_gt=True), pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CocoDataset', test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', metric=['bbox'])
test_evaluator = val_evaluator

train_cfg = dict(type='EpochBasedTrainLoop')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
warm_up = dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0)
decay = dict(type='CosineAnnealingLR', by_epoch=True, begin=0, convert_to_iter_based=True)
param_scheduler = [warm_up, decay]
default_hooks = dict(
    learning_rate_range=dict(type='LearningRateRangeHook'),
    checkpoint=dict(save_best='auto', max_keep_ckpts=2),
)
