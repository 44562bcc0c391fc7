"""Trained weights on their way into the model of a config."""

import pytest
import torch
from mmengine.model import BaseTTAModel
from mmengine.registry import MODELS, init_default_scope
from support.miniatures import CONFIGS, miniature
from torch import nn

from convnext_backbones.config.flags import config_parser
from convnext_backbones.config.loading import load_config
from convnext_backbones.engine.build import build_model, load_trained
from convnext_backbones.engine.runner import build_runner
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


def overridden(*options: str):
    args = config_parser('').parse_args([str(CONFIGS['seg']), '--cfg-options', *options])
    return load_config(args.config, args.cfg_options)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('optim_wrapper=3', 'expected optim_wrapper in the config to be a dict, got 3'),
        (
            'model.backbone=ResNet',
            "model.backbone in the config to be a dict, got 'ResNet'",
        ),
        ('custom_hooks=[a]', r"custom_hooks in the config to be a list .* got \['a'\]"),
        ('tta_pipeline.99=1', 'overrides ask for: KeyError: .*Index 99 exceeds the length'),
        ('model.type.a=1', 'overrides ask for: TypeError: type=.*raised in .*config.py, line'),
    ],
)
def test_overrides_that_do_not_fit_get_one_sentence(option, message):
    with pytest.raises(ValueError, match=message) as error:
        overridden(option)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('model.backbone.type=Nonsense', 'overrides ask for: KeyError: .*Nonsense is not in the'),
        ('model.backbone.deep=1', "TypeError: .* unexpected keyword argument 'deep'"),
        ('model.backbone.in_chans=a', "TypeError: expected in_chans to be an integer .* got 'a'"),
        ('model.decode_head.channels=None', 'TypeError: .*raised in '),
        ('train_dataloader=None', 'train_dataloader, train_cfg, and optim_wrapper'),
    ],
)
def test_what_cannot_be_built_gets_one_sentence(option, message, tmp_path):
    cfg = overridden(option, f'work_dir={tmp_path}')
    cfg.launcher = 'none'
    with pytest.raises(ValueError, match=message) as error:
        build_runner(cfg)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('option', ['model', 'a=[1,(2]', 'a=((1,2)'])
def test_an_override_that_cannot_be_parsed_is_an_error_of_usage(option, capsys):
    with pytest.raises(SystemExit) as error:
        overridden(option)
    assert error.value.code == 2
    assert f'expected KEY=VALUE with paired brackets, got {option!r}' in capsys.readouterr().err
