"""Every config loads, builds, and agrees with the backbone, its classes and its file name."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(p for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts)
MODEL_TYPES = {'mask_rcnn': 'MaskRCNN', 'upernet': 'EncoderDecoder'}


def heads(node):
    """Every dict below ``node`` that has a ``num_classes``."""
    if isinstance(node, dict):
        if 'num_classes' in node:
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from heads(child)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_builds_and_agrees(path):
    cfg = Config.fromfile(path)
    name, _, _ = path.stem.partition('_convnext_')
    assert cfg.model.type == MODEL_TYPES[name]
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    channels = list(model.backbone.out_channels)
    if model.__class__.__name__ == 'MaskRCNN':
        assert cfg.model.neck.in_channels == channels
        strides = list(model.backbone.out_strides)
        assert cfg.model.roi_head.bbox_roi_extractor.featmap_strides == strides
    else:
        assert cfg.model.decode_head.in_channels == channels
        stage = cfg.model.auxiliary_head.in_index
        assert cfg.model.auxiliary_head.in_channels == channels[stage]
    classes = cfg.train_dataloader.dataset.metainfo.classes
    assert classes == cfg.val_dataloader.dataset.metainfo.classes
    assert {head.num_classes for head in heads(cfg.model)} == {len(classes)}


def test_there_is_a_detector_and_a_segmentor():
    assert {path.stem.partition('_convnext_')[0] for path in CONFIGS} == set(MODEL_TYPES)
