"""Faster parts of mmdet's detectors equal the plain ones."""

import pytest
import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.necks import FPN
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.registry import DefaultScope
from support.heads import assert_near, fast_copy, scramble
from torch import nn

from convnext_backbones.inference import detectors
from convnext_backbones.native.compiler import VARIABLE

# What mmcv and mmseg advise about the models here is not what is tested.
pytestmark = [
    pytest.mark.filterwarnings('ignore::UserWarning:mm(cv|seg)'),
    pytest.mark.usefixtures('registered', 'cpu'),
]
CHANNELS = [4, 6, 8, 10]


def maps_of(sizes, channels=CHANNELS):
    return tuple(torch.randn(2, c, *size) for c, size in zip(channels, sizes, strict=True))


@torch.no_grad()
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    'sizes', [[(16, 24), (8, 12), (4, 6), (2, 3)], [(15, 21), (8, 11), (4, 6), (2, 3)]]
)
@pytest.mark.parametrize(
    'options',
    [
        dict(num_outs=5),
        dict(num_outs=4),
        dict(num_outs=4, start_level=1),
        dict(num_outs=3, start_level=1, end_level=2),
        dict(num_outs=5, add_extra_convs='on_output'),
        dict(num_outs=4, norm_cfg=dict(type='BN')),
        dict(num_outs=4, upsample_cfg=dict(mode='bilinear')),
    ],
    ids=str,
)
def test_fpn(options, sizes, layout):
    options = {**options, 'num_outs': options['num_outs'] - ('end_level' in options)}
    plain = scramble(FPN(CHANNELS, 12, **options))
    fast = fast_copy(plain)
    assert type(fast) is detectors.InferenceFPN
    maps = maps_of(sizes)
    before = [x.clone() for x in maps]
    given = tuple(x.contiguous(memory_format=layout) for x in maps)
    found = fast(given)
    assert isinstance(found, tuple)
    for a, b in zip(found, plain(maps), strict=True):
        assert_near(a, b)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_maps_are_added_in_place():
    fine, coarse = torch.randn(2, 3, 8, 12), torch.randn(2, 3, 4, 6)
    expected = fine + coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    fine = fine.contiguous(memory_format=torch.channels_last)
    place = fine.data_ptr()
    detectors.add_upsampled(fine, coarse)
    assert torch.equal(fine, expected) and fine.data_ptr() == place


@torch.no_grad()
@pytest.mark.parametrize('num_convs', [1, 2])
def test_rpn(num_convs, monkeypatch):
    with DefaultScope.overwrite_default_scope('mmdet'):
        plain = scramble(RPNHead(in_channels=6, feat_channels=8, num_convs=num_convs))
    fast = fast_copy(plain)
    assert type(fast) is detectors.InferenceRPNHead
    maps = maps_of([(9, 12), (5, 6), (1, 1)], [6, 6, 6])
    for x in maps:
        for a, b in zip(fast.forward_single(x), plain.forward_single(x), strict=True):
            assert_near(a, b)
    seen = []
    fast.rpn_cls.register_forward_hook(lambda *_: seen.append(1))
    for a, b in zip(fast(maps), plain(maps), strict=True):
        for found, expected in zip(a, b, strict=True):
            assert_near(found, expected)
    assert len(seen) == len(maps)  # a hook sees the layer's own call


@pytest.fixture(params=['kernels in C', 'torch'])
def form(request, monkeypatch):
    monkeypatch.setenv(VARIABLE, '0' if request.param == 'torch' else '')


@torch.no_grad()
@pytest.mark.parametrize('factor', [None, 1.5])
@pytest.mark.parametrize('strides', [[4, 8, 16, 32], [4]])
def test_roi_extractor(form, strides, factor):
    layer = dict(type='RoIAlign', output_size=7, sampling_ratio=0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        plain = SingleRoIExtractor(layer, 6, strides)
    fast = fast_copy(plain)
    assert type(fast) is detectors.InferenceSingleRoIExtractor
    maps = maps_of([(256 // stride, 320 // stride) for stride in strides], [6] * len(strides))
    corners = torch.rand(60, 2) * torch.tensor([320.0, 256.0])
    sizes = torch.rand(60, 2) * torch.logspace(0.5, 2.5, 60)[:, None]
    boxes = torch.cat([corners, corners + sizes], 1)
    rois = torch.cat([(torch.arange(60) % 2)[:, None].float(), boxes], 1)
    if factor is not None and len(strides) == 1:
        pytest.skip('mmdet does not rescale RoIs of a single map')
    for some in (rois, rois[:1], rois[:0]):
        expected = plain(maps, some, factor)
        last = tuple(x.contiguous(memory_format=torch.channels_last) for x in maps)
        found = fast(last, some, factor)
        assert found.shape == expected.shape and found.is_contiguous()
        assert_near(found, expected)
    rois[3, 1:] = 1e7  # none that the kernels take
    assert_near(fast(maps, rois, factor), plain(maps, rois, factor))


def test_derived_parts_stay_as_they_are():
    class Own(FPN):
        pass

    assert type(fast_copy(Own(CHANNELS, 12, 4))) is Own
    assert not isinstance(fast_copy(nn.Sequential(nn.ReLU()))[0], detectors.InferenceFPN)
