"""The tables of names: complete, unambiguous, and the same in both directions."""

import pytest
import torch

from convnext_backbones import VARIANTS, ConvNeXt, ConvNeXtClassifier
from convnext_backbones.weights.layouts import EXPORTS, LAYOUTS, META, MMPRETRAIN, OFFICIAL, PARTS
from convnext_backbones.weights.names import (
    export,
    export_heads,
    find_networks,
    in_our_shape,
    our_name,
    recognize,
    their_name,
    variant_name,
)

# Ten and more blocks in a stage: names sort and parse by number.
LONG = dict(depths=(1, 2, 11, 1), dims=(8, 16, 24, 32))


# Networks that not every project has, by the part that they add.
FAMILIES = {
    'V1': {},
    'grn': dict(use_grn=True),
    'overlap': dict(stem_type='overlap_tiered'),
    'hidden': dict(head_hidden_size=12),
}
# Files of these share their names with files of the others.
READ_AS = {'meta': 'official', 'keras': 'official', 'timm_hnf': 'timm'}


def weights(arch, kind=ConvNeXtClassifier, **options) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = kind(arch, **options).state_dict()
    return {name: torch.rand_like(tensor) for name, tensor in state.items()}


def read_back(exported: dict[str, torch.Tensor], layout: str) -> dict[str, torch.Tensor]:
    """What the file of a layout holds, under the authors' names."""
    ((found, prefix),) = find_networks(exported)
    assert found is LAYOUTS[READ_AS.get(layout, layout)]
    names = recognize(exported, found, prefix)
    assert not names.unknown and not names.others and not names.outside
    return {name: in_our_shape(name, exported[key]) for name, key in names.names.items()}


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('layout', EXPORTS)
def test_a_classifier_survives_the_layout_and_back(layout, family):
    state = weights(LONG, **FAMILIES[family])
    if family in PARTS and family not in EXPORTS[layout].parts:
        with pytest.raises(ValueError, match=f'the layout {layout} has.*{PARTS[family][1][:9]}'):
            export(state, EXPORTS[layout])
        return
    exported, homeless = export(state, EXPORTS[layout])
    assert homeless == (['head.weight', 'head.bias'] if layout in ('dinov3', 'meta') else [])
    back = read_back(exported, layout)
    assert {*back, *homeless} == {*state}
    assert all(torch.equal(back[name], state[name]) for name in back)


@pytest.mark.parametrize('use_grn', [False, True])
@pytest.mark.parametrize('layout', EXPORTS)
def test_a_backbone_keeps_what_the_layout_has_a_place_for(layout, use_grn):
    if use_grn and 'grn' not in EXPORTS[layout].parts:
        return  # as the test above has it
    state = weights(LONG, ConvNeXt, use_grn=use_grn)
    exported, homeless = export(state, EXPORTS[layout])
    back = read_back(exported, layout)
    assert all(torch.equal(back[name], state[name]) for name in back)
    norms = [name for name in state if name.startswith('norm')]
    if EXPORTS[layout].output_norms:
        norms = []
    elif layout == 'keras':
        norms = [name for name in norms if not name.startswith('norm3')]
    assert homeless == norms
    assert {*back, *homeless} == {*state}


@pytest.mark.parametrize(
    ('layout', 'name', 'shape'),
    [
        ('official', 'stages.1.0.grn.gamma', (1, 1, 1, 64)),
        ('mmpretrain', 'backbone.stages.1.0.grn.gamma', (64,)),
        ('timm', 'stages.1.blocks.0.mlp.grn.weight', (64,)),
        ('transformers', 'convnextv2.encoder.stages.1.layers.0.grn.weight', (1, 1, 1, 64)),
    ],
)
def test_each_project_has_its_names_and_shapes_of_grn(layout, name, shape):
    state = weights(LONG, use_grn=True)
    exported, _ = export(state, LAYOUTS[layout])
    assert exported[name].shape == shape
    assert torch.equal(exported[name].flatten(), state['stages.1.0.grn.gamma'])
    shift = name.replace('gamma', 'beta').replace('weight', 'bias')
    assert torch.equal(exported[shift].flatten(), state['stages.1.0.grn.beta'])


@pytest.mark.parametrize('shape', [(64,), (1, 64), (1, 1, 64), (1, 1, 1, 64)])
def test_grn_of_any_rank_becomes_ours(shape):
    for parameter in ('gamma', 'beta'):
        tensor = torch.rand(shape)
        ours = in_our_shape(f'stages.1.0.grn.{parameter}', tensor)
        assert torch.equal(ours, tensor.flatten())


def test_meta_has_the_final_norm_twice():
    state = weights(LONG)
    exported, _ = export(state, META)
    assert torch.equal(exported['norms.3.weight'], state['norm.weight'])
    assert torch.equal(exported['norms.3.bias'], exported['norm.bias'])
    names = [*exported, 'projectors.0.weight', 'norms.0.weight']
    found = recognize(names, *find_networks(names)[0])
    assert found.layout is META and found.norm_before_pooling and not found.unknown
    assert found.discarded == [
        'norms.3.weight',
        'norms.3.bias',
        'projectors.0.weight',
        'norms.0.weight',
    ]


def test_the_norm_of_dinov3_is_outside_of_the_stages_in_memory():
    exported, _ = export(weights(LONG), LAYOUTS['dinov3'])
    names = [f'model.{name}' if name.startswith('stages') else name for name in exported]
    found = recognize(names, *find_networks(names)[0])
    assert found.names['norm.weight'] == 'layer_norm.weight' and found.norm_before_pooling
    assert not (found.others or found.outside or found.unknown)


@pytest.mark.parametrize('projection', ['linear', 'mlp'])
def test_a_whole_model_of_open_clip(projection):
    exported, _ = export(weights(LONG), LAYOUTS['timm'])
    names = [f'visual.trunk.{name}' for name in exported if not name.startswith('head.fc')]
    heads = {
        'linear': {'visual.head.proj.weight': 'head.weight'},
        'mlp': {
            'visual.head.mlp.fc1.weight': 'pre_logits.weight',
            'visual.head.mlp.fc1.bias': 'pre_logits.bias',
            'visual.head.mlp.fc2.weight': 'head.weight',
        },
    }[projection]
    text = ['positional_embedding', 'transformer.resblocks.0.mlp.c_fc.weight']
    found = recognize([*text, *names, *heads], *find_networks(names)[0])
    assert found.outside == text and not (found.unknown or found.others)
    assert {theirs: ours for ours, theirs in found.names.items() if theirs in heads} == heads


def test_the_heads_of_upernet_have_other_names_in_transformers():
    names = [
        'decode_head.psp_modules.3.1.conv.weight',
        'decode_head.psp_modules.3.1.bn.running_var',
        'decode_head.conv_seg.bias',
        'auxiliary_head.convs.0.bn.num_batches_tracked',
    ]
    theirs = [name.replace('bn', 'batch_norm').replace('conv_seg', 'classifier') for name in names]
    assert [*export_heads(names, LAYOUTS['transformers']).values()] == theirs
    assert export_heads(names[2:], LAYOUTS['transformers']) == {}, 'these are not of UperNet'
    assert export_heads([*names, 'neck.conv.weight'], LAYOUTS['transformers']) == {}
    assert export_heads(names, LAYOUTS['timm']) == {}
    mark = 'backbone.encoder.stages.0.layers.0.dwconv.weight'
    found = recognize([mark, *theirs], *find_networks([mark])[0])
    assert found.others == dict(zip(names, theirs, strict=True))


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
        ('timm', 'stages.0.blocks.0.mlp.grn.gamma'),
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
    as_hnf, _ = export(state, EXPORTS['timm_hnf'])
    assert as_hnf['norm_pre.weight'].shape == (VARIANTS[variant].dims[-1],)
    has_convolutions = as_hnf['stages.0.blocks.0.mlp.fc1.weight'].dim() == 4
    assert has_convolutions == (variant in ('atto', 'femto', 'pico', 'nano', 'tiny'))
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
