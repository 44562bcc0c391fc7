"""Trained weights on their way into the model of a config."""

import pytest
import torch
from mmengine.model import BaseTTAModel
from mmengine.registry import MODELS, init_default_scope
from support.miniatures import miniature
from torch import nn

from convnext_backbones.engine.build import build_model, load_trained
from convnext_backbones.io.checkpoint import write_safetensors

CLASSES = tuple('abcdefghij')
PALETTE = [[10 * i, 0, 0] for i in range(10)]


@pytest.fixture
def segmentor(tmp_path):
    """A config, and the state dict of a trained model of it."""
    cfg = miniature('seg', tmp_path, length=2)
    init_default_scope('mmseg')
    cfg.model.data_preprocessor.pop('size')
    cfg.model.decode_head.norm_cfg = cfg.model.auxiliary_head.norm_cfg = dict(type='BN')
    return cfg, MODELS.build(cfg.model).state_dict()


def same(model: nn.Module, weights: dict) -> bool:
    state = model.state_dict()
    return state.keys() == weights.keys() and all(state[k].equal(weights[k]) for k in weights)


def test_a_published_file_brings_the_names_of_its_classes(segmentor, tmp_path):
    cfg, weights = segmentor
    path = tmp_path / 'published.safetensors'
    write_safetensors(path, weights, dict(dataset_meta=dict(classes=CLASSES, palette=PALETTE)))
    model = build_model(cfg, str(path), 'cpu')
    assert same(model, weights) and not model.training
    assert tuple(model.dataset_meta['classes']) == CLASSES
    assert model.dataset_meta['palette'] == PALETTE
    assert model.cfg is cfg


def test_without_names_the_classes_are_those_of_the_test_data(segmentor, tmp_path):
    cfg, weights = segmentor
    torch.save(weights, tmp_path / 'bare.pth')
    meta = build_model(cfg, str(tmp_path / 'bare.pth'), 'cpu').dataset_meta
    assert len(meta['classes']) == len(meta['palette']) == cfg.model.decode_head.num_classes


def test_trained_weights_that_do_not_fit_are_an_error(segmentor, tmp_path):
    cfg, weights = segmentor
    weights.pop('decode_head.conv_seg.bias')
    torch.save(dict(state_dict=weights), tmp_path / 'cut.pth')
    with pytest.raises(ValueError, match=r'1 missing \(decode_head.conv_seg.bias\)'):
        build_model(cfg, str(tmp_path / 'cut.pth'), 'cpu')


def test_wrappers_are_looked_through(segmentor, tmp_path):
    class Augmented(BaseTTAModel):
        def merge_preds(self, data_samples_list):
            return data_samples_list

    cfg, weights = segmentor
    torch.save(dict(state_dict=weights), tmp_path / 'whole.pth')
    model = Augmented(module=cfg.model)
    load_trained(model, str(tmp_path / 'whole.pth'))
    assert same(model.module, weights)


def test_other_backbones_are_loaded_as_mmengine_does(tmp_path):
    model = nn.Sequential()
    model.backbone = nn.Linear(2, 2)
    torch.save(dict(state_dict={'backbone.bias': torch.ones(2)}), tmp_path / 'other.pth')
    load_trained(model, str(tmp_path / 'other.pth'))
    assert model.backbone.bias.tolist() == [1, 1]
    with pytest.raises(FileNotFoundError, match="expected a checkpoint, found no file at 'no.pth'"):
        load_trained(model, 'no.pth')
