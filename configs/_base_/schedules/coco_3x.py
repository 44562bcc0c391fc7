# 36 epochs. A scheduler of mmengine reaches its last value at `end - 1`, so the warm-up ends one
# iteration later than the authors' 500.
_base_ = ['./layer_decay.py', '../task_det.py']

max_epochs = 36
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
optim_wrapper = dict(paramwise_cfg=dict(decay_type='layer_wise'))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=501),
    dict(type='MultiStepLR', by_epoch=True, milestones=[27, 33], gamma=0.1),
]
default_hooks = dict(learning_rate_range=dict(type='LearningRateRangeHook'))
