"""The kernels in C compute what the modules of torch compute."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from support.native import needs_compiler, randomized
from torch.testing import assert_close

from convnext_backbones.models.block import Block
from convnext_backbones.models.layers import LayerNorm2d, PatchConv2d
from convnext_backbones.native import kernels

pytestmark = needs_compiler
LAST = torch.channels_last
# One position; less than a tile; parts of tiles at both ends; more than one tile in each direction.
SIZES = [(1, 1), (1, 9), (7, 7), (13, 17), (3, 50), (26, 35)]


def assert_near(actual, expected, tolerance=2e-6):
    assert_close(actual, expected.float(), atol=tolerance * expected.abs().max().item(), rtol=0)


def run_block(library, block, x, scratch=None):
    y = x.clone(memory_format=LAST)
    grn = block.grn
    weights = kernels.BlockWeights(
        block.dwconv.weight,
        block.dwconv.bias,
        block.norm.weight,
        block.norm.bias,
        block.pwconv1.weight,
        block.pwconv1.bias,
        block.pwconv2.weight,
        block.pwconv2.bias,
        grn and grn.gamma,
        grn and grn.beta,
        block.gamma,
    )
    kernels.add_branch(library, y, weights, block.norm.eps, scratch or kernels.Scratch())
    return y


@torch.no_grad()
@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
@pytest.mark.parametrize('channels', [1, 5, 8, 24, 40, 128])
def test_block(library, size, use_grn, channels):
    for samples, layer_scale in ((1, 1.0), (3, 0.0)):
        block = randomized(Block(channels, 0.0, layer_scale, use_grn=use_grn))
        x = torch.randn(samples, channels, *size).contiguous(memory_format=LAST)
        expected = block.double()(x.double())
        assert_near(run_block(library, block.float(), x), expected)


@torch.no_grad()
@pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
def test_block_with_threads(library, threads, use_grn):
    """The outcome does not depend on who computes which part, but for the sums of GRN."""
    block = randomized(Block(100, 0.0, 1.0, use_grn=use_grn))
    x = torch.randn(2, 100, 21, 40).contiguous(memory_format=LAST)
    expected = block.double()(x.double())
    block.float()
    first, second = (run_block(library, block, x) for _ in range(2))
    assert_near(first, expected)
    assert_near(second, expected)
    if not use_grn:
        assert torch.equal(first, second)


@torch.no_grad()
def test_one_scratch_serves_blocks_of_any_size(library):
    scratch = kernels.Scratch()
    for channels, size in ((8, (30, 30)), (64, (5, 5)), (16, (40, 41))):
        block = randomized(Block(channels, 0.0, 1.0))
        x = torch.randn(1, channels, *size).contiguous(memory_format=LAST)
        expected = block.double()(x.double())
        assert_near(run_block(library, block.float(), x, scratch), expected)


@torch.no_grad()
def test_values_of_any_size_pass_gelu(library):
    """Where GELU is zero or the identity, and where infinities or NaN come in."""
    block = randomized(Block(8, 0.0, 1.0))
    block.pwconv1.bias.copy_(torch.linspace(-30, 30, 32))
    x = torch.randn(1, 8, 6, 6).contiguous(memory_format=LAST)
    expected = block.double()(x.double())
    block.float()
    assert_near(run_block(library, block, x), expected)
    x[0, 3, 2, 2] = torch.nan
    assert run_block(library, block, x).isnan().any()


@torch.no_grad()
def test_gelu_is_the_exact_one(library):
    """Off by 3e-7 of the input at most: one hidden channel shows what each position has."""
    block = randomized(Block(1, 0.0, 0.0))
    values = torch.linspace(-9, 9, 1801)
    block.dwconv.weight.zero_()
    block.norm.weight.zero_()
    block.pwconv2.bias.zero_()
    block.pwconv2.weight.copy_(torch.tensor([[1.0, 0, 0, 0]]))
    block.norm.bias.fill_(1)
    x = torch.zeros(1, 1, 1, 1).contiguous(memory_format=LAST)
    for value in values.tolist():
        block.pwconv1.weight.zero_()
        block.pwconv1.bias.fill_(value)
        found = run_block(library, block, x).item()
        expected = F.gelu(torch.tensor(value, dtype=torch.float64)).item()
        assert abs(found - expected) <= 3e-7 * max(abs(value), 0.1)


@torch.no_grad()
@pytest.mark.parametrize(
    ('channels', 'out_channels', 'size'), [(3, 20, 4), (1, 8, 2), (4, 5, 7), (3, 96, 14)]
)
def test_stem(library, channels, out_channels, size):
    convolution, norm = PatchConv2d(channels, out_channels, size), LayerNorm2d(out_channels)
    randomized(convolution), randomized(norm)
    for shape in ((1, size, size), (2, 5 * size + 1, 3 * size + size - 1), (1, 60, 90)):
        image = torch.randn(shape[0], channels, *shape[1:])
        expected = norm.double()(convolution.double()(image.double()))
        convolution.float(), norm.float()
        for x in (image, image.contiguous(memory_format=LAST), image.mT.contiguous().mT):
            found = kernels.downsample(library, x, convolution, norm, False, kernels.Scratch())
            assert found.is_contiguous(memory_format=LAST)
            assert_near(found, expected)


@torch.no_grad()
@pytest.mark.parametrize(('channels', 'out_channels'), [(1, 3), (8, 16), (20, 40), (96, 192)])
def test_downsampling(library, threads, channels, out_channels):
    norm, convolution = LayerNorm2d(channels), PatchConv2d(channels, out_channels, 2)
    randomized(convolution), randomized(norm)
    convolution.bias = None if channels == 8 else convolution.bias
    for shape in ((1, 2, 2), (2, 7, 9), (1, 20, 34)):
        x = torch.randn(shape[0], channels, *shape[1:]).contiguous(memory_format=LAST)
        before = x.clone()
        expected = convolution.double()(norm.double()(x.double()))
        convolution.float(), norm.float()
        found = kernels.downsample(library, x, convolution, norm, True, kernels.Scratch())
        assert_near(found, expected)
        assert torch.equal(x, before)


@torch.no_grad()
@pytest.mark.parametrize('layout', [torch.contiguous_format, LAST], ids=['NCHW', 'NHWC'])
@pytest.mark.parametrize('channels', [1, 5, 8, 20, 96])
def test_output_norm(library, threads, layout, channels):
    norm = randomized(LayerNorm2d(channels, eps=1e-3))
    for samples, *size in ((1, 1, 1), (3, 5, 7), (2, 8, 8), (1, 1, 9)):
        x = torch.randn(samples, channels, *size).contiguous(memory_format=LAST)
        out = torch.full_like(x, torch.nan, memory_format=layout)
        assert kernels.normalize_map(library, x, norm, out) is out
        assert_near(out, norm.double()(x.double()), 1e-5 if channels == 1 else 2e-6)
        norm.float()


@torch.no_grad()
def test_nothing_outside_of_the_maps_is_written(library):
    """Maps lie between guards that stay as they were."""
    guard = 4096
    for channels, size in itertools.product((5, 24), ((7, 9), (13, 31))):
        count = channels * size[0] * size[1]
        memory = torch.full((count + 2 * guard,), 7.0)
        memory[guard:-guard].normal_()
        x = memory[guard:-guard].view(1, *size, channels).permute(0, 3, 1, 2)
        block = randomized(Block(channels, 0.0, 1.0, use_grn=True))
        weights = kernels.BlockWeights(
            *(block.dwconv.weight, block.dwconv.bias, block.norm.weight, block.norm.bias),
            *(block.pwconv1.weight, block.pwconv1.bias, block.pwconv2.weight),
            *(block.pwconv2.bias, block.grn.gamma, block.grn.beta, block.gamma),
        )
        kernels.add_branch(library, x, weights, 1e-6, kernels.Scratch())
        assert (memory[:guard] == 7).all() and (memory[-guard:] == 7).all()
