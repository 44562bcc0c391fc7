"""The thirteen recipes are the authors': every figure typed here once more, from their files."""

import importlib
import math
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, TRANSFORMS, init_default_scope

from convnext_backbones.experiments import EXPERIMENTS, settings
from convnext_backbones.weights.zoo import PUBLISHED

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
CDN = 'https://dl.fbaipublicfiles.com/convnext'

# name: depth of stage 3, first width, drop path, lr, decay rate, the authors' num_layers, AMP,
# pretrained file
RECIPES = {
    'mask_rcnn_convnext_t': (9, 96, 0.4, 1e-4, 0.95, 6, True, 'tiny_1k'),
    'cascade_mask_rcnn_convnext_t': (9, 96, 0.4, 2e-4, 0.7, 6, True, 'tiny_1k'),
    'cascade_mask_rcnn_convnext_s': (27, 96, 0.6, 2e-4, 0.7, 12, True, 'small_1k'),
    'cascade_mask_rcnn_convnext_b': (27, 128, 0.7, 2e-4, 0.8, 12, True, 'base_1k'),
    'cascade_mask_rcnn_convnext_b_in22k': (27, 128, 0.6, 1e-4, 0.8, 12, True, 'base_22k'),
    'cascade_mask_rcnn_convnext_l_in22k': (27, 192, 0.7, 1e-4, 0.7, 12, False, 'large_22k'),
    'cascade_mask_rcnn_convnext_xl_in22k': (27, 256, 0.8, 1e-4, 0.7, 12, False, 'xlarge_22k'),
    'upernet_convnext_t': (9, 96, 0.4, 1e-4, 0.9, 6, True, 'tiny_1k'),
    'upernet_convnext_s': (27, 96, 0.3, 1e-4, 0.9, 12, True, 'small_1k'),
    'upernet_convnext_b': (27, 128, 0.4, 1e-4, 0.9, 12, True, 'base_1k'),
    'upernet_convnext_b_in22k': (27, 128, 0.4, 1e-4, 0.9, 12, True, 'base_22k'),
    'upernet_convnext_l_in22k': (27, 192, 0.4, 1e-4, 0.9, 12, False, 'large_22k'),
    'upernet_convnext_xl_in22k': (27, 256, 0.4, 8e-5, 0.9, 12, False, 'xlarge_22k'),
}
DETECTORS = [name for name in RECIPES if not name.startswith('upernet')]
SEGMENTORS = [name for name in RECIPES if name.startswith('upernet')]


def load(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


@pytest.mark.parametrize('name', RECIPES)
def test_recipe(name):
    depth, width, drop_path, lr, decay_rate, _, amp, weights = RECIPES[name]
    cfg = load(name)
    backbone = cfg.model.backbone
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        variant = MODELS.build(backbone).variant
    assert variant.depths == (3, 3, depth, 3)
    assert variant.dims == (width, 2 * width, 4 * width, 8 * width)
    assert backbone.drop_path_rate == drop_path
    assert backbone.layer_scale_init_value == 1.0
    assert PUBLISHED[backbone.init_cfg.checkpoint].url == f'{CDN}/convnext_{weights}_224.pth'
    optim = cfg.optim_wrapper
    assert optim.optimizer == dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.05)
    assert optim.paramwise_cfg.decay_rate == decay_rate
    assert optim.type == ('AmpOptimWrapper' if amp else 'OptimWrapper')
    assert set(optim) == {'type', 'optimizer', 'constructor', 'paramwise_cfg'}  # no clipping
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert cfg.default_hooks.learning_rate_range.type == 'LearningRateRangeHook'


@pytest.mark.parametrize('name', DETECTORS)
def test_coco_recipe(name):
    cfg = load(name)
    assert cfg.optim_wrapper.paramwise_cfg.decay_type == 'layer_wise'
    assert cfg.train_cfg == dict(type='EpochBasedTrainLoop', max_epochs=36, val_interval=1)
    assert cfg.default_hooks.checkpoint.interval == 1
    flip, branches = cfg.train_pipeline[2:4]
    assert flip == dict(type='RandomFlip', prob=0.5)
    (whole,), (small, crop, again) = branches.transforms
    shorts = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert whole == again
    assert whole.scales == [(1333, short) for short in shorts]
    assert small.scales == [(1333, 400), (1333, 500), (1333, 600)]
    assert whole.keep_ratio and small.keep_ratio
    assert (crop.crop_type, crop.crop_size) == ('absolute_range', (384, 600))
    assert crop.allow_negative_crop
    assert cfg.test_pipeline[1] == dict(type='Resize', scale=(1333, 800), keep_ratio=True)
    assert cfg.val_evaluator.metric == ['bbox', 'segm']


def test_cascade_heads():
    model = load('cascade_mask_rcnn_convnext_t').model
    head = model.roi_head
    assert head.num_stages == 3 and head.stage_loss_weights == [1, 0.5, 0.25]
    stds = [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]
    assert [box.bbox_coder.target_stds for box in head.bbox_head] == stds
    for box in head.bbox_head:
        assert (box.type, box.num_shared_convs, box.num_shared_fcs) == ('ConvFCBBoxHead', 4, 1)
        assert box.norm_cfg.type == 'SyncBN'
        assert not box.reg_class_agnostic and box.reg_decoded_bbox
        assert box.loss_bbox == dict(type='GIoULoss', loss_weight=10.0)
    for stage, overlap in zip(model.train_cfg.rcnn, (0.5, 0.6, 0.7), strict=True):
        assigner = stage.assigner
        assert (assigner.pos_iou_thr, assigner.neg_iou_thr, assigner.min_pos_iou) == (overlap,) * 3
        assert not assigner.match_low_quality
        assert (stage.sampler.num, stage.sampler.pos_fraction) == (512, 0.25)
    assert model.rpn_head.loss_bbox == dict(type='SmoothL1Loss', beta=1 / 9, loss_weight=1.0)
    assert model.train_cfg.rpn.allowed_border == 0
    assert model.train_cfg.rpn_proposal.max_per_img == 2000
    assert model.test_cfg.rcnn.score_thr == 0.05


def test_cascade_heads_are_those_of_mmdet():
    """Field by field: mmdet ships the same heads for Cascade T."""
    name = 'cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py'
    path = Path(mmdet.__file__).parent / '.mim/configs/convnext' / name
    theirs = Config.fromfile(path, import_custom_modules=False).model
    ours = load('cascade_mask_rcnn_convnext_t').model
    for part in set(ours) - {'backbone'}:
        assert ours[part] == theirs[part], part


@pytest.mark.parametrize('name', SEGMENTORS)
def test_ade20k_recipe(name):
    cfg = load(name)
    size, stride = (640, 426) if name.endswith('in22k') else (512, 341)
    assert cfg.optim_wrapper.paramwise_cfg.decay_type == 'stage_wise'
    loop = dict(type='IterBasedTrainLoop', max_iters=160_000, val_interval=16_000)
    assert cfg.train_cfg == loop
    assert cfg.default_hooks.checkpoint.interval == 16_000
    assert cfg.model.data_preprocessor.size == (size, size)
    assert cfg.model.test_cfg.mode == 'slide'
    assert cfg.model.test_cfg.crop_size == (size, size)
    assert cfg.model.test_cfg.stride == (stride, stride)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        load_labels = next(t for t in loader.dataset.pipeline if t.type == 'LoadAnnotations')
        assert load_labels.reduce_zero_label
    _, _, resize, crop, flip, distort, _ = cfg.train_dataloader.dataset.pipeline
    assert resize.scale == (4 * size, size) and resize.ratio_range == (0.5, 2.0)
    assert crop == dict(type='RandomCrop', crop_size=(size, size), cat_max_ratio=0.75)
    assert flip == dict(type='RandomFlip', prob=0.5)
    assert distort == dict(type='PhotoMetricDistortion')
    nominal = dict(type='Resize', scale=(4 * size, size), keep_ratio=True)
    assert cfg.val_dataloader.dataset.pipeline[1] == nominal
    assert cfg.test_dataloader.dataset.pipeline[1] == nominal
    sizes = [resize.scale for resize in cfg.tta_pipeline[1].transforms[0]]
    ratios = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    assert sizes == [(int(4 * size * ratio), int(size * ratio)) for ratio in ratios]
    assert cfg.tta_test_cfg == dict(mode='whole')
    init_default_scope('mmseg')
    assert TRANSFORMS.build(cfg.tta_pipeline[1])


def test_upernet_heads():
    model = load('upernet_convnext_b').model
    decode, auxiliary = model.decode_head, model.auxiliary_head
    assert (decode.type, decode.channels, decode.pool_scales) == ('UPerHead', 512, (1, 2, 3, 6))
    assert (auxiliary.type, auxiliary.channels, auxiliary.num_convs) == ('FCNHead', 256, 1)
    assert (auxiliary.in_index, auxiliary.in_channels) == (2, 512)
    assert not auxiliary.concat_input
    for head, weight in ((decode, 1.0), (auxiliary, 0.4)):
        assert (head.num_classes, head.dropout_ratio, head.norm_cfg.type) == (150, 0.1, 'SyncBN')
        assert head.loss_decode.loss_weight == weight
        assert not head.align_corners


@pytest.mark.parametrize('name', RECIPES)
def test_groups_are_those_of_the_toolbox_with_the_authors_settings(name):
    cfg = load(name)
    _, _, _, lr, decay_rate, num_layers, _, _ = RECIPES[name]
    init_default_scope(cfg.default_scope)
    importlib.import_module(f'{cfg.default_scope}.engine.optimizers')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    ours = build_optim_wrapper(model, dict(cfg.optim_wrapper, type='OptimWrapper')).optimizer
    decay_type = 'layer_wise' if name in DETECTORS else 'stage_wise'
    theirs = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.05),
            constructor='LearningRateDecayOptimizerConstructor',
            paramwise_cfg=dict(decay_rate=decay_rate, decay_type=decay_type, num_layers=num_layers),
        ),
    ).optimizer
    assert len(ours.param_groups) == len(theirs.param_groups)
    for our, their in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert our['group_name'] == their['group_name']
        assert our['param_names'] == their['param_names']
        assert [id(p) for p in our['params']] == [id(p) for p in their['params']]
        assert our['betas'] == their['betas']
        for key in ('lr', 'lr_scale', 'weight_decay'):
            assert our[key] == pytest.approx(their[key], rel=1e-12)


def coco_rate(iteration: int, epoch: int) -> float:
    """The authors' factor of the learning rate, as mmcv 1.x computed it."""
    warmup = 1 - (1 - iteration / 500) * (1 - 0.001) if iteration < 500 else 1.0
    return warmup * 0.1 ** sum(epoch >= milestone for milestone in (27, 33))


def ade20k_rate(iteration: int) -> float:
    """The authors' factor of the learning rate, as mmcv 1.x computed it."""
    warmup = 1 - (1 - iteration / 1500) * (1 - 1e-6) if iteration < 1500 else 1.0
    return warmup * (1 - iteration / 160_000)


def schedulers(cfg: Config) -> tuple[torch.optim.Optimizer, list, list]:
    """An optimizer of rate 1 with the schedulers of ``cfg``: by iteration, by epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    built = [PARAM_SCHEDULERS.build(dict(s, optimizer=optimizer)) for s in cfg.param_scheduler]
    by_iteration = [s for s in built if not s.by_epoch]
    return optimizer, by_iteration, [s for s in built if s.by_epoch]


def test_coco_learning_rate_at_every_iteration():
    optimizer, by_iteration, by_epoch = schedulers(load('cascade_mask_rcnn_convnext_t'))
    iterations = math.ceil(117_266 / 16)  # images of train2017 with objects, per epoch
    optimizer.step()  # torch warns of a scheduler that steps first
    for epoch in range(36):
        for batch in range(iterations):
            expected = coco_rate(epoch * iterations + batch, epoch)
            rate = optimizer.param_groups[0]['lr']
            assert abs(rate - expected) <= 1e-9 * expected, (epoch, batch)
            for scheduler in by_iteration:
                scheduler.step()
        for scheduler in by_epoch:
            scheduler.step()


def test_ade20k_learning_rate_at_every_iteration():
    optimizer, by_iteration, by_epoch = schedulers(load('upernet_convnext_t'))
    assert not by_epoch
    optimizer.step()
    for iteration in range(160_000):
        expected = ade20k_rate(iteration)
        rate = optimizer.param_groups[0]['lr']
        assert abs(rate - expected) <= 1e-9 * expected, iteration
        for scheduler in by_iteration:
            scheduler.step()


def test_the_schedule_is_the_same_in_every_recipe():
    for names in (DETECTORS, SEGMENTORS):
        assert len({str(load(name).param_scheduler) for name in names}) == 1


def test_all_weights_are_published():
    for name, experiment in EXPERIMENTS.items():
        folder = 'ade20k' if name in SEGMENTORS else 'coco'
        assert PUBLISHED[experiment.finetuned].url == f'{CDN}/{folder}/{experiment.finetuned}.pth'


def test_an_unknown_experiment_is_refused():
    with pytest.raises(ValueError, match="expected one of mask_rcnn_convnext_t, .* got 'resnet'"):
        settings('resnet')
