"""Equality with keras.applications through files, in both directions, from the image to the logits.

Not collected by default; in an environment with torch, keras, h5py, mmengine and pytest:
`python -m pytest tests/peers/test_keras.py`. The sizes after tiny are marked `slow`.
"""

import os
import re

os.environ.setdefault('KERAS_BACKEND', 'torch')

import h5py
import keras
import numpy as np
import pytest
import torch
from support.peer_models import TOLERANCE, randomize

from convnext_backbones import ConvNeXt, ConvNeXtClassifier
from convnext_backbones.benchmark.complexity import build_classifier
from convnext_backbones.benchmark.layers import list_layers
from convnext_backbones.weights.keras_files import read_keras
from convnext_backbones.weights.keras_writing import write_keras

TINY = 'tiny'
BUILDERS = {
    TINY: keras.applications.ConvNeXtTiny,
    'small': keras.applications.ConvNeXtSmall,
    'base': keras.applications.ConvNeXtBase,
    'large': keras.applications.ConvNeXtLarge,
    'xlarge': keras.applications.ConvNeXtXLarge,
}
SIZES = [size if size == TINY else pytest.param(size, marks=pytest.mark.slow) for size in BUILDERS]
READ = ('.weights.h5', '.h5', '.keras')
WRITTEN = ('.weights.h5', '.h5')
# ImageNet's, of RGB values of 0 to 255: what the graph of Keras begins with.
MEAN = torch.tensor([123.675, 116.28, 103.53])
STD = torch.tensor([58.395, 57.12, 57.375])
SHAPE = (64, 96, 3)


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, *SHAPE), dtype=np.uint8)


def our_input() -> torch.Tensor:
    return ((torch.from_numpy(image()).float() - MEAN) / STD).permute(0, 3, 1, 2)


def build(size: str, **options) -> keras.Model:
    """A network of Keras with random weights everywhere."""
    keras.utils.set_random_seed(0)
    model = BUILDERS[size](weights=None, input_shape=SHAPE, **options)
    rng = np.random.default_rng(1)
    for variable in model.variables:
        noise = rng.standard_normal(variable.shape)
        name = variable.path.rpartition('/')[2]
        if name == 'kernel':
            noise *= np.prod(variable.shape[:-1]) ** -0.5
        elif name not in ('bias', 'beta'):
            noise = 1 + 0.1 * noise
        variable.assign(noise)
    return model


def save(model: keras.Model, path, suffix: str):
    path = path / f'theirs{suffix}'
    if suffix == '.weights.h5':
        model.save_weights(path)
    else:
        model.save(path)
    return path


def difference(ours: torch.Tensor, theirs) -> float:
    """The largest difference as a fraction of the largest value."""
    theirs = torch.as_tensor(np.asarray(keras.ops.convert_to_numpy(theirs)))
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def run(model: keras.Model):
    return model(image(), training=False)


@torch.no_grad()
def logits_difference(size: str, theirs: keras.Model, tensors: dict) -> float:
    ours = ConvNeXtClassifier(size, num_classes=theirs.output_shape[-1]).eval()
    ours.load_state_dict(tensors)
    return difference(ours(our_input()), run(theirs))


@torch.no_grad()
def features_difference(size: str, theirs: keras.Model, tensors: dict) -> float:
    """The map of ``include_top=False``, of which every position is normalized."""
    ours = ConvNeXt(size, out_indices=(3,)).eval()
    # Names that begin with `norm.`; those of blocks have it further behind.
    ours.load_state_dict({re.sub(r'^norm\.', 'norm3.', name): t for name, t in tensors.items()})
    (features,) = ours(our_input())
    return difference(features.permute(0, 2, 3, 1), run(theirs))


# --- their files in ours ----------------------------------------------------------------------


@pytest.mark.parametrize('suffix', READ)
@pytest.mark.parametrize('size', SIZES)
def test_their_classifier_in_ours(size, suffix, tmp_path):
    theirs = build(size, classes=10, classifier_activation=None)
    tensors = read_keras(save(theirs, tmp_path, suffix))
    assert logits_difference(size, theirs, tensors) <= TOLERANCE


@pytest.mark.parametrize('suffix', READ)
@pytest.mark.parametrize('size', SIZES)
def test_their_network_without_a_head_in_ours(size, suffix, tmp_path):
    theirs = build(size, include_top=False)
    tensors = read_keras(save(theirs, tmp_path, suffix))
    assert features_difference(size, theirs, tensors) <= TOLERANCE


def test_their_pooled_features_are_those_of_a_classifier_without_a_head(tmp_path):
    theirs = build(TINY, include_top=False, pooling='avg')
    tensors = read_keras(save(theirs, tmp_path, '.h5'))
    ours = ConvNeXtClassifier(TINY, num_classes=0).eval()
    ours.load_state_dict(tensors)
    with torch.no_grad():
        assert difference(ours(our_input()), run(theirs)) <= TOLERANCE


def test_a_network_in_bfloat16_is_read(tmp_path):
    keras.config.set_dtype_policy('bfloat16')
    try:
        theirs = build(TINY, classes=10)
    finally:
        keras.config.set_dtype_policy('float32')
    tensors = read_keras(save(theirs, tmp_path, '.weights.h5'))
    (bias,) = [v for v in theirs.variables if 'stage_1_block_2_pointwise_conv_1/bias' in v.path]
    assert torch.equal(tensors['stages.1.2.pwconv1.bias'], bias.value.detach().float())


# --- our files in theirs ----------------------------------------------------------------------


@pytest.mark.parametrize('suffix', WRITTEN)
@pytest.mark.parametrize('size', SIZES)
def test_our_classifier_in_theirs(size, suffix, tmp_path):
    ours = ConvNeXtClassifier(size, num_classes=10).eval()
    randomize(ours)
    write_keras(tmp_path / f'ours{suffix}', ours.state_dict())
    theirs = build(size, classes=10, classifier_activation=None)
    theirs.load_weights(tmp_path / f'ours{suffix}')
    assert logits_difference(size, theirs, ours.state_dict()) <= TOLERANCE


@pytest.mark.parametrize('suffix', WRITTEN)
@pytest.mark.parametrize('size', SIZES)
def test_our_backbone_in_theirs(size, suffix, tmp_path):
    ours = ConvNeXt(size, out_indices=(3,)).eval()
    randomize(ours)
    write_keras(tmp_path / f'ours{suffix}', ours.state_dict())
    theirs = build(size, include_top=False)
    theirs.load_weights(tmp_path / f'ours{suffix}')
    assert features_difference(size, theirs, read_keras(tmp_path / f'ours{suffix}')) <= TOLERANCE


def test_layers_are_found_by_name_too(tmp_path):
    ours = ConvNeXtClassifier(TINY, num_classes=10).eval()
    randomize(ours)
    write_keras(tmp_path / 'ours.h5', ours.state_dict())
    theirs = build(TINY, classes=10, classifier_activation=None)
    theirs.load_weights(tmp_path / 'ours.h5', by_name=True)
    assert logits_difference(TINY, theirs, ours.state_dict()) <= TOLERANCE


def test_both_write_the_same_layout(tmp_path):
    path = save(build(TINY, classes=10), tmp_path, '.weights.h5')
    write_keras(tmp_path / 'ours.weights.h5', read_keras(path))
    found = []
    for file in (path, tmp_path / 'ours.weights.h5'):
        contents = {}
        with h5py.File(file) as opened:
            opened.visititems(
                lambda name, item, contents=contents: (
                    contents.update({name: (item[()], item.parent.attrs['name'])})
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
        found.append(contents)
    theirs, ours = found
    assert theirs.keys() == ours.keys()
    for name, (values, layer) in theirs.items():
        assert layer == ours[name][1]
        assert values.dtype == ours[name][0].dtype and np.array_equal(values, ours[name][0])


# --- the table of layers ------------------------------------------------------------------------


def layers_of(model: keras.Model) -> list[tuple[str, tuple[int, ...], int]]:
    """Name, output shape without the batch, and parameters of the rows of the expanded summary."""
    rows = []
    for layer in model.layers:
        if isinstance(layer, keras.Sequential):
            rows += layers_of(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            rows.append((layer.name, tuple(layer.output.shape[1:]), layer.count_params()))
    return rows


@pytest.mark.parametrize('size', SIZES)
def test_the_table_of_layers_is_their_summary(size):
    theirs = BUILDERS[size](weights=None, input_shape=SHAPE)
    table = list_layers(size, build_classifier(size), SHAPE[:2])
    assert table.params == theirs.count_params()
    assert table.trainable == sum(np.prod(v.shape) for v in theirs.trainable_variables)
    channels_first = ('PatchConv2d', 'LayerNorm2d', 'DepthwiseConv2d', 'DropPath')
    ours = [
        (
            layer.keras,
            (*layer.shape[2:], layer.shape[1]) if layer.kind in channels_first else layer.shape[1:],
            layer.params,
        )
        for layer in table.layers
        if layer.keras
    ]
    without_our_module = ('prestem_normalization', 'head_gap')
    assert ours == [row for row in layers_of(theirs) if not row[0].endswith(without_our_module)]


# --- what is not Keras' own ---------------------------------------------------------------------


@pytest.mark.parametrize('suffix', READ)
def test_other_networks_of_keras_are_refused(suffix, tmp_path):
    model = keras.applications.ResNet50(weights=None, input_shape=SHAPE, classes=10)
    with pytest.raises(ValueError, match='another network: its layers are .*53 conv2d'):
        read_keras(save(model, tmp_path, suffix))


@pytest.mark.parametrize('suffix', READ)
def test_a_layer_of_another_model_is_refused(suffix, tmp_path):
    inputs = keras.Input(SHAPE)
    pooled = keras.layers.GlobalAveragePooling2D()(build(TINY, include_top=False)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(pooled))
    with pytest.raises(ValueError, match='is a network itself; .*save it alone'):
        read_keras(save(model, tmp_path, suffix))


@pytest.mark.parametrize('suffix', READ)
def test_a_head_after_the_norm_of_every_position_is_refused(suffix, tmp_path):
    base = build(TINY, include_top=False)
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)
    model = keras.Model(base.input, keras.layers.Dense(3)(pooled))
    with pytest.raises(ValueError, match='its head is not the one of Keras'):
        read_keras(save(model, tmp_path, suffix))
    assert 'head.weight' not in read_keras(save(base, tmp_path, suffix))
