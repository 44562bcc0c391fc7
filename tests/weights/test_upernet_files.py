"""UperNet of transformers, with its heads, as a segmentor of mmseg with our backbone, and back."""

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from support.peer_models import TOLERANCE, randomize
from support.weights import equal, holds, tensors

from convnext_backbones import load_weights
from convnext_backbones.io.checkpoint import read_checkpoint
from tools import convert_weights

CLASSES, WIDTH = 7, 16


def build_theirs(miniature, version: str):
    """A randomly initialized model, as configs of the hub describe it."""
    import transformers

    config = getattr(transformers, f'ConvNext{version}Config')(
        depths=list(miniature['depths']),
        hidden_sizes=list(miniature['dims']),
        out_features=[f'stage{i}' for i in range(1, 5)],
        **({} if version else {'layer_scale_init_value': 1.0}),
    )
    theirs = transformers.UperNetForSemanticSegmentation(
        transformers.UperNetConfig(
            backbone_config=config,
            hidden_size=WIDTH,
            auxiliary_in_channels=miniature['dims'][2],
            auxiliary_channels=12,
            num_labels=CLASSES,
        )
    )
    randomize(theirs)
    torch.manual_seed(0)
    for name, buffer in theirs.named_buffers():
        if name.endswith('running_mean'):
            buffer.uniform_(-0.2, 0.2)
        elif name.endswith('running_var'):
            buffer.uniform_(0.5, 1.5)
        else:
            buffer.fill_(3)
    return theirs


def build_ours(miniature, **backbone):
    init_default_scope('mmseg')
    head = dict(
        num_classes=CLASSES,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        dropout_ratio=0.1,
    )
    return MODELS.build(
        dict(
            type='mmseg.EncoderDecoder',
            backbone=dict(type='mmengine.ConvNeXt', arch=miniature, **backbone),
            decode_head=dict(
                type='mmseg.UPerHead',
                in_channels=list(miniature['dims']),
                in_index=[0, 1, 2, 3],
                pool_scales=(1, 2, 3, 6),
                channels=WIDTH,
                **head,
            ),
            auxiliary_head=dict(
                type='mmseg.FCNHead',
                in_channels=miniature['dims'][2],
                in_index=2,
                channels=12,
                num_convs=1,
                concat_input=False,
                **head,
            ),
            test_cfg=dict(mode='whole'),
        )
    ).eval()


@pytest.mark.parametrize('version', ['', 'V2'])
def test_upernet_of_transformers_and_back(version, miniature, tmp_path, capsys):
    theirs = build_theirs(miniature, version)
    theirs.save_pretrained(tmp_path)
    file = tmp_path / 'model.safetensors'
    ours = build_ours(miniature, use_grn=bool(version))
    report = load_weights(ours, file)
    assert len(report.loaded) == len(theirs.state_dict()) == len(ours.state_dict())
    assert report.layout == 'transformers' and not report.notes and not report.surprises

    images = torch.randn(2, 3, 96, 128)
    with torch.inference_mode():
        maps = theirs.backbone(images).feature_maps
        for head, their_head in (
            (ours.decode_head, theirs.decode_head),
            (ours.auxiliary_head, theirs.auxiliary_head),
        ):
            logits = head(ours.backbone(images))
            expected = their_head(maps)
            assert logits.shape == expected.shape and logits.shape[1] == CLASSES
            assert expected.std((2, 3)).min() > 0.02, 'ReLU has left nothing to compare'
            assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()

    # A checkpoint of a training of mmseg, with what it keeps beside the weights.
    torch.save({'state_dict': ours.state_dict(), 'meta': {'epoch': 3}}, tmp_path / 'mmseg.pth')
    back = tmp_path / 'back.safetensors'
    convert_weights.main([str(tmp_path / 'mmseg.pth'), str(back), '--to', 'transformers'])
    assert ', 0 skipped' in capsys.readouterr().out
    assert equal(file, back)
    theirs.load_state_dict(tensors(back), strict=True)
    flat = tmp_path / 'pytorch_model.bin'
    convert_weights.main([str(tmp_path / 'mmseg.pth'), str(flat), '--to', 'transformers'])
    assert 'backbone.embeddings.layernorm.bias' in read_checkpoint(flat)

    again = build_ours(miniature, use_grn=bool(version))
    convert_weights.main([str(file), str(tmp_path / 'mm.pth'), '--to', 'official'])
    load_weights(again, tmp_path / 'mm.pth')
    assert holds(again, ours.state_dict())


def test_other_heads_have_no_place_there(miniature, tmp_path):
    state = build_ours(miniature).state_dict()
    state = {
        name: tensor
        for name, tensor in state.items()
        if name.startswith(('backbone.', 'auxiliary_head.'))
    }
    torch.save(state, tmp_path / 'fcn.pth')
    with pytest.raises(SystemExit, match='the layout transformers has a place for, got 8 others'):
        convert_weights.main(
            [str(tmp_path / 'fcn.pth'), str(tmp_path / 'no.pth'), '--to', 'transformers']
        )
