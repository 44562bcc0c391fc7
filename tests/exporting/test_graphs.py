"""What is exported computes what the model does."""

import pytest
import torch
from mmseg.structures import SegDataSample
from support.heads import assert_near, detector, segmentor
from torch import nn
from torch.testing import assert_close

from convnext_backbones.exporting.graphs import (
    AnySizePool,
    make_graph,
)

# What mmcv and mmseg advise about the models here is not what is tested.
pytestmark = [
    pytest.mark.filterwarnings('ignore::UserWarning:mm(cv|seg)'),
    pytest.mark.usefixtures('registered'),
]


@torch.no_grad()
@pytest.mark.parametrize('head', [None, dict(type='FCNHead', num_convs=1)], ids=['upernet', 'fcn'])
@pytest.mark.parametrize('size', [(64, 96), (75, 101)])
def test_a_segmentor_predicts_the_same(head, size):
    """With normalization, upsampling and argmax inside."""
    model = segmentor(head).eval()
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
    expected = model.test_step(dict(inputs=[image], data_samples=[sample]))[0]
    logits, labels = make_graph(model, 'model')(image[None].float())
    assert_near(logits[0], expected.seg_logits.data)
    assert torch.equal(labels, expected.pred_sem_seg.data)


@torch.no_grad()
def test_the_backbone_of_a_detector():
    model = detector().eval()
    graph = make_graph(model, 'backbone')
    images = torch.randint(0, 256, (2, 3, 70, 90)).float()
    preprocessor = model.data_preprocessor
    normalized = (images.flip(1) - preprocessor.mean) / preprocessor.std
    for found, expected in zip(graph(images), model.backbone(normalized), strict=True):
        assert_near(found, expected)
    assert graph.outputs == ('map0', 'map1', 'map2', 'map3')


def test_the_model_itself_is_not_changed():
    model = segmentor().train()
    before = {name: type(module) for name, module in model.named_modules()}
    make_graph(model, 'model')
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert model.training and all(p.requires_grad for p in model.decode_head.parameters())


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (6, 6), (5, 9)])
@pytest.mark.parametrize('shape', [(1, 1), (7, 9), (12, 12), (16, 31)])
def test_pooling_of_any_size(size, shape):
    x = torch.randn(2, 3, *shape)
    assert_close(AnySizePool(size)(x), nn.AdaptiveAvgPool2d(size)(x), atol=1e-6, rtol=1e-5)


def test_what_cannot_be_exported_is_refused():
    model = segmentor()

    class Own(type(model.decode_head)):
        def predict_by_feat(self, seg_logits, batch_img_metas):
            return seg_logits

    model.decode_head.__class__ = Own
    with pytest.raises(ValueError, match='Own, which predicts in a way of its own'):
        make_graph(model, 'model')
    make_graph(model, 'backbone')
    padded = segmentor()
    padded.data_preprocessor.test_cfg = dict(size_divisor=32)
    with pytest.raises(ValueError, match="no test_cfg .* got {'size_divisor': 32}"):
        make_graph(padded, 'model')
    model.backbone = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match='ConvNeXt of this package, got EncoderDecoder with Conv'):
        make_graph(model, 'backbone')
