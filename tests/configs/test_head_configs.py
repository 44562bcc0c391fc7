"""The ready configs of other heads: each is its row of the table, trains a step and predicts."""

import importlib
from pathlib import Path

import pytest

from convnext_backbones.config.heads import SHORT
from convnext_backbones.config.loading import load_config
from convnext_backbones.engine.build import build_on_meta
from convnext_backbones.recipes import HEAD_RECIPES, config_of, head_summary
from convnext_backbones.weights.published import find_published, preprocessing
from dev.exchanged_heads import problems
from dev.exchanged_training import try_out
from dev.shipped_configs import group_of_one

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
# One of each task; the others run with the slow tests.
QUICK = ('retinanet_convnext_t', 'pspnet_convnext_t')


def test_there_is_a_config_for_each_row_and_no_other():
    files = {path.stem for path in (CONFIGS / 'heads').glob('*.py')}
    assert files == set(HEAD_RECIPES)
    assert {one.head for one in HEAD_RECIPES.values()} == set(SHORT)
    with pytest.raises(ValueError, match='expected one of faster_rcnn_convnext_t'):
        head_summary('no')


@pytest.mark.parametrize('name', HEAD_RECIPES)
def test_a_config_says_what_it_builds(name):
    path, row = CONFIGS / config_of(name), HEAD_RECIPES[name]
    lines = path.read_text().splitlines()
    assert lines[0] == f'# {head_summary(name)}' and len(lines) <= 15
    cfg = load_config(path)
    backbone = cfg.model.backbone
    assert (backbone.type, backbone.arch) == ('ConvNeXt', row.arch)
    assert backbone.init_cfg.checkpoint == row.weights
    assert find_published(row.weights).backbone_options() == dict(arch=row.arch)
    assert cfg.model.data_preprocessor.mean == preprocessing(row.weights)['mean']
    rate = f'{cfg.optim_wrapper.optimizer.lr:.0e}'.replace('e-0', 'e-')
    decay = cfg.optim_wrapper.paramwise_cfg.decay_rate
    assert lines[1].startswith(f'# drop path {backbone.drop_path_rate}, lr {rate}, decay {decay}, ')
    for part in (cfg.model, cfg.optim_wrapper):  # nothing of the base is left
        assert '_delete_' not in part and 'depth' not in part.get('backbone', {})
    importlib.import_module(f'{cfg.default_scope}.utils').register_all_modules()
    model = build_on_meta(cfg)
    assert model.backbone.out_indices == backbone.out_indices


@pytest.mark.parametrize(
    'name',
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in HEAD_RECIPES
    ],
)
def test_a_config_trains_a_step_on_three_classes_and_predicts(name):
    with group_of_one():
        trial = try_out(name, str(CONFIGS / config_of(name)))
    assert problems(trial) == []
