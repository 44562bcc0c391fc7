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
from support.weights import random_state, save_classifier, tensors

from convnext_backbones import VARIANTS, ConvNeXt, load_weights
from convnext_backbones.benchmark.peers import import_mmpretrain
from convnext_backbones.weights.convert import convert
from convnext_backbones.weights.layouts import LAYOUTS
from convnext_backbones.weights.names import export

V1 = {'transformers': ('atto',), 'mmpretrain': ('atto',)}
FAST = V1 | {'transformers V2': ('atto',), 'mmpretrain V2': ('atto',), 'transformers DINOv3': ()}


@pytest.mark.parametrize(
    ('name', 'variant', 'linear'),
    [
        pytest.param(*case.values, linear, marks=case.marks)
        for case in cases(FAST)
        for linear in (True, False)
        # mmpretrain alone has pointwise layers in either form.
        if linear or PEERS[case.values[0]].name == 'mmpretrain'
    ],
)
def test_the_maps_of_a_backbone_equal(name, variant, linear, tmp_path):
    peer = PEERS[name]
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


@pytest.mark.parametrize(
    ('name', 'variant'),
    [
        ('transformers', 'atto'),
        ('transformers V2', 'atto'),
        ('mmpretrain', 'atto'),
        ('mmpretrain V2', 'atto'),
        ('transformers DINOv3', 'tiny'),
    ],
)
@pytest.mark.parametrize('whole', [False, True])
def test_the_peer_loads_what_we_export(name, variant, whole):
    """Strictly, so that names and shapes are the project's."""
    peer = PEERS[name]
    with torch.device('meta'):
        ours = peer.classifier(variant) if whole else peer.backbone(variant)
    theirs = peer.build_classifier(variant) if whole else peer.build(variant)
    randomize(ours)
    exported, homeless = export(ours.state_dict(), LAYOUTS[peer.layout])
    assert len(homeless) == (0 if whole or peer.has_output_norms else 8)
    if peer.layout == 'dinov3':  # from_pretrained does the same
        exported = {
            f'model.{key}' if key.startswith('stages') else key: tensor
            for key, tensor in exported.items()
        }
    theirs.load_state_dict(exported, strict=True, assign=True)
    assert peer.copy_weights(ours, theirs) == len(exported)


def test_transformers_reads_the_files_that_we_write(miniature, tmp_path):
    import transformers

    config = transformers.DINOv3ConvNextConfig(
        depths=list(miniature['depths']), hidden_sizes=list(miniature['dims'])
    )
    config.save_pretrained(tmp_path)
    official = save_classifier(miniature, tmp_path, num_classes=0)
    convert(official, tmp_path / 'model.safetensors', 'dinov3')
    theirs, info = transformers.DINOv3ConvNextModel.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values()), info
    state = tensors(official)
    assert torch.equal(theirs.layer_norm.weight, state['norm.weight'])
    block = theirs.model.stages[2].layers[1]
    assert torch.equal(block.pointwise_conv1.weight, state['stages.2.1.pwconv1.weight'])


@pytest.mark.parametrize('use_grn', [False, True])
def test_the_pretraining_of_spark(use_grn, miniature, save):
    import_mmpretrain()
    from mmpretrain.models.backbones.sparse_convnext import SparseConvNeXt

    arch = dict(depths=list(miniature['depths']), channels=list(miniature['dims']))
    theirs = SparseConvNeXt(
        arch, use_grn=use_grn, out_indices=(0, 1, 2, 3), layer_scale_init_value=1.0 - use_grn
    )
    file = {f'backbone.{name}': tensor for name, tensor in random_state(theirs).items()}
    beside = {'neck.decoder.0.weight': torch.rand(3, 3), 'mask_tokens.0': torch.rand(1)}
    ours = ConvNeXt(miniature, use_grn=use_grn)
    report = load_weights(ours, save({'state_dict': file | beside}))
    assert report.layout == 'mmpretrain' and not report.surprises
    assert len(report.loaded) == (5 * (10 if use_grn else 9) + 16) and len(report.missing) == 8
    assert {*beside} <= {*report.dropped}
    if use_grn:
        gamma = file['backbone.stages.2.1.grn.gamma']
        assert torch.equal(ours.stages[2][1].grn.gamma, gamma)


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
