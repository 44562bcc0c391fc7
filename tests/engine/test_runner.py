"""Runners are built from configs, or one sentence says which entry is wrong."""

import pytest
from support.miniatures import CONFIGS

from convnext_backbones.config.flags import config_parser
from convnext_backbones.config.loading import load_config
from convnext_backbones.engine.runner import backbone_starts_from_scratch, build_runner


def overridden(*options: str):
    args = config_parser('').parse_args([str(CONFIGS['seg']), '--cfg-options', *options])
    return load_config(args.config, args.cfg_options)


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


@pytest.mark.parametrize(
    ('option', 'scratch'),
    [
        ('resume=False', True),
        ('resume=True', False),
        ('load_from=a.pth', False),
        ('model.backbone.init_cfg.checkpoint=a.pth', False),
    ],
)
def test_random_weights_are_noticed(option, scratch):
    assert backbone_starts_from_scratch(overridden(option)) is scratch
