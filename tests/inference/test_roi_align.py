"""RoIAlign as weighted sums equals that of mmcv."""

import pytest
import torch
from mmcv.ops import RoIAlign
from support.heads import assert_near, fast_copy

from convnext_backbones.inference import roi_align
from convnext_backbones.inference.roi_align import InferenceRoIAlign
from convnext_backbones.native.compiler import VARIABLE

# What mmcv and mmseg advise about the models here is not what is tested.
pytestmark = [
    pytest.mark.filterwarnings('ignore::UserWarning:mm(cv|seg)'),
    pytest.mark.usefixtures('registered'),
]


@pytest.fixture(autouse=True, params=['kernels in C', 'torch'])
def form(request, monkeypatch):
    monkeypatch.setenv(VARIABLE, '0' if request.param == 'torch' else '')


@pytest.fixture
def rois():
    """Boxes in two images of 80 x 120 pixels, most of them within; some extreme."""
    corners = torch.rand(60, 2) * torch.tensor([130.0, 90.0]) - 5
    boxes = torch.cat([corners, corners + torch.rand(60, 2) * 60], 1)
    extreme = torch.tensor(
        [
            [10.0, 10, 10, 10],  # without size
            [10, 10, 50, 10],  # without height
            [-300, -300, -200, -200],  # outside
            [500, 10, 600, 30],  # outside
            [-90, -90, 220, 180],  # huge
            [0, 0, 120, 80],  # the map
            [119.9, 79.9, 120, 80],  # in its corner
            [-4, -4, 0, 0],
            *([2.0, 2, 2 + 28 * i, 2 + 28 * j] for i in (1, 2, 3) for j in (1, 2)),  # whole bins
            *([2.0, 2, 2 + 20 * i, 2 + 12 * j] for i in (1, 2, 3) for j in (1, 2)),
        ]
    )
    boxes = torch.cat([boxes, extreme])
    images = torch.arange(len(boxes)) % 2
    return torch.cat([images[:, None].float(), boxes], 1)


def test_roi_align_at_the_edge():
    """Rounding decides whether a sample of this box is a cell outside, and counts, or further."""
    rois = torch.tensor([[1.0, -1000, -1000, 1000, 1000]])
    plain = RoIAlign((3, 5), 0.25, 0)
    maps = torch.randn(2, 6, 20, 30)
    assert_near(fast_copy(plain)(maps, rois), plain(maps, rois))


@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_roi_align_of_negative_sizes(sampling_ratio):
    """As mmcv without `aligned`; with it, mmcv refuses them."""
    rois = torch.tensor([[0.0, 50, 40, 20, 10], [1, 50, 10, 20, 40], [0, 20, 40, 50, 10]])
    plain = RoIAlign(7, 0.25, sampling_ratio, aligned=False)
    maps = torch.randn(2, 6, 20, 30)
    assert_near(fast_copy(plain)(maps, rois), plain(maps, rois))


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('output_size', [(7, 7), (3, 5)])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('scale', [0.25, 1.0])
def test_roi_align(rois, memory_format, output_size, sampling_ratio, aligned, scale):
    plain = RoIAlign(output_size, scale, sampling_ratio, aligned=aligned)
    fast = fast_copy(plain)
    assert type(fast) is InferenceRoIAlign
    maps = torch.randn(2, 6, int(80 * scale), int(120 * scale))
    expected = plain(maps, rois)
    maps = maps.contiguous(memory_format=memory_format)
    before = rois.clone()
    for i in range(0, len(rois), 11):  # a difference of one is not to hide behind the others
        assert_near(fast(maps, rois[i : i + 11]), expected[i : i + 11])
    assert torch.equal(fast(maps, rois)[:11], fast(maps, rois[:11]))
    assert torch.equal(rois, before)
    none = fast(maps, rois[:0])
    assert none.shape == plain(maps.contiguous(), rois[:0]).shape == (0, 6, *output_size)


def test_roi_align_of_a_map_of_one_cell(rois):
    plain = RoIAlign(2, 1 / 120, 0)
    maps = torch.randn(2, 3, 1, 1)
    assert_near(fast_copy(plain)(maps, rois), plain(maps, rois))


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_roi_align_falls_back(rois, monkeypatch, memory_format):
    """It then is mmcv's, which takes channels_last for what it is not."""
    maps = torch.randn(2, 6, 20, 30).contiguous(memory_format=memory_format)
    monkeypatch.setattr(roi_align, 'roi_align', None)
    largest = RoIAlign(3, 0.25, 2, pool_mode='max')
    assert torch.equal(fast_copy(largest)(maps, rois), largest(maps.contiguous(), rois))
    plain = RoIAlign(3, 0.25, 2)
    fast = fast_copy(plain)
    expected = plain(maps.double().contiguous(), rois.double())
    assert torch.equal(fast(maps.double(), rois.double()), expected)
    gradients = []
    for layer in (plain, fast):
        x = maps.contiguous().requires_grad_()
        layer(x, rois).square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)
