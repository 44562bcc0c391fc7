"""Files that other implementations write give the same outputs here as there."""

import pytest
import torch
from support.peer_models import PEERS, TOLERANCE, compare_backbone_files, compare_classifier_files

from convnext_backbones import VARIANTS, ConvNeXt, load_weights


def sizes(*fast: str):
    """All variants as parameters, of which only some are not slow."""
    return [
        variant if variant in fast else pytest.param(variant, marks=pytest.mark.slow)
        for variant in VARIANTS
    ]


@pytest.mark.parametrize('variant', sizes('atto'))
@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('transformers', {}),
        ('mmpretrain', {}),
        ('mmpretrain', {'linear_pw_conv': False}),
    ],
)
def test_the_maps_of_a_backbone_equal(name, options, variant, tmp_path):
    report, found = compare_backbone_files(PEERS[name], variant, tmp_path, **options)
    blocks = sum(VARIANTS[variant].depths)
    assert report.layout == name and len(report.loaded) == 9 * blocks + 24
    assert len(report.reshaped) == (2 * blocks if options else 0)
    assert not (report.missing or report.dropped or report.surprises or report.notes)
    assert max(found.outputs) <= TOLERANCE


@pytest.mark.parametrize('variant', sizes('atto'))
@pytest.mark.parametrize('name', ['transformers', 'mmpretrain'])
def test_the_logits_of_a_classifier_equal(name, variant, tmp_path):
    report, found = compare_classifier_files(PEERS[name], variant, tmp_path)
    assert len(report.loaded) == 9 * sum(VARIANTS[variant].depths) + 20
    assert not (report.missing or report.dropped or report.surprises)
    assert max(found.outputs) <= TOLERANCE


@pytest.mark.parametrize('kind', ['ConvNextModel', 'UperNetForSemanticSegmentation'])
@pytest.mark.parametrize('suffix', ['safetensors', 'bin'])
def test_other_models_of_transformers(kind, suffix, tmp_path, miniature):
    import transformers

    config = transformers.ConvNextConfig(
        depths=list(miniature['depths']),
        hidden_sizes=list(miniature['dims']),
        out_features=[f'stage{i}' for i in range(1, 5)],
    )
    norms = 0
    if kind.startswith('UperNet'):
        config = transformers.UperNetConfig(
            backbone_config=config, hidden_size=16, auxiliary_in_channels=24
        )
        norms = 8
    theirs = getattr(transformers, kind)(config)
    path = tmp_path / f'model.{suffix}'
    if suffix == 'bin':
        torch.save(theirs.state_dict(), path)
    else:
        theirs.save_pretrained(tmp_path)
    ours = ConvNeXt(miniature)
    report = load_weights(ours, path)
    assert len(report.loaded) == 9 * 5 + 16 + norms and not report.surprises
    assert len(report.loaded) + len(report.dropped) == len(theirs.state_dict())
    block = getattr(theirs, 'backbone', theirs).encoder.stages[2].layers[1]
    assert torch.equal(ours.stages[2][1].pwconv1.weight, block.pwconv1.weight)
    assert torch.equal(ours.stages[2][1].gamma, block.layer_scale_parameter)
