"""Files of timm and torchvision, as their users save them, loaded into ours.

Needs the environment of test_timm_torchvision.py. Those of transformers and mmpretrain are in
tests/weights/test_peer_files.py.
"""

import pytest
import torch
from support.peer_models import (
    PEERS,
    TOLERANCE,
    cases,
    compare_backbone_files,
    compare_classifier_files,
    randomize,
)
from support.timm_tags import Outcome, all_tags, case_of, is_shortened, outcome
from support.weights import random_state

from convnext_backbones import VARIANTS, ConvNeXt, ConvNeXtClassifier, load_weights
from convnext_backbones.weights.layouts import EXPORTS
from convnext_backbones.weights.names import export
from convnext_backbones.weights.published import find_published

SMALL = ('atto', 'femto', 'pico', 'nano', 'tiny')
CASES = cases(
    {'timm': SMALL, 'timm V2': ('atto',), 'timm DINOv3': ('tiny',), 'torchvision': ('tiny',)}
)


@pytest.mark.parametrize(('name', 'variant'), CASES)
def test_maps_equal(name, variant, tmp_path):
    peer = PEERS[name]
    report, found = compare_backbone_files(peer, variant, tmp_path)
    # features_only of timm, and torchvision without its classifier: neither has output norms.
    assert report.layout == peer.layout
    assert len(report.loaded) == peer.tensors(variant)
    assert len(report.missing) == 8
    assert not report.dropped and not report.surprises and not report.notes
    assert max(found.outputs) <= TOLERANCE


@pytest.mark.parametrize(('name', 'variant'), CASES)
def test_logits_equal(name, variant, tmp_path):
    peer = PEERS[name]
    report, found = compare_classifier_files(peer, variant, tmp_path)
    assert len(report.loaded) == peer.tensors(variant) + (2 if 'num_classes' in peer.head else 4)
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


# Why a file is refused.
REFUSED = {
    'convnext_zepto_rms': 'its norms have no bias',
    'convnext_zepto_rms_ols': 'its norms have no bias',
    'convnext_atto_rms': 'its norms have no bias',
    'test_convnext': 'of test_convnext, whose GELU is the tanh approximation',
    'test_convnext2': 'of test_convnext2 or test_convnext3, whose activations',
    'test_convnext3': 'its depthwise convolutions have kernels of 3, 5, 7',
}


def unique_tags() -> list[str]:
    """One tag for each network that differs from others."""
    return [*{case_of(tag): tag for tag in all_tags()}.values()]


def check(found: Outcome, tag: str) -> None:
    if reason := REFUSED.get(case_of(tag)[0]):
        assert reason in found.reason and not found.tensors
    else:
        assert found.tensors and found.largest() <= TOLERANCE


@pytest.mark.parametrize('tag', unique_tags())
def test_every_network_of_timm(tag, tmp_path):
    check(outcome(tag, tmp_path), tag)


@pytest.mark.slow
@pytest.mark.parametrize('tag', [tag for tag in unique_tags() if is_shortened(tag)])
def test_every_network_of_timm_in_full(tag, tmp_path):
    check(outcome(tag, tmp_path, shortened=False), tag)


def test_the_tags_of_timm_are_all_known():
    refused = [tag for tag in all_tags() if case_of(tag)[0] in REFUSED]
    assert len(all_tags()) == 103 and len(refused) == 6
    for tag in all_tags():
        published = find_published(f'timm/{tag}')
        assert published is not None and (published.obstacle != '') == (
            tag in refused or tag.endswith('.untrained')
        )


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        ('convnext_atto_ols', "an overlapping stem, build with stem_type='overlap_tiered'"),
        ('convnext_nano_ols', "an overlapping stem, build with stem_type='overlap'"),
        ('convnextv2_atto', 'ConvNeXt V2, build with use_grn=True'),
        ('resnet18', 'ResNet'),
        ('swin_tiny_patch4_window7_224', 'vision transformer'),
    ],
)
def test_what_does_not_fit_is_an_error(model, message, tmp_path):
    import timm

    torch.save(timm.create_model(model).state_dict(), tmp_path / 'other.pth')
    arch = next((arch for arch in ('tiny', 'nano') if arch in model), 'atto')
    with pytest.raises(ValueError, match=message):
        load_weights(ConvNeXt(arch), tmp_path / 'other.pth')


@pytest.mark.parametrize(
    ('model', 'options'),
    [('convnext_base_w', {}), ('convnext_large_d', dict(head_hidden_size=1536))],
)
def test_whole_models_of_open_clip(model, options, tmp_path):
    """With few blocks, and a text tower of one layer."""
    import open_clip

    config = open_clip.get_model_config(model)
    config['text_cfg'] |= dict(layers=1, width=64, heads=1, vocab_size=100)
    theirs = open_clip.CLIP(**config).eval()
    stages = theirs.visual.trunk.stages
    depths = (1, 1, 2, 1)
    for stage, depth in zip(stages, depths, strict=True):
        stage.blocks = stage.blocks[:depth]
    randomize(theirs)
    path = tmp_path / 'open_clip_pytorch_model.bin'
    torch.save(theirs.state_dict(), path)
    width = config['embed_dim']
    dims = VARIANTS['base' if 'base' in model else 'large'].dims
    ours = ConvNeXtClassifier(depths=depths, dims=dims, num_classes=width, **options).eval()
    report = load_weights(ours, path)
    assert not (report.missing or report.unexpected or report.surprises)
    assert any('(CLIP)' in note for note in report.notes)
    assert any('head.bias is zero' in note for note in report.notes)
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        logits, expected = ours(x), theirs.encode_image(x)
    assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()

    backbone = ConvNeXt(depths=depths, dims=dims)
    report = load_weights(backbone, path)
    assert len(report.missing) == 8 and not report.surprises
    block = theirs.visual.trunk.stages[2].blocks[1]
    assert torch.equal(backbone.stages[2][1].pwconv1.weight, block.mlp.fc1.weight)


@pytest.mark.parametrize(
    ('model', 'layout', 'options'),
    [
        ('convnext_atto', 'timm', {}),
        ('convnext_atto_ols', 'timm', dict(stem_type='overlap_tiered')),
        ('convnextv2_atto', 'timm', dict(use_grn=True)),
        ('convnext_tiny', 'timm', {}),
        ('convnext_tiny_hnf', 'timm_hnf', dict(head_norm_first=True)),
    ],
)
def test_timm_loads_what_we_export(model, layout, options, tmp_path):
    import timm

    arch = 'tiny' if 'tiny' in model else 'atto'
    state = random_state(ConvNeXtClassifier(arch, **options))
    exported, homeless = export(state, EXPORTS[layout])
    assert not homeless
    timm.create_model(model, num_classes=1000).load_state_dict(exported, strict=True)
