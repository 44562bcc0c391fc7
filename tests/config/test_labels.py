"""One line sets reduce_zero_label or ignored labels, in every dataset and every pipeline."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from support.datasets import Maps, check_files

from convnext_backbones.checks.findings import ERROR
from convnext_backbones.config.labels import set_labels
from convnext_backbones.config.loading import load_config
from convnext_backbones.config.walk import list_datasets

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
UPERNET = CONFIGS / 'upernet_convnext_t.py'


def load(path: Path = UPERNET, **overrides) -> Config:
    cfg = load_config(path, overrides)
    init_default_scope(cfg.default_scope)
    return cfg


def loaders(node) -> list[list]:
    """What precedes each LoadAnnotations in its list, and the transform itself."""
    found = []
    if isinstance(node, dict):
        found += [pair for value in node.values() for pair in loaders(value)]
    elif isinstance(node, (list, tuple)):
        for before, entry in zip([None, *node], node, strict=False):
            if isinstance(entry, dict) and entry.get('type') == 'LoadAnnotations':
                found.append([before, entry])
            found += loaders(entry)
    return found


def places(cfg: Config) -> list[list]:
    names = ('train_dataloader', 'val_dataloader', 'test_dataloader', 'tta_pipeline')
    found = [loaders(cfg[name]) for name in names]
    assert [len(pairs) for pairs in found] == [1, 1, 1, 1]
    return [pair for pairs in found for pair in pairs]


@pytest.mark.parametrize('value', [False, True])
def test_reduce_zero_label_reaches_every_place(value):
    cfg = load(reduce_zero_label=value, classes=('soil', 'crop'))
    assert all(dataset.reduce_zero_label == value for dataset in list_datasets(cfg))
    assert all(loader.get('reduce_zero_label') in (None, value) for _, loader in places(cfg))
    built = DATASETS.build(dict(cfg.train_dataloader.dataset, lazy_init=True))
    assert built.reduce_zero_label == value


def test_ignored_labels_reach_every_pipeline_once():
    cfg = load(ignore_labels=[11, 12])
    for _ in range(2):  # a saved config has the setting and its effect
        assert [before for before, _ in places(cfg)] == [
            dict(type='IgnoreLabels', labels=[11, 12])
        ] * 4
        set_labels(cfg)
    assert 'IgnoreLabels' not in str(load())
    assert load(ignore_labels=7).train_dataloader.dataset.pipeline[1].labels == [7]


def test_nothing_changes_without_the_settings():
    assert load().to_dict() == Config.fromfile(UPERNET).to_dict()


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (dict(reduce_zero_label=1), 'reduce_zero_label to be True or False, got 1'),
        (dict(ignore_labels='void'), "integers from 0 to 255, .*got 'void'"),
        (dict(ignore_labels=[256]), 'got 256'),
        (dict(ignore_labels=[True]), 'got True'),
    ],
)
def test_other_values_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        load(**overrides)


def test_a_detector_has_no_label_maps():
    with pytest.raises(ValueError, match='ignore_labels in a config of a segmentor, got it in one'):
        load(CONFIGS / 'mask_rcnn_convnext_t.py', ignore_labels=[1])


@pytest.mark.parametrize('reduce', [False, True])
def test_loaded_maps_have_255_for_ignored_labels(reduce, tmp_path):
    cv2.imwrite(str(tmp_path / 'map.png'), np.arange(6, dtype=np.uint8).reshape(2, 3))
    init_default_scope('mmseg')
    pipeline = [
        TRANSFORMS.build(dict(type='IgnoreLabels', labels=[0, 4])),
        TRANSFORMS.build(dict(type='LoadAnnotations')),
    ]
    results = dict(
        seg_map_path=str(tmp_path / 'map.png'),
        seg_fields=[],
        reduce_zero_label=reduce,
        label_map={1: 9},
    )
    for transform in pipeline:
        results = transform(results)
    expected = [255, 0, 9, 2, 255, 4] if reduce else [255, 9, 2, 3, 255, 5]
    assert results['gt_seg_map'].ravel().tolist() == expected


def test_the_check_knows_ignored_labels(tmp_path):
    maps = Maps(tmp_path)
    for number in range(1, 4):
        maps.label(f'train/{number}', 0, 1, 2, 11)
    (finding,) = [one for one in check_files(maps.config()) if one.level == ERROR]
    assert 'none of 2 classes' in finding.what and 'ignore_labels' in finding.fix
    cfg = maps.config()
    cfg.ignore_labels = [11]
    set_labels(cfg)
    assert check_files(cfg) == []
