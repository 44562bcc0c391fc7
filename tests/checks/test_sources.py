"""The datasets of a config, and reading their files."""

import os
from copy import deepcopy

from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from support.datasets import (
    check_files,
)

from convnext_backbones.checks.findings import ERROR
from convnext_backbones.checks.sources import build_sources
from convnext_backbones.io.files import leaves_root


def test_systems_without_affinity(coco, monkeypatch):
    monkeypatch.delattr(os, 'sched_getaffinity')  # Linux only
    assert check_files(coco.config()) == []


def test_what_leaves_a_root(tmp_path):
    root = str(tmp_path / 'data')
    for inside in ('a.jpg', 'a/../b.jpg', str(tmp_path / 'data/c/d.jpg')):
        assert not leaves_root(os.path.join(root, inside), root)
    for outside in ('..', '../data2/a.jpg', 'a/../../b.jpg', '/etc/passwd', str(tmp_path)):
        assert leaves_root(os.path.join(root, outside), root)


def test_a_dataset_that_two_splits_share_is_checked_once(coco):
    cfg = coco.config()
    cfg.test_dataloader = deepcopy(cfg.val_dataloader)
    with DefaultScope.overwrite_default_scope('mmdet'):
        sources, _ = build_sources(cfg, ('train', 'val', 'test'))
    assert [source.split for source in sources] == ['train', 'val']


def test_wrappers_are_looked_through(coco):
    cfg = coco.config()
    cfg.train_dataloader.dataset = ConfigDict(
        type='RepeatDataset',
        times=2,
        dataset=dict(
            type='ConcatDataset', datasets=[coco.dataset('train'), coco.dataset('val', typo=1)]
        ),
    )
    finding, *_ = check_files(cfg)
    assert finding.where == 'train_dataloader.dataset.dataset.datasets.1'
    assert finding.level == ERROR and "unexpected keyword argument 'typo'" in finding.what
