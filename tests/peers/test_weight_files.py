"""Files of timm and torchvision, as their users save them, loaded into ours.

Needs the environment of test_timm_torchvision.py. Those of transformers and mmpretrain are in
tests/weights/test_peer_files.py.
"""

import pytest
import torch
from support.peer_models import (
    PEERS,
    TOLERANCE,
    compare_backbone_files,
    compare_classifier_files,
    randomize,
)

from convnext_backbones import VARIANTS, ConvNeXt, ConvNeXtClassifier, load_weights

CASES = [(name, variant) for name in ('timm', 'torchvision') for variant in PEERS[name].variants]


@pytest.mark.parametrize(('name', 'variant'), CASES)
def test_maps_equal(name, variant, tmp_path):
    report, found = compare_backbone_files(PEERS[name], variant, tmp_path)
    # features_only of timm, and torchvision without its classifier: neither has output norms.
    assert report.layout == name
    assert len(report.loaded) == 9 * sum(VARIANTS[variant].depths) + 16
    assert len(report.missing) == 8
    assert not report.dropped and not report.surprises and not report.notes
    assert max(found.outputs) <= TOLERANCE


@pytest.mark.parametrize(('name', 'variant'), CASES)
def test_logits_equal(name, variant, tmp_path):
    report, found = compare_classifier_files(PEERS[name], variant, tmp_path)
    assert len(report.loaded) == 9 * sum(VARIANTS[variant].depths) + 20
    assert not report.missing and not report.dropped and not report.surprises
    assert max(found.outputs) <= TOLERANCE


@pytest.mark.parametrize(('name', 'variant'), [('timm', 'atto'), ('torchvision', 'tiny')])
def test_a_classifier_starts_a_backbone(name, variant, tmp_path):
    with torch.device('meta'):
        weights = ConvNeXtClassifier(variant)
    randomize(weights)
    theirs = PEERS[name].build_classifier(variant)
    PEERS[name].copy_weights(weights, theirs)
    backbone = ConvNeXt(variant)
    report = load_weights(backbone, PEERS[name].save(theirs, tmp_path))
    assert len(report.missing) == 8 and len(report.dropped) == 4 and not report.surprises
    for key, tensor in backbone.stages.state_dict().items():
        assert torch.equal(tensor, weights.stages.state_dict()[key])


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        ('convnext_atto_ols', 'unexpected .*stem.2'),
        ('convnext_tiny_hnf', 'unexpected .*norm_pre'),
        ('convnextv2_atto', 'ConvNeXt V2'),
        ('resnet18', 'ResNet'),
        ('swin_tiny_patch4_window7_224', 'vision transformer'),
    ],
)
def test_what_cannot_be_mapped_is_an_error(model, message, tmp_path):
    import timm

    torch.save(timm.create_model(model).state_dict(), tmp_path / 'other.pth')
    arch = 'tiny' if 'tiny' in model else 'atto'
    with pytest.raises(ValueError, match=message):
        load_weights(ConvNeXt(arch), tmp_path / 'other.pth')
