"""The costs of the paper's models are reproduced, and any config can be counted."""

import functools
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from convnext_backbones.benchmark.complexity import (
    Cost,
    build_classifier,
    build_found,
    measure,
)
from convnext_backbones.benchmark.paper import CLASSIFIERS, COMPARATORS
from convnext_backbones.experiments import EXPERIMENTS
from convnext_backbones.recipes import HEAD_RECIPES, RECIPES
from dev import docs_pages

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS_PAGE = docs_pages.fill((ROOT / 'docs/experiments.md').read_text())

# G multiply-adds and M parameters of the comparators as measured when this was written. Table 3 of
# the paper states no parameters.
MEASURED = {
    'mask_rcnn_swin_t': (266.55, 47.79),
    'cascade_mask_rcnn_r50': (737.57, 82.23),
    'cascade_mask_rcnn_x101_32x4d': (816.77, 100.85),
    'cascade_mask_rcnn_x101_64x4d': (969.63, 140.13),
    'cascade_mask_rcnn_swin_t': (744.80, 85.63),
    'cascade_mask_rcnn_swin_s': (836.85, 106.95),
    'cascade_mask_rcnn_swin_b': (981.29, 144.98),
    'cascade_mask_rcnn_swin_l_in22k': (1391.56, 253.48),
    'upernet_swin_t': (944.39, 59.94),
    'upernet_swin_s': (1037.42, 81.26),
    'upernet_swin_b': (1187.35, 121.28),
    'upernet_swin_b_in22k': (1839.18, 121.28),
    'upernet_swin_l_in22k': (2482.34, 233.76),
}
CLASSIFIER_PARAMS = {
    'tiny': 28_589_128,
    'small': 50_223_688,
    'base': 88_591_464,
    'large': 197_767_336,
    'xlarge': 350_196_968,
}
# Of ours, which nobody published: 1e6 parameters and 1e9 multiply-adds, as counted when this was
# written.
OURS = {
    'mask_rcnn_convnextv2_t': (48.14, 261.90),
    'cascade_mask_rcnn_dinov3_convnext_s': (107.57, 826.44),
    'upernet_convnextv2_l': (235.18, 2457.36),
}
# With other heads, as counted when this was written. The transformers run on the CPU.
HEADS = {
    'retinanet_convnext_t': (38.76, 242.98),
    'htc_convnext_t': (81.16, 398.08),
    'dino_convnext_t': (48.49, 281.81),
    'mask2former_instance_convnext_t': (47.72, 257.10),
}
SLOW_HEADS = ('dino_convnext_t', 'mask2former_instance_convnext_t')


@dataclass
class Measured:
    """A cost, and what the paper's figures have besides or leave out."""

    cost: Cost
    elementwise: int
    attention: int


@functools.cache
def measured(name: str) -> Measured:
    """A model of table 3 or 4, counted once for all tests."""
    counts = dict(elementwise=0, attention=0)

    def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            counts['elementwise'] += 2 * output.numel()
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            counts['elementwise'] += output.numel() if module.bias is not None else 0
        elif isinstance(module, nn.ReLU):
            counts['elementwise'] += output.numel()
        elif isinstance(module, (nn.MaxPool2d, nn.AdaptiveAvgPool2d)):
            counts['elementwise'] += args[0].numel()
        elif type(module).__name__ == 'WindowMSA':
            windows, tokens, channels = args[0].shape
            counts['attention'] += 2 * windows * tokens**2 * channels

    model = build_found(name, ROOT / 'configs')
    handle = nn.modules.module.register_module_forward_hook(hook)
    cost = measure(name, model)
    handle.remove()
    return Measured(cost, **counts)


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_published_experiment_costs_what_the_paper_says(name):
    cost = measured(name).cost
    assert cost.macs_ratio == pytest.approx(1, abs=0.005)
    assert round(cost.params / 1e6) == EXPERIMENTS[name].paper_params
    # With elementwise operations, to the last digit.
    assert round((cost.macs + measured(name).elementwise) / 1e9) == cost.paper_gmacs
    assert measured(name).elementwise < 0.003 * cost.macs


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_docs_state_what_is_measured(name):
    measured_here = measured(name)
    (row,) = (
        line for line in EXPERIMENTS_PAGE.splitlines() if f'[`{name}`]' in line and 'M |' in line
    )
    gmacs = (measured_here.cost.macs + measured_here.elementwise) / 1e9
    assert f'| {measured_here.cost.params / 1e6:.0f} M | {gmacs:.0f} |' in row


# One in each kind of heads; the rest runs with the slow tests.
QUICK = ('mask_rcnn_swin_t', 'cascade_mask_rcnn_r50', 'upernet_swin_l_in22k')


@pytest.mark.parametrize(
    'name',
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COMPARATORS],
)
def test_comparator_costs_what_the_paper_says(name):
    cost, comparator = measured(name).cost, COMPARATORS[name]
    assert (round(cost.macs / 1e9, 2), round(cost.params / 1e6, 2)) == MEASURED[name]
    if comparator.paper_params:
        assert round(cost.params / 1e6) == comparator.paper_params
    if comparator.note:
        assert abs(cost.macs_ratio - 1) > 0.005  # else there is nothing to explain
        without_attention = (cost.macs - measured(name).attention) / 1e9
        assert without_attention / comparator.paper_gmacs == pytest.approx(1, abs=0.001)
    else:
        assert cost.macs_ratio == pytest.approx(1, abs=0.005)
    if 'swin' not in name:
        assert round((cost.macs + measured(name).elementwise) / 1e9) == cost.paper_gmacs


def test_there_are_thirteen_comparators_and_all_are_pinned():
    assert list(MEASURED) == list(COMPARATORS)


@pytest.mark.parametrize('name', [name for name in CLASSIFIERS if CLASSIFIERS[name].use_grn])
def test_classifier_of_v2_costs_what_the_authors_say(name):
    classifier = CLASSIFIERS[name]
    cost = measure(name, build_found(name, ROOT / 'configs'))
    digits = 1 if isinstance(classifier.paper_params, float) else None
    assert round(cost.params / 1e6, digits) == classifier.paper_params
    # They count biases, too.
    assert cost.macs_ratio == pytest.approx(0.998, abs=0.003)


@pytest.mark.parametrize('name', OURS)
def test_recipes_of_ours_are_counted_at_the_size_of_their_table(name):
    cost = measure(name, build_found(name, ROOT / 'configs'))
    assert (round(cost.params / 1e6, 2), round(cost.macs / 1e9, 2)) == OURS[name]
    assert cost.input_shape == RECIPES[name].input_shape
    assert cost.paper_gmacs is None and cost.paper_params is None


@pytest.mark.parametrize(
    'name',
    [pytest.param(one, marks=pytest.mark.slow) if one in SLOW_HEADS else one for one in HEADS],
)
def test_other_heads_are_counted(name):
    cost = measure(name, build_found(name, ROOT / 'configs'))
    assert (round(cost.params / 1e6, 2), round(cost.macs / 1e9, 2)) == HEADS[name]
    assert cost.input_shape == HEAD_RECIPES[name].input_shape


@pytest.mark.parametrize('name', [name for name in CLASSIFIERS if not CLASSIFIERS[name].use_grn])
def test_classifier_costs_what_the_paper_says(name):
    classifier = CLASSIFIERS[name]
    cost = measure(name, build_classifier(classifier.arch))
    assert cost.params == CLASSIFIER_PARAMS[classifier.arch]
    assert round(cost.params / 1e6) == classifier.paper_params
    if classifier.size == 224:
        assert round(cost.macs / 1e9, 1) == classifier.paper_gmacs
    else:
        assert cost.macs_ratio == pytest.approx(1, abs=0.005)


def test_parts_are_the_stages_and_the_heads():
    backbone = ['stem', 'stage 1', *(f'downsampling + stage {i}' for i in (2, 3, 4))]
    backbone = [f'backbone: {stage}' for stage in (*backbone, 'output norms')]
    heads = {
        'mask_rcnn_convnext_t': ['neck', 'RPN head', 'box head', 'mask head'],
        'cascade_mask_rcnn_convnext_t': [
            *('neck', 'RPN head'),
            *(f'{head} head {i}' for head in ('box', 'mask') for i in (1, 2, 3)),
        ],
        'upernet_convnext_t': ['decode head', 'auxiliary head'],
    }
    for name, expected in heads.items():
        parts = {part.name: part for part in measured(name).cost.parts}
        assert list(parts) == [*backbone, *expected]
        free = {part.name for part in parts.values() if not part.macs}
        assert free <= {'backbone: output norms', 'auxiliary head'}
    cascade = {p.name: p for p in measured('cascade_mask_rcnn_convnext_t').cost.parts}
    for head in ('box', 'mask'):
        assert len({cascade[f'{head} head {i}'].macs for i in (1, 2, 3)}) == 1
    # The backbone costs the same in all heads on the same image.
    mask_rcnn = measured('mask_rcnn_convnext_t').cost.parts
    assert mask_rcnn[:6] == measured('cascade_mask_rcnn_convnext_t').cost.parts[:6]
