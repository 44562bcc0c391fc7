"""Every config loads, builds, agrees with the backbone, its classes and its file name, and runs.

The recipes themselves are tested in test_experiments.py.
"""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, MODELS, init_default_scope
from support.miniatures import leave_configs_unformatted

from convnext_backbones import ConvNeXtClassifier, recipes
from convnext_backbones.config.walk import walk
from convnext_backbones.engine.runner import build_runner
from convnext_backbones.experiments import EXPERIMENTS, summary
from convnext_backbones.recipes import RECIPES, config_of
from convnext_backbones.weights.published import find_published

ROOT = Path(__file__).resolve().parents[2]
# Those below configs/heads are tested in test_head_configs.py, those below configs/roadmap in
# test_roadmap_configs.py.
CONFIGS = sorted(
    path
    for path in (ROOT / 'configs').rglob('*.py')
    if not {'_base_', 'heads', 'roadmap'} & {*path.parts}
)
PUBLISHED_CONFIGS = [path for path in CONFIGS if path.parent.name == 'configs']
OUR_CONFIGS = [path for path in CONFIGS if path.parent.name in ('convnextv2', 'dinov3')]
# One of each family and of each kind of data set; the others run with the slow tests.
QUICK = ('mask_rcnn_convnextv2_t', 'upernet_dinov3_convnext_t')
MODEL_TYPES = {
    'mask_rcnn': 'MaskRCNN',
    'cascade_mask_rcnn': 'CascadeRCNN',
    'upernet': 'EncoderDecoder',
}

# The keys that set how wide the heads are: 256 to 1024 in the recipes.
WIDTHS = {
    'in_channels',
    'out_channels',
    'feat_channels',
    'conv_out_channels',
    'fc_out_channels',
    'channels',
}


def dicts(node):
    """Every dict below ``node``, itself included."""
    return [part for _, part in walk(node)]


def method(path: Path) -> str:
    return re.split(r'_(?:dinov3_)?convnext(?:v2)?_', path.stem)[0]


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_builds_and_agrees(path):
    cfg = Config.fromfile(path)
    assert cfg.model.type == MODEL_TYPES[method(path)]
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    channels = list(model.backbone.out_channels)
    if cfg.default_scope == 'mmdet':
        assert cfg.model.neck.in_channels == channels
        strides = list(model.backbone.out_strides)
        assert cfg.model.roi_head.bbox_roi_extractor.featmap_strides == strides
    else:
        assert cfg.model.decode_head.in_channels == channels
        stage = cfg.model.auxiliary_head.in_index
        assert cfg.model.auxiliary_head.in_channels == channels[stage]
    classes = set()
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        dataset = loader.dataset
        dataset_class = DATASETS.get(f'{cfg.default_scope}.{dataset.type}')
        metainfo = dataset.get('metainfo') or dataset_class.METAINFO
        classes.add(tuple(metainfo['classes']))
    (classes,) = classes
    heads = {node['num_classes'] for node in dicts(cfg.model) if 'num_classes' in node}
    assert heads == {len(classes)}


def test_there_is_a_sample_of_each_task_and_a_config_of_each_experiment():
    samples = {method(path) for path in CONFIGS if path.parent.name == 'sample'}
    assert samples == {'mask_rcnn', 'upernet'}
    assert {path.stem for path in PUBLISHED_CONFIGS} == set(EXPERIMENTS)
    assert {str(path.relative_to(ROOT / 'configs')) for path in OUR_CONFIGS} == set(
        map(config_of, RECIPES)
    )


@pytest.mark.parametrize('path', PUBLISHED_CONFIGS, ids=lambda path: path.stem)
def test_a_published_config_states_only_its_own(path):
    assert len(path.read_text().splitlines()) <= 15
    assert f"settings('{path.stem}')" in path.read_text()


@pytest.mark.parametrize('path', PUBLISHED_CONFIGS, ids=lambda path: path.stem)
def test_a_published_config_begins_with_its_row_of_the_table(path):
    line = path.read_text().splitlines()[0]
    assert line == f'# {summary(path.stem)}'
    # The line tells what is built.
    cfg = Config.fromfile(path)
    assert f'lr {cfg.optim_wrapper.optimizer.lr:.0e}'.replace('e-0', 'e-') in line
    assert f'decay {cfg.optim_wrapper.paramwise_cfg.decay_rate}, ' in line
    assert f'drop path {cfg.model.backbone.drop_path_rate}, ' in line
    assert ('ImageNet-22K' in line) == ('22k' in cfg.model.backbone.init_cfg.checkpoint)
    sides = cfg.model.test_cfg.get('crop_size') or cfg.test_pipeline[1].scale
    assert line.endswith('{} x {}'.format(*sides))


@pytest.mark.parametrize('path', OUR_CONFIGS, ids=lambda path: path.stem)
def test_a_config_of_ours_says_so_and_is_its_row_of_the_table(path):
    lines = path.read_text().splitlines()
    assert lines[:2] == [f'# {line}' for line in recipes.summary(path.stem).splitlines()]
    assert 'not measured' in lines[0] and len(lines) <= 15
    assert f"settings('{path.stem}')" in lines[-1]
    cfg, row = Config.fromfile(path), RECIPES[path.stem]
    assert cfg.model.backbone.get('use_grn', False) == row.use_grn == ('v2' in path.stem)
    assert cfg.model.backbone.init_cfg.checkpoint == row.weights
    assert find_published(row.weights).backbone_options() == (
        dict(arch=row.arch, use_grn=True) if row.use_grn else dict(arch=row.arch)
    )
    jittered = row.use_grn and row.method == 'Mask R-CNN'
    assert cfg.auto_scale_lr.base_batch_size == (32 if jittered else 16)
    assert ('FilterAnnotations' in str(cfg.train_pipeline)) == jittered
    if cfg.default_scope == 'mmdet':
        assert cfg.model.test_cfg.rcnn.nms.type == ('soft_nms' if jittered else 'nms')
        assert cfg.model.test_cfg.rcnn.nms.iou_threshold == 0.5


@pytest.fixture(scope='module')
def data_root(tmp_path_factory) -> Path:
    """Three images in COCO's layout and in ADE20K's, with classes of each."""
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(3):
        picture = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        labels = np.zeros((96, 128), np.uint8)  # 0 is what ADE20K leaves unlabeled
        labels[:48] = 17
        labels[60:, 40:] = 150
        for split in ('train2017', 'val2017', 'images/training', 'images/validation'):
            (root / split).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / split / f'{number}.jpg'), picture)
        for split in ('annotations/training', 'annotations/validation'):
            (root / split).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / split / f'{number}.png'), labels)
        images.append(dict(id=number, file_name=f'{number}.jpg', width=128, height=96))
        for box, category in (((8, 8, 60, 50), 1), ((50, 30, 70, 60), 80)):
            x, y, w, h = box
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=category,
                    bbox=list(box),
                    area=w * h,
                    iscrowd=0,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )
            )
    names = DATASETS.get('mmdet.CocoDataset').METAINFO['classes']
    categories = [dict(id=i, name=name) for i, name in enumerate(names, start=1)]
    for split in ('train', 'val'):
        path = root / 'annotations' / f'instances_{split}2017.json'
        path.write_text(
            json.dumps(dict(images=images, annotations=annotations, categories=categories))
        )
    return root


def reduce(cfg: Config, arch: dict, data_root: Path) -> None:
    """Make ``cfg`` small enough for one step on a CPU: the network, its images, its proposals."""
    dims = list(arch['dims'])
    cfg.model.backbone.arch = arch
    cfg.default_hooks.checkpoint.interval = -1
    for node in dicts(cfg.model):
        for key in WIDTHS & set(node):
            node[key] = 32
    if cfg.default_scope == 'mmdet':
        cfg.model.neck.in_channels = dims
        cfg.model.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=20)
        cfg.model.test_cfg.rpn.update(nms_pre=50, max_per_img=20)
        cfg.model.test_cfg.rcnn.score_thr = 0.0  # one step is not enough for the recipe's 0.05
        for node in dicts(cfg.model.train_cfg):
            if node.get('type') == 'RandomSampler':
                node['num'] = 16
        cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
    else:
        cfg.model.decode_head.in_channels = dims
        cfg.model.auxiliary_head.in_channels = dims[2]
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1, val_interval=1)
        for node in (cfg.model.data_preprocessor, cfg.model.test_cfg):
            for key in {'size', 'crop_size', 'stride'} & set(node):
                node[key] = tuple(side // 8 for side in node[key])
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(data_root)
        for node in dicts(loader.dataset.pipeline):
            for key in {'scale', 'crop_size'} & set(node):
                node[key] = tuple(side // 8 for side in node[key])
            if 'scales' in node:
                node['scales'] = [tuple(side // 8 for side in scale) for scale in node['scales']]
    if cfg.default_scope == 'mmdet':
        cfg.val_evaluator.ann_file = f'{data_root}/annotations/instances_val2017.json'


class FirstWeights(Hook):
    """Keeps one tensor of the backbone as training finds it."""

    def before_train(self, runner):
        self.tensor = runner.model.backbone.stages[2][1].pwconv1.weight.detach().clone()


@pytest.mark.parametrize(
    'path',
    [
        *PUBLISHED_CONFIGS,
        *(
            path if path.stem in QUICK else pytest.param(path, marks=pytest.mark.slow)
            for path in OUR_CONFIGS
        ),
    ],
    ids=lambda path: path.stem,
)
def test_one_step_and_one_prediction(path, data_root, miniature, tmp_path, monkeypatch):
    """The real Runner: weights by name, pipelines, losses, optimizer, validation, at small size."""
    cfg = Config.fromfile(path)
    reduce(cfg, miniature, data_root)
    weights = ConvNeXtClassifier(
        miniature, use_grn=cfg.model.backbone.get('use_grn', False)
    ).state_dict()
    name = cfg.model.backbone.init_cfg.checkpoint.rpartition('/')[2]
    for suffix in ('.pt', '.pth'):  # that of V2's files, and of all others
        torch.save({'model': weights}, tmp_path / f'{name}{suffix}')
    monkeypatch.setenv('CONVNEXT_BACKBONES_WEIGHTS', str(tmp_path))
    leave_configs_unformatted(monkeypatch)
    cfg.work_dir = str(tmp_path)
    runner = build_runner(cfg)
    first = FirstWeights()
    runner.register_hook(first)
    runner.train()
    assert torch.equal(first.tensor, weights['stages.2.1.pwconv1.weight'])
    history = runner.message_hub.log_scalars
    assert np.isfinite(history['train/loss'].current())
    metric = 'coco/bbox_mAP' if cfg.default_scope == 'mmdet' else 'mIoU'
    assert f'val/{metric}' in history
