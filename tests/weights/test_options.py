"""A file that does not fit names the option of the model that it needs."""

from dataclasses import replace

import pytest
import torch
from support.weights import random_state

from convnext_backbones import VARIANTS, ConvNeXt, ConvNeXtClassifier, load_weights
from convnext_backbones.weights.layouts import EXPORTS, LAYOUTS
from convnext_backbones.weights.matching import match_weights
from convnext_backbones.weights.names import export

TOY = dict(depths=(1, 1, 1, 1), dims=(32, 64, 96, 128))
# Wide enough that the two overlapping stems differ.
WIDE = dict(depths=(1, 1, 2, 1), dims=(32, 16, 24, 32))


def file_of(miniature, layout: str = 'official', **options) -> dict[str, torch.Tensor]:
    return export(random_state(ConvNeXtClassifier(miniature, **options)), EXPORTS[layout])[0]


@pytest.mark.parametrize('layout', ['official', 'timm'])
@pytest.mark.parametrize(
    ('of_the_file', 'of_the_model', 'advice'),
    [
        (dict(use_grn=True), {}, 'the file is of ConvNeXt V2, build with use_grn=True'),
        ({}, dict(use_grn=True), 'the file is of ConvNeXt V1, .* use_grn=False'),
        (
            dict(use_grn=True),
            dict(use_grn=True, layer_scale_init_value=1.0),
            'the file has no layer scale, build with layer_scale_init_value=0',
        ),
        ({}, dict(layer_scale_init_value=0), 'layer_scale_init_value=1.0'),
        (dict(stem_type='overlap'), {}, "an overlapping stem, build with stem_type='overlap'"),
        (dict(stem_type='overlap_tiered'), {}, "build with stem_type='overlap_tiered'"),
        ({}, dict(stem_type='overlap'), "a stem of patches, build with stem_type='patch'"),
        (dict(patch_size=2), {}, 'patches of 2 x 2 pixels, build with patch_size=2'),
        (dict(in_chans=5), {}, 'images of 5 channels, build with in_chans=5'),
    ],
)
def test_the_option_of_a_backbone_is_named(of_the_file, of_the_model, advice, layout, save):
    path = save(file_of(WIDE, layout, **of_the_file))
    with pytest.raises(ValueError, match=advice) as error:
        load_weights(ConvNeXt(WIDE, **of_the_model), path)
    assert str(error.value).count('build') == 1, 'one cause, one advice'
    assert not load_weights(ConvNeXt(WIDE, **of_the_file), path).surprises


@pytest.mark.parametrize('layout', ['official', 'timm'])
@pytest.mark.parametrize(
    ('of_the_file', 'of_the_model', 'advice'),
    [
        (dict(head_hidden_size=12), {}, 'build with head_hidden_size=12'),
        ({}, dict(head_hidden_size=12), 'build with head_hidden_size=None'),
        (
            dict(num_classes=7, head_hidden_size=12),
            {},
            'the file has 7 classes, build with num_classes=7, or with 0',
        ),
    ],
)
def test_the_option_of_a_classifier_is_named(
    of_the_file, of_the_model, advice, layout, miniature, save
):
    path = save(file_of(miniature, layout, **of_the_file))
    with pytest.raises(ValueError, match=advice):
        load_weights(ConvNeXtClassifier(miniature, **of_the_model), path)
    assert not load_weights(ConvNeXtClassifier(miniature, **of_the_file), path).surprises


@pytest.mark.parametrize('first', [True, False])
def test_the_place_of_the_final_norm(first, miniature, save):
    path = save(file_of(miniature, 'timm_hnf' if first else 'timm'))
    with pytest.raises(ValueError, match=f'build with head_norm_first={first}') as error:
        load_weights(ConvNeXtClassifier(miniature, head_norm_first=not first), path)
    assert 'missing' not in str(error.value), 'all tensors fit'
    report = load_weights(ConvNeXtClassifier(miniature, head_norm_first=first), path)
    assert not report.surprises
    report = load_weights(ConvNeXt(miniature), path)
    assert any('it fills norm3' in note for note in report.notes) == first


@pytest.mark.parametrize('num_classes', [0, None])
def test_features_need_no_head(num_classes, miniature, save):
    path = save(file_of(miniature, head_hidden_size=12))
    report = load_weights(ConvNeXtClassifier(miniature, num_classes=num_classes), path)
    assert sorted(report.dropped) == [
        'head.bias',
        'head.weight',
        'pre_logits.bias',
        'pre_logits.weight',
    ]
    assert not report.surprises and not report.missing


@pytest.mark.parametrize('layout', ['timm', 'official'])
def test_timm_and_open_clip_have_another_epsilon_in_xxlarge(layout, miniature, monkeypatch):
    assert VARIANTS['xxlarge'].norm_eps == 1e-5
    # In its own sizes it takes seconds and gigabytes.
    monkeypatch.setitem(VARIANTS, 'xxlarge', replace(VARIANTS['xxlarge'], **miniature))
    models = {
        'by name': ConvNeXt('xxlarge'),
        'other': ConvNeXt('xxlarge', norm_eps=1e-6),
        'by sizes': ConvNeXt(miniature),
    }
    file, _ = export(models['other'].state_dict(), LAYOUTS[layout])
    for name, model in models.items():
        report, _ = match_weights(model, file, 'xxlarge.pth')
        if name != 'other' or layout == 'official':
            assert not report.surprises
        else:
            (surprise,) = report.surprises
            assert 'epsilon 1e-05' in surprise and 'build it with norm_eps=1e-05' in surprise


@pytest.mark.parametrize(
    ('sizes', 'cause'),
    [
        (dict(depths=(1, 2, 4, 2), dims=(24, 32, 48, 64)), 'test_convnext, whose GELU is the tanh'),
        (TOY, 'test_convnext2 or test_convnext3'),
    ],
)
def test_toys_of_timm_have_another_activation(sizes, cause, save):
    path = save(file_of(sizes, 'timm'))
    with pytest.raises(ValueError, match=cause):
        load_weights(ConvNeXtClassifier(sizes), path)
    assert not load_weights(ConvNeXtClassifier(sizes), save(file_of(sizes))).surprises


def test_other_kernels_are_named(miniature, save):
    file = file_of(miniature, 'timm')
    name = 'stages.3.blocks.0.conv_dw.weight'
    file[name] = file[name][..., :3, :3].clone()
    with pytest.raises(ValueError, match='convolutions have kernels of 3, 7, those'):
        load_weights(ConvNeXt(miniature), save(file))


def test_other_norms_are_named(miniature, save):
    file = file_of(miniature, 'timm')
    file = {name: t for name, t in file.items() if not name.endswith('norm.bias')}
    with pytest.raises(ValueError, match=r'its norms have no bias .*\*_rms models of timm'):
        load_weights(ConvNeXt(miniature), save(file))


@pytest.mark.parametrize('name', ['head.weight', 'pre_logits.weight'])
def test_a_head_that_is_a_single_number(name, miniature, save):
    path = save({**file_of(miniature), name: torch.tensor(1.0)})
    with pytest.raises(ValueError, match='strict=False loads'):
        load_weights(ConvNeXtClassifier(miniature), path)
