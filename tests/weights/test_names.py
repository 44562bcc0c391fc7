"""The tables of names: complete, unambiguous, and the same in both directions."""

import pytest
import torch

from convnext_backbones import VARIANTS, ConvNeXt, ConvNeXtClassifier
from convnext_backbones.weights.layouts import LAYOUTS, MMPRETRAIN, OFFICIAL
from convnext_backbones.weights.names import (
    export,
    find_networks,
    in_our_shape,
    our_name,
    recognize,
    their_name,
    variant_name,
)

# Ten and more blocks in a stage: names sort and parse by number.
LONG = dict(depths=(1, 2, 11, 1), dims=(8, 16, 24, 32))


def weights(arch, kind=ConvNeXtClassifier) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = kind(arch).state_dict()
    return {name: torch.rand_like(tensor) for name, tensor in state.items()}


def read_back(exported: dict[str, torch.Tensor], layout: str) -> dict[str, torch.Tensor]:
    """What the file of a layout holds, under the authors' names."""
    ((found, prefix),) = find_networks(exported)
    assert found is LAYOUTS[layout]
    names = recognize(exported, found, prefix)
    assert not names.unknown and not names.others
    return {name: in_our_shape(name, exported[key]) for name, key in names.names.items()}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_classifier_survives_the_layout_and_back(layout):
    state = weights(LONG)
    exported, homeless = export(state, LAYOUTS[layout])
    assert not homeless and len(exported) == len(state)
    back = read_back(exported, layout)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_backbone_keeps_what_the_layout_has_a_place_for(layout):
    state = weights(LONG, ConvNeXt)
    exported, homeless = export(state, LAYOUTS[layout])
    back = read_back(exported, layout)
    assert all(torch.equal(back[name], state[name]) for name in back)
    norms = [name for name in state if name.startswith('norm')]
    assert homeless == ([] if LAYOUTS[layout].output_norms else norms)
    assert {*back, *homeless} == {*state}


@pytest.mark.parametrize('kind', [ConvNeXt, ConvNeXtClassifier])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_no_two_names_become_one(layout, kind):
    theirs = {name: their_name(LAYOUTS[layout], name) for name in weights(LONG, kind)}
    found = [name for name in theirs.values() if name]
    assert len(set(found)) == len(found)
    for name, other in theirs.items():
        # mmpretrain gives one name two meanings; `recognize` decides by the rest of the file.
        if other and not (LAYOUTS[layout] is MMPRETRAIN and name.startswith('norm.')):
            assert our_name(LAYOUTS[layout], other) == name


@pytest.mark.parametrize(
    ('layout', 'name'),
    [
        ('torchvision', 'features.1.0.block.4.weight'),  # the GELU
        ('torchvision', 'features.2.0.block.0.weight'),  # a downsampling layer has no blocks
        ('timm', 'stages.0.blocks.0.mlp.grn.weight'),
        ('transformers', 'hidden_states_norms.stage0.weight'),  # they count from 1
        ('official', 'stages.0.0.dwconv.running_mean'),
    ],
)
def test_names_beside_the_table_are_unknown(layout, name):
    assert our_name(LAYOUTS[layout], name) is None


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.', 'net.backbone.', 'module.convnext.'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_any_prefix_is_found(layout, prefix, miniature):
    exported, _ = export(weights(miniature, ConvNeXt), LAYOUTS[layout])
    prefixed = [prefix + name for name in exported]
    assert find_networks(prefixed) == [(LAYOUTS[layout], prefix)]
    found = recognize(prefixed, LAYOUTS[layout], prefix)
    assert len(found.names) == len(exported) and not found.unknown


def test_the_names_of_timm_feature_extractors(miniature):
    exported, _ = export(weights(miniature), LAYOUTS['timm'])
    flat = {
        name.replace('stem.', 'stem_').replace('stages.', 'stages_'): tensor
        for name, tensor in exported.items()
        if not name.startswith('head')
    }
    assert 'stages_0.blocks.0.conv_dw.weight' in flat
    assert len(read_back(flat, 'timm')) == len(flat)


def test_the_parts_around_a_backbone_are_kept_apart(miniature):
    state = weights(miniature, ConvNeXt)
    exported, _ = export(state, MMPRETRAIN, inside=True)
    heads = ['neck.conv.weight', 'roi_head.bbox_head.fc_cls.weight', 'decode_head.conv_seg.bias']
    names = [f'module.{name}' for name in [*exported, *heads]]
    found = recognize(names, *find_networks(names)[0])
    assert found.prefix == 'module.backbone.'
    assert found.others == {name: f'module.{name}' for name in heads}
    assert not found.outside
    assert set(found.names) == set(state) and not found.renamed_norm


@pytest.mark.parametrize('head', [True, False])
def test_the_norm_after_pooling_is_recognized_in_files_of_mmpretrain(head, miniature):
    exported, _ = export(weights(miniature), MMPRETRAIN)
    assert 'backbone.norm3.weight' in exported and 'head.fc.weight' in exported
    if not head:  # as in OpenMMLab's files for detectors
        exported = {name: t for name, t in exported.items() if not name.startswith('head')}
    found = recognize(exported, *find_networks(exported)[0])
    assert found.renamed_norm
    assert found.names['norm.weight'] == 'backbone.norm3.weight'
    assert not any(name.startswith('norm3') for name in found.names)


def test_a_detector_with_the_fourth_output_alone_keeps_its_norm(miniature):
    state = weights(miniature, lambda arch: ConvNeXt(arch, out_indices=(3,)))
    exported, _ = export(state, MMPRETRAIN, inside=True)
    names = [*exported, 'neck.conv.weight']
    found = recognize(names, *find_networks(names)[0])
    assert not found.renamed_norm and set(found.names) == set(state)
    # Without a neck beside it nobody could tell, so no such file is written.
    with pytest.raises(ValueError, match='more output norms than the fourth'):
        export(state, MMPRETRAIN)


def test_the_official_names_are_those_of_the_models(miniature):
    for kind in (ConvNeXt, ConvNeXtClassifier):
        for name in weights(miniature, kind):
            assert their_name(OFFICIAL, name) == our_name(OFFICIAL, name) == name


@pytest.mark.parametrize('variant', VARIANTS)
def test_timm_has_convolutions_in_its_small_models(variant):
    with torch.device('meta'):
        state = ConvNeXtClassifier(variant).state_dict()
    exported, _ = export(state, LAYOUTS['timm'])
    small = variant in ('atto', 'femto', 'pico', 'nano')
    assert exported['stages.0.blocks.0.mlp.fc1.weight'].dim() == (4 if small else 2)
    assert variant_name(VARIANTS[variant].depths, VARIANTS[variant].dims) == variant


def test_torchvision_has_axes_behind_its_layer_scale(miniature):
    exported, _ = export(weights(miniature), LAYOUTS['torchvision'])
    assert exported['features.1.0.layer_scale'].shape == (8, 1, 1)


def test_a_name_written_twice_is_not_taken_twice():
    names = ['stages.0.0.dwconv.weight', 'stages.00.0.dwconv.weight']
    found = recognize(names, OFFICIAL, '')
    assert found.unknown == ['stages.00.0.dwconv.weight']


def test_two_networks_in_a_file_are_both_found(miniature):
    names = weights(miniature)
    both = [f'{owner}.backbone.{name}' for owner in ('student', 'teacher') for name in names]
    assert find_networks(both) == [
        (OFFICIAL, 'student.backbone.'),
        (OFFICIAL, 'teacher.backbone.'),
    ]
