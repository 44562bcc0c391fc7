"""The layers of a model: those of Keras' summary, and all parameters, each once."""

import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from convnext_backbones.benchmark import layers
from convnext_backbones.benchmark.complexity import build_classifier, build_found
from convnext_backbones.benchmark.layers import LayerTable, list_layers
from convnext_backbones.config.loading import load_config
from convnext_backbones.engine.build import build_on_meta

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / 'configs/sample'
SHAPE = (224, 224)
# Total params of the summaries of keras.applications.ConvNeXtTiny() to ConvNeXtXLarge().
KERAS_TOTALS = {
    'tiny': 28_589_128,
    'small': 50_223_688,
    'base': 88_591_464,
    'large': 197_767_336,
    'xlarge': 350_196_968,
}
# Rows of keras.applications.ConvNeXtTiny().summary(expand_nested=True), with Keras' shapes.
KERAS_ROWS = {
    'stem_conv': ((56, 56, 96), 4_704),
    'stem_layernorm': ((56, 56, 96), 192),
    'stage_0_block_0_depthwise_conv': ((56, 56, 96), 4_800),
    'stage_0_block_0_layernorm': ((56, 56, 96), 192),
    'stage_0_block_0_pointwise_conv_1': ((56, 56, 384), 37_248),
    'stage_0_block_0_gelu': ((56, 56, 384), 0),
    'stage_0_block_0_pointwise_conv_2': ((56, 56, 96), 36_960),
    'stage_0_block_0_layer_scale': ((56, 56, 96), 96),
    'stage_0_block_0_identity': ((56, 56, 96), 0),
    'downsampling_layernorm_0': ((56, 56, 96), 192),
    'downsampling_conv_0': ((28, 28, 192), 73_920),
    'stage_2_block_8_depthwise_conv': ((14, 14, 384), 19_200),
    'downsampling_conv_2': ((7, 7, 768), 1_180_416),
    'stage_3_block_2_pointwise_conv_1': ((7, 7, 3072), 2_362_368),
    'stage_3_block_2_pointwise_conv_2': ((7, 7, 768), 2_360_064),
    'head_layernorm': ((768,), 1_536),
    'head_dense': ((1000,), 769_000),
}
# In a block, in the order of the forward pass.
BLOCK = ('dwconv', 'norm', 'pwconv1', 'act', 'pwconv2', 'gamma', 'drop_path')


@functools.cache
def table_of(name: str) -> LayerTable:
    return list_layers(name, build_classifier(name), SHAPE)


def rows_of(table: LayerTable) -> dict[str, layers.Layer]:
    return {layer.name: layer for layer in table.layers}


def in_keras_order(layer: layers.Layer) -> tuple[int, ...]:
    """A shape as Keras has it: without the axis of the batch, and with channels last."""
    shape = layer.shape[1:]
    is_map = layer.kind in ('PatchConv2d', 'LayerNorm2d', 'DepthwiseConv2d', 'DropPath')
    return (*shape[1:], shape[0]) if is_map else shape


@pytest.mark.parametrize('name', KERAS_TOTALS)
def test_totals_are_those_of_keras(name):
    table = table_of(name)
    assert table.params == table.trainable == KERAS_TOTALS[name]
    assert table.name == name and table.input_shape == SHAPE


def test_rows_are_those_of_keras():
    rows = {layer.keras.removeprefix('convnext_tiny_'): layer for layer in table_of('tiny').layers}
    found = {name: (in_keras_order(rows[name]), rows[name].params) for name in KERAS_ROWS}
    assert found == KERAS_ROWS
    # Keras' rows come in the same order; ours has a dropout besides.
    assert [name for name in rows if name in KERAS_ROWS] == [*KERAS_ROWS]
    assert [layer.name for layer in table_of('tiny').layers if not layer.keras] == ['dropout']
    assert len(table_of('tiny').layers) == 2 + 18 * len(BLOCK) + 3 * 2 + 3


def test_a_block_is_a_row_per_layer_in_its_order():
    names = [layer.name for layer in table_of('tiny').layers]
    start = names.index('stages.1.2.dwconv')
    assert names[start : start + len(BLOCK)] == [f'stages.1.2.{name}' for name in BLOCK]
    assert names[start + len(BLOCK)] == 'downsample_layers.2.0'
    kinds = [layer.kind for layer in table_of('tiny').layers[start : start + len(BLOCK)]]
    assert kinds[0] == 'DepthwiseConv2d' and kinds[-2:] == [layers.LAYER_SCALE, 'DropPath']


@pytest.mark.parametrize(
    ('options', 'has_names'),
    [
        (dict(num_classes=0), True),
        (dict(in_chans=5), True),
        (dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)), True),
        (dict(use_grn=True), False),
        (dict(depths=(1, 1), dims=(8, 8)), False),
        (dict(stem_type='overlap'), False),
        (dict(head_norm_first=True), False),
        (dict(head_hidden_size=8), False),
        (dict(norm_eps=1e-5), False),
    ],
)
def test_only_networks_that_keras_has_get_its_names(options, has_names):
    table = list_layers('x', build_classifier(None, **options), (64, 96))
    assert any(layer.keras for layer in table.layers) == has_names


def test_keras_names_the_layer_of_a_dropped_path_otherwise():
    model = build_classifier('tiny', drop_path_rate=0.1)
    rows = rows_of(list_layers('x', model, SHAPE))
    assert rows['stages.0.0.drop_path'].keras == 'convnext_tiny_stage_0_block_0_identity'
    assert rows['stages.0.1.drop_path'].keras == 'convnext_tiny_stage_0_block_1_stochastic_depth'


def test_v2_has_grn_and_no_layer_scale():
    rows = rows_of(list_layers('x', build_classifier('atto', use_grn=True), SHAPE))
    assert rows['stages.0.0.grn'].params == 2 * 4 * 40
    assert layers.LAYER_SCALE not in {row.kind for row in rows.values()}
    assert sum(row.params for row in rows.values()) == 3_708_400  # of the authors' atto


def test_a_detector_has_frozen_layers_and_heads_that_run_often():
    cfg = load_config(SAMPLES / 'mask_rcnn_convnext_sample.py')
    cfg.model.backbone.frozen_stages = 1
    model = build_on_meta(cfg)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    table = list_layers('x', model, (320, 320))
    assert table.params == sum(p.numel() for p in model.parameters())
    assert table.params - table.trainable == frozen > 0
    rows = rows_of(table)
    assert rows['backbone.stages.0.0.gamma'].trainable == 0
    assert rows['backbone.stages.0.0.gamma'].params == cfg.model.backbone.arch.dims[0]
    assert rows['rpn_head.rpn_cls'].calls == 5 and rows['rpn_head.rpn_cls'].shape[2:] == (80, 80)
    assert rows['roi_head.bbox_head.fc_cls'].shape[0] == 1000
    assert not any(layer.keras for layer in table.layers)


def test_an_auxiliary_head_has_no_output_and_comes_last():
    path = SAMPLES / 'upernet_convnext_sample.py'
    table = list_layers('x', build_found(str(path), ROOT / 'configs'), (64, 96))
    unused = [layer for layer in table.layers if layer.shape is None]
    assert unused and all(layer.name.startswith('auxiliary_head.') for layer in unused)
    assert table.layers[-len(unused) :] == tuple(unused) and not any(row.calls for row in unused)


class Attention(nn.Module):
    """A module with a parameter of its own, one that it shares, and one that it never calls."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(7, 3), requires_grad=False)
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.never = nn.Linear(3, 5)
        self.idle = nn.ReLU()

    def forward(self, x):
        return self.first(self.second(x))


def test_each_parameter_is_in_one_row(monkeypatch):
    model = nn.Sequential(Attention(), nn.ReLU())
    monkeypatch.setattr(layers, 'count_parts', lambda model, shape: model(torch.zeros(2, 3)))
    table = list_layers('x', model, (1, 1))
    found = {row.name: (row.kind, row.shape, row.params, row.trainable) for row in table.layers}
    assert found == {
        '0.table': ('Parameter', None, 21, 0),
        '0.never': ('Linear', None, 20, 20),
        '0.second': ('Linear', (2, 3), 3, 3),  # the weight is counted where it was named first
        '0.first': ('Linear', (2, 3), 12, 12),
        '1': ('ReLU', (2, 3), 0, 0),
    }
    assert [*found] == ['0.table', '0.never', '0.second', '0.first', '1']
    assert not model[0]._forward_pre_hooks and not model[1]._forward_hooks


def test_an_image_size_is_needed():
    with pytest.raises(ValueError, match='expected --shape H W for mine'):
        list_layers('mine', build_classifier('atto'))
    with pytest.raises(ValueError, match='at least one pixel'):
        list_layers('mine', build_classifier('atto'), (0, 64))
