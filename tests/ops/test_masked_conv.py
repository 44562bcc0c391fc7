"""Masked convolution is a convolution at the places of a mask, and 0 elsewhere."""

import mmcv.ops
import pytest
import torch
import torch.nn.functional as F
from support.operator_checks import check_determinism, check_layouts
from support.operators import TOLERANCES, difference

# Of mmcv's Python.
pytestmark = pytest.mark.filterwarnings('ignore:This overload of addmm')
SHAPES = [(3, 3), (1, 1), (5, 3)]


def convolution(kernel, dtype=torch.float32):
    padding = tuple(size // 2 for size in kernel)
    return mmcv.ops.MaskedConv2d(4, 6, kernel, padding=padding).to(dtype).requires_grad_(False)


def masked(x, mask, layer):
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.padding) * (mask > 0)


@pytest.mark.parametrize('kernel', SHAPES, ids=str)
@pytest.mark.parametrize('dtype', [*TOLERANCES], ids=str)
def test_equals_a_convolution(stand_in, kernel, dtype):
    layer, x = convolution(kernel, dtype), torch.randn(1, 4, 7, 8, dtype=dtype)
    mask = (torch.rand(1, 7, 8) < 0.4).to(dtype)
    output = layer(x, mask)
    assert output.dtype == dtype
    expected = masked(x.double(), mask, layer.double())
    assert difference(output, expected).relative < TOLERANCES[dtype]
    assert torch.equal(output == 0, (mask == 0).expand_as(output))


@pytest.mark.parametrize('value', [0, 1])
def test_all_or_nothing(stand_in, value):
    layer, x = convolution((3, 3)), torch.randn(1, 4, 7, 8)
    mask = torch.full((1, 7, 8), float(value))
    output = layer(x, mask)
    assert (output - masked(x, mask, layer)).abs().max() < 1e-5


def test_without_a_mask(stand_in):
    layer, x = convolution((3, 3)), torch.randn(2, 4, 7, 8)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))


def test_layouts_and_determinism(stand_in):
    layer = convolution((3, 3))
    inputs = dict(x=torch.randn(1, 4, 7, 8), mask=(torch.rand(1, 7, 8) < 0.4).float())

    def run(given):
        before = {name: tensor.clone() for name, tensor in given.items()}
        output = layer(given['x'], given['mask'])
        assert all(torch.equal(given[name], tensor) for name, tensor in before.items())
        return dict(output=output)

    check_layouts(run, inputs, 0)
    check_determinism(lambda: run(inputs), rounding=1e-6)  # mmcv's matrix product
