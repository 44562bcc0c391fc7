"""Stem and downsampling in bf16: right at every size, on CPUs whose convolutions are not."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from convnext_backbones import ConvNeXt
from convnext_backbones.models.layers import PatchConv2d, convolve_patches

# As fractions of the largest value; bf16 has 8 bits.
TOLERANCE = 0.02
WIDTHS = range(32, 161)


@pytest.mark.parametrize('size', [2, 4])
@pytest.mark.parametrize('channels', [(1, 3), (3, 8), (5, 7), (33, 16)], ids=str)
def test_as_a_linear_layer_over_patches(size, channels):
    weight = torch.randn(channels[1], channels[0], size, size, dtype=torch.float64)
    bias = torch.randn(channels[1], dtype=torch.float64)
    for height in (size, size + 1, 3 * size):
        for width in range(size, 8 * size + 1):
            x = torch.randn(2, channels[0], height, width, dtype=torch.float64)
            assert_close(convolve_patches(x, weight, bias), F.conv2d(x, weight, bias, size))


@pytest.mark.parametrize('size', [2, 4])
def test_patch_convolutions_in_bf16(size):
    """Of one column and more, also where oneDNN's own convolution would compute them."""
    for channels in (3, 8, 24, 40):
        layer = PatchConv2d(channels, 16, size)
        for width in range(size, 9 * size):
            x = torch.randn(1, channels, 2 * size, width)
            expected = layer(x)
            with torch.autocast('cpu', torch.bfloat16):
                actual = layer(x)
            assert actual.dtype == torch.bfloat16
            limit = TOLERANCE * expected.abs().max().item()
            assert_close(actual.float(), expected, atol=limit, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize('dims', [(5, 7, 9, 11), (8, 16, 24, 32)], ids=str)
def test_maps_in_bf16_at_every_width(dims):
    net = ConvNeXt(dict(depths=(1, 1, 1, 1), dims=dims), layer_scale_init_value=1.0).eval()
    plain = ConvNeXt(dict(depths=(1, 1, 1, 1), dims=dims), layer_scale_init_value=1.0).eval()
    plain.load_state_dict(net.state_dict())
    half = plain.bfloat16()
    for width in WIDTHS:
        x = torch.randn(1, 3, (32, 47, 64)[width % 3], width)
        with torch.autocast('cpu', torch.bfloat16):
            automatic = net(x)
        for expected, *others in zip(net(x), automatic, half(x.bfloat16()), strict=True):
            for actual in others:
                assert (actual.float() - expected).abs().max() < 0.1 * expected.abs().max()
