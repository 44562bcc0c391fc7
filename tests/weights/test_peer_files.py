"""Files that other implementations write give the same outputs here as there."""

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

from convnext_backbones import VARIANTS, ConvNeXt, load_weights

V1 = {'transformers': ('atto',), 'mmpretrain': ('atto',)}
FAST = V1 | {'transformers V2': ('atto',), 'mmpretrain V2': ('atto',), 'transformers DINOv3': ()}


@pytest.mark.parametrize(('name', 'variant'), cases(FAST))
@pytest.mark.parametrize('linear', [True, False])
def test_the_maps_of_a_backbone_equal(name, linear, variant, tmp_path):
    peer = PEERS[name]
    if not linear and peer.name != 'mmpretrain':
        pytest.skip('mmpretrain alone has pointwise layers in either form')
    options = {} if linear else {'linear_pw_conv': False}
    report, found = compare_backbone_files(peer, variant, tmp_path, **options)
    blocks = sum(VARIANTS[variant].depths)
    assert report.layout == peer.layout
    assert len(report.loaded) == peer.tensors(variant) + 8 * peer.has_output_norms
    # Pointwise layers as convolutions, and GRN of rank 4.
    reshaped = 2 * ((not linear) + (name == 'transformers V2'))
    assert len(report.reshaped) == reshaped * blocks
    assert len(report.missing) == 8 * (not peer.has_output_norms)
    assert not (report.dropped or report.surprises or report.notes)
    assert max(found.outputs) <= TOLERANCE


@pytest.mark.parametrize(('name', 'variant'), cases(FAST))
def test_the_logits_of_a_classifier_equal(name, variant, tmp_path):
    peer = PEERS[name]
    report, found = compare_classifier_files(peer, variant, tmp_path)
    assert len(report.loaded) == peer.tensors(variant) + (2 if 'num_classes' in peer.head else 4)
    assert not (report.missing or report.dropped or report.surprises)
    assert max(found.outputs) <= TOLERANCE


@pytest.mark.parametrize('in_memory', [False, True])
def test_the_final_norm_of_dinov3_is_that_of_the_last_map(in_memory, miniature, tmp_path):
    import transformers

    config = transformers.DINOv3ConvNextConfig(
        depths=list(miniature['depths']), hidden_sizes=list(miniature['dims'])
    )
    with torch.device('meta'):
        theirs = transformers.DINOv3ConvNextModel(config)
    randomize(theirs)
    if in_memory:
        path = tmp_path / 'state.pth'
        torch.save(theirs.state_dict(), path)
    else:
        theirs.save_pretrained(tmp_path)
        path = tmp_path / 'model.safetensors'
    ours = ConvNeXt(miniature).eval()
    report = load_weights(ours, path)
    assert report.layout == 'dinov3' and not (report.dropped or report.surprises)
    assert report.missing == [f'norm{i}.{p}' for i in range(3) for p in ('weight', 'bias')]
    assert len(report.notes) == 1 and 'it fills norm3' in report.notes[0]
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        tokens = theirs(x).last_hidden_state[:, 1:]  # the first is the pooled one
        last = ours(x)[-1].flatten(2).transpose(1, 2)
    assert (last - tokens).abs().max() <= TOLERANCE * tokens.abs().max()


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
