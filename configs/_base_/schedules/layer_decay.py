# The authors' optimizer: AdamW with learning rates that decrease towards the backbone's input.
# Each config sets the base rate and the decay rate; both schedules are for 16 images per step.
optim_wrapper = dict(
    optimizer=dict(type='AdamW', betas=(0.9, 0.999), weight_decay=0.05),
    constructor='ConvNeXtLayerDecayConstructor',
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
