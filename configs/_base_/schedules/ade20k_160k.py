# 160,000 iterations. Warm-up and polynomial decay both start at iteration 0 and multiply, as in the
# authors' schedule. A scheduler of mmengine reaches its last value at `end - 1`, so both ends are
# one later.
_base_ = ['./layer_decay.py', '../task_seg.py']

max_iters = 160_000
interval = 16_000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=interval)
optim_wrapper = dict(paramwise_cfg=dict(decay_type='stage_wise'))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1501),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=max_iters + 1),
]
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    learning_rate_range=dict(type='LearningRateRangeHook'),
    checkpoint=dict(by_epoch=False, interval=interval),
)
