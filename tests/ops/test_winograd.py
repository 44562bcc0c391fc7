"""3x3 convolutions with half of the multiplications equal oneDNN's, which equal torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convnext_backbones.models.layers import HAS_ONEDNN
from convnext_backbones.ops import winograd

needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason='its products are convolutions of oneDNN')


def largest_difference(actual, expected) -> float:
    """As a fraction of the largest value."""
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@needs_onednn
@pytest.mark.parametrize('part', [1, 2**12, 2**15, winograd.PART_BYTES], ids='{} bytes'.format)
@pytest.mark.parametrize(
    'shape',
    [(1, 8, 16, 5), (1, 8, 1, 9), (2, 8, 3, 1), (1, 8, 17, 4), (5, 8, 14, 14), (2, 12, 23, 30)],
    ids=str,
)
@pytest.mark.parametrize('relu', [False, True])
def test_convolve(monkeypatch, shape, part, relu):
    """Bands of one row of tiles up to several samples, of heights that four divides and not."""
    monkeypatch.setattr(winograd, 'PART_BYTES', part)
    x, weight, bias = torch.randn(shape), torch.randn(10, shape[1], 3, 3), torch.randn(10)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    expected = expected.relu() if relu else expected
    before = x.clone(), weight.clone(), bias.clone()
    for layout in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=layout)
        actual = winograd.convolve(given, weight.contiguous(memory_format=layout), bias, relu)
        assert actual.stride(1) == 1 and actual.dtype == torch.float32
        assert largest_difference(actual.double(), expected) < 1e-5
    assert all(map(torch.equal, (x, weight, bias), before))


@needs_onednn
def test_convolve_without_bias():
    """And in bands of the size that is used, more than one."""
    x, weight = torch.randn(1, 256, 76, 64), torch.randn(256, 256, 3, 3)
    expected = F.conv2d(x, weight, padding=1)
    assert largest_difference(winograd.convolve(x, weight), expected) < 1e-5


@pytest.mark.parametrize(
    ('covered', 'options'),
    [
        (True, dict()),
        (True, dict(bias=False)),
        (False, dict(kernel_size=1, padding=0)),
        (False, dict(kernel_size=(3, 1))),
        (False, dict(padding=0)),
        (False, dict(padding='same')),
        (False, dict(padding_mode='reflect')),
        (False, dict(stride=2)),
        (False, dict(stride=(1, 2))),
        (False, dict(dilation=2)),
        (False, dict(groups=4)),
    ],
    ids=str,
)
def test_what_is_covered(covered, options):
    conv = nn.Conv2d(8, 8, **{'kernel_size': 3, 'padding': 1, **options})
    assert winograd.is_covered(conv) is covered


@pytest.mark.parametrize(
    ('faster', 'shape', 'out_channels'),
    [
        (True, (1, 256, 50, 60), 256),
        (True, (60, 256, 5, 10), 192),
        (False, (1, 256, 50, 59), 256),
        (False, (0, 256, 64, 64), 256),
        (False, (1, 191, 64, 64), 256),
        (False, (1, 256, 64, 64), 191),
    ],
    ids=str,
)
def test_where_it_is_faster(faster, shape, out_channels):
    weight = torch.empty(out_channels, shape[1], 3, 3)
    assert winograd.is_faster(weight, torch.empty(shape)) is faster
