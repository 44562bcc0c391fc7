"""Healthy datasets, and configs of miniatures that train on them."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from support.datasets import (
    CLASSES,
    SPLITS,
    Coco,
    Maps,
)
from support.miniatures import leave_configs_unformatted, miniature

from convnext_backbones.engine.build import build_on_meta


@pytest.fixture
def coco(tmp_path):
    return Coco(tmp_path / 'coco')


@pytest.fixture
def maps(tmp_path):
    return Maps(tmp_path / 'maps')


def on_healthy_data(task: str, data, work_dir: Path, length: int) -> Config:
    """A miniature detector or segmentor whose datasets are those of ``data``."""
    cfg = miniature(task, work_dir, length=length)
    healthy = data.config()
    for split in SPLITS:
        cfg[f'{split}_dataloader'].dataset = healthy[f'{split}_dataloader'].dataset
    cfg.pop('test_dataloader')
    cfg.auto_scale_lr.base_batch_size = 2
    return cfg


@pytest.fixture
def det(coco, tmp_path) -> Config:
    cfg = on_healthy_data('det', coco, tmp_path / 'work', length=1)
    cfg.val_evaluator.ann_file = str(coco.folder / 'val.json')
    for name in ('bbox_head', 'mask_head'):
        cfg.model.roi_head[name].num_classes = len(CLASSES)
    return cfg


@pytest.fixture
def seg(maps, tmp_path) -> Config:
    cfg = on_healthy_data('seg', maps, tmp_path / 'work', length=2)
    for name in ('decode_head', 'auxiliary_head'):
        cfg.model[name].num_classes = len(CLASSES)
    return cfg


@pytest.fixture
def model(det) -> torch.nn.Module:
    return build_on_meta(det)


@pytest.fixture
def no_weights_here(tmp_path, monkeypatch):
    monkeypatch.setenv('CONVNEXT_BACKBONES_CACHE', str(tmp_path / 'cache'))
    monkeypatch.delenv('CONVNEXT_BACKBONES_WEIGHTS', raising=False)
    monkeypatch.delenv('CONVNEXT_BACKBONES_OFFLINE', raising=False)


@pytest.fixture
def saved(det, tmp_path, monkeypatch) -> Path:
    """The detector's config as a file."""
    leave_configs_unformatted(monkeypatch)
    monkeypatch.chdir(tmp_path)
    det.dump('config.py')
    return tmp_path / 'config.py'
