"""The options of a model are read from the tensors of a file."""

import pytest
from support.weights import random_state

from convnext_backbones import ConvNeXtClassifier
from convnext_backbones.weights.architecture import read_options
from convnext_backbones.weights.layouts import EXPORTS
from convnext_backbones.weights.matching import only_network
from convnext_backbones.weights.names import export, in_our_shape

CASES = {
    'plain': ('official', {}),
    'V2': ('timm', dict(use_grn=True)),
    'V2 with layer scale': ('timm', dict(use_grn=True, layer_scale_init_value=1.0)),
    'without layer scale': ('mmpretrain', dict(layer_scale_init_value=0.0)),
    'overlap': ('timm', dict(stem_type='overlap')),
    'patches': ('official', dict(patch_size=2)),
    'channels': ('official', dict(in_chans=5)),
    'norm first': ('timm_hnf', dict(head_norm_first=True)),
    'hidden layer': ('timm', dict(head_hidden_size=12)),
    'no head': ('transformers', dict(num_classes=0)),
    'DINOv3': ('meta', dict(num_classes=0)),
}


def options_of(tensors) -> dict:
    found = only_network(tensors, 'file', None)
    network = {name: in_our_shape(name, tensors[key]) for name, key in found.names.items()}
    return read_options(found, network)


@pytest.mark.parametrize(('layout', 'options'), CASES.values(), ids=CASES)
def test_the_options_that_a_model_was_built_with(layout, options, miniature):
    options = dict(num_classes=7) | options
    state = random_state(ConvNeXtClassifier(miniature, **options))
    tensors, homeless = export(state, EXPORTS[layout])
    assert not homeless
    assert options_of(tensors) == dict(arch=miniature, **options)


def test_a_known_size_has_its_name():
    # Of the miniature, overlap and overlap_tiered are the same network.
    for options in ({}, dict(stem_type='overlap_tiered')):
        state = random_state(ConvNeXtClassifier('atto', **options))
        assert options_of(state) == dict(arch='atto', num_classes=1000, **options)


def test_a_file_without_a_stem(miniature):
    state = random_state(ConvNeXtClassifier(miniature))
    del state['downsample_layers.0.0.weight']
    with pytest.raises(
        ValueError, match='whole ConvNeXt, got 4 stages without the weight of a ste'
    ):
        options_of(state)
