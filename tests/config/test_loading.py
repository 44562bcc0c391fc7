"""Config files become configs for a tool, or one sentence says why not."""

import pytest
from mmengine.config import Config
from support.miniatures import CONFIGS

from convnext_backbones.config.flags import config_parser
from convnext_backbones.config.loading import load_config, load_run_config


def overridden(*options: str) -> Config:
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


def test_a_config_for_a_run_says_where_and_how():
    cfg = load_run_config(CONFIGS['seg'], {'model.decode_head.channels': 8})
    assert cfg.model.decode_head.channels == 8
    assert (cfg.launcher, cfg.work_dir) == ('none', 'work_dirs/upernet_convnext_sample')
    cfg = load_run_config(CONFIGS['seg'], {'work_dir': 'a'}, 'slurm')
    assert (cfg.launcher, cfg.work_dir) == ('slurm', 'a')
    assert load_run_config(CONFIGS['seg'], {'work_dir': 'a'}, work_dir='b').work_dir == 'b'


def test_a_config_alone_has_no_run():
    cfg = load_config(CONFIGS['seg'])
    assert 'launcher' not in cfg and 'work_dir' not in cfg


@pytest.mark.parametrize('load', [load_config, load_run_config])
@pytest.mark.parametrize('name', ['none.py', 'none.json'])
def test_a_missing_config_is_named(load, name):
    with pytest.raises(FileNotFoundError, match=f"expected a config file, found none at '{name}'"):
        load(name)


def test_plain_data_cannot_be_trained(tmp_path):
    path = tmp_path / 'plain.json'
    path.write_text('{}')
    with pytest.raises(ValueError, match='expected a Python config to train .*plain.json'):
        load_run_config(path)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', "expected a config with default_scope='mmdet' or 'mmseg', got None in"),
        ("default_scope = 'mmdet'", 'expected a config with a model, found none in'),
        ('1 / 0', r'overrides ask for: ZeroDivisionError: .* \(raised in .*, line 1\)'),
    ],
)
def test_what_is_no_config_is_said(text, message, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(path)
