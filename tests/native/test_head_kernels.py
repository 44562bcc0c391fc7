"""The kernels of necks and heads compute what torch and the plain operators compute."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from support.native import needs_compiler, randomized
from torch import nn
from torch.testing import assert_close

from convnext_backbones.native.head_kernels import align_regions, can_align, convolve_3x3
from convnext_backbones.ops.roi_align import Grid, roi_align

pytestmark = needs_compiler
LAST = torch.channels_last


@torch.no_grad()
@pytest.mark.parametrize('relu', [False, True])
@pytest.mark.parametrize(
    ('channels', 'out_channels'), [(1, 1), (7, 5), (8, 16), (40, 24), (96, 130)]
)
def test_convolution_of_3x3(library, threads, channels, out_channels, relu):
    convolution = randomized(nn.Conv2d(channels, out_channels, 3, padding=1))
    for samples, *size in ((1, 1, 1), (1, 2, 9), (2, 8, 12), (3, 5, 30)):
        x = torch.randn(samples, channels, *size)
        for bias in (convolution.bias, None):
            expected = F.conv2d(
                x.double(),
                convolution.weight.double(),
                None if bias is None else bias.double(),
                padding=1,
            )
            scale = expected.abs().max().item()
            expected = expected.relu() if relu else expected
            found = convolve_3x3(library, x, convolution.weight, bias, relu)
            assert_close(found, expected.float(), atol=2e-5 * scale, rtol=0)


@pytest.fixture
def rois():
    """Boxes in two maps of 20 x 30 cells, four pixels each; some reach out or are empty."""
    corners = torch.rand(40, 2) * torch.tensor([130.0, 90.0]) - 5
    boxes = torch.cat([corners, corners + torch.rand(40, 2) * 90], 1)
    special = [[10, 10, 10, 10], [-90, -90, 220, 180], [500, 10, 600, 30], [50, 40, 20, 10]]
    boxes = torch.cat([boxes, torch.tensor(special)])
    return torch.cat([(torch.arange(len(boxes)) % 2)[:, None].float(), boxes], 1)


@torch.no_grad()
@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('channels', [1, 5, 24, 130, 256])
def test_regions(library, threads, rois, channels, ratio, aligned):
    maps = torch.randn(2, channels, 20, 30)
    for size, layout in itertools.product(((7, 7), (3, 5)), (torch.contiguous_format, LAST)):
        expected = roi_align(maps, rois, Grid(size, 0.25, ratio, aligned))
        guard = 64
        places = torch.randperm(len(rois))
        out = torch.full((len(rois) + 2 * guard, channels, *size), 7.0)
        out = out.contiguous(memory_format=layout)
        options = dict(scale=0.25, ratio=ratio, aligned=aligned)
        align_regions(library, maps, rois, out, places + guard, **options)
        assert_close(out[guard:-guard][places], expected, atol=1e-5, rtol=0)
        assert (out[:guard] == 7).all() and (out[-guard:] == 7).all()


def test_what_regions_the_kernels_take(rois):
    maps = torch.randn(2, 3, 20, 30)
    assert can_align(maps, rois, 0.25)
    assert not can_align(maps, rois[:0], 0.25)
    assert not can_align(maps[:0], rois, 0.25)
    assert not can_align(maps.double(), rois, 0.25)
    assert not can_align(maps[:1], rois, 0.25)  # of the other map
    for value in (float('nan'), float('inf'), 1e6, -1e6):
        odd = rois.clone()
        odd[3, 4] = value
        assert not can_align(maps, odd, 0.25)
    odd = rois.clone()
    odd[3, 0] = float('nan')
    assert not can_align(maps, odd, 0.25)
