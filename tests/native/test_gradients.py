"""Gradients that the kernels in C compute equal those of torch's operators."""

import pytest
import torch
import torch.nn.functional as F
from support.native import needs_compiler
from torch import nn
from torch.testing import assert_close

from convnext_backbones.models.layers import GELU, DepthwiseConv2d
from convnext_backbones.native import compiler, gradients

pytestmark = needs_compiler
LAST = torch.channels_last


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def native_calls(monkeypatch):
    """The gradients that the kernels compute."""
    calls = []
    convolution = gradients._depthwise_backward

    def backward(*args):
        calls.append('convolution')
        return convolution(*args)

    monkeypatch.setattr(gradients, '_depthwise_backward', backward)
    return calls


def assert_near(actual, expected, tolerance=2e-6):
    assert_close(actual, expected.float(), atol=tolerance * expected.abs().max().item(), rtol=0)


def backward(layer, x, factor):
    """Return the output and the gradients of input and parameters."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    (y * factor).sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


@pytest.mark.parametrize('layout', [torch.contiguous_format, LAST], ids=['NCHW', 'NHWC'])
@pytest.mark.parametrize('size', [(1, 1), (7, 7), (13, 17), (3, 50), (26, 35)], ids=str)
@pytest.mark.parametrize('channels', [1, 5, 16, 40])
def test_depthwise_convolution(native_calls, threads, channels, size, layout):
    layer = DepthwiseConv2d(channels)
    x = torch.randn(2, channels, *size).contiguous(memory_format=layout)
    factor = torch.randn_like(x)
    actual = backward(layer, x, factor)
    assert native_calls == ['convolution']
    assert actual[1].stride() == x.stride()
    expected = backward(nn.Conv2d(channels, channels, 7, padding=3, groups=channels), x, factor)
    assert len(actual) == len(expected)
    plain = nn.Conv2d(channels, channels, 7, padding=3, groups=channels).double()
    plain.load_state_dict(layer.state_dict())
    for a, b in zip(actual, backward(plain, x.double(), factor.double()), strict=True):
        assert_near(a, b)


@pytest.mark.parametrize('frozen', ['input', 'weight', 'bias', 'parameters'])
def test_only_what_is_wanted(native_calls, frozen):
    layer = DepthwiseConv2d(8)
    layer.weight.requires_grad = frozen not in ('weight', 'parameters')
    layer.bias.requires_grad = frozen not in ('bias', 'parameters')
    x = torch.randn(1, 8, 9, 9, requires_grad=frozen != 'input')
    layer(x).square().sum().backward()
    for tensor in (x, layer.weight, layer.bias):
        assert (tensor.grad is not None) == tensor.requires_grad
    assert native_calls


def test_without_a_bias(native_calls):
    layer = DepthwiseConv2d(8)
    layer.bias = None
    x = torch.randn(1, 8, 9, 9)
    factor = torch.randn_like(x)
    plain = nn.Conv2d(8, 8, 7, padding=3, groups=8, bias=False)
    plain.load_state_dict(layer.state_dict())
    for a, b in zip(backward(layer, x, factor), backward(plain, x, factor), strict=True):
        assert_near(a, b)


def test_the_same_in_every_run():
    layer = DepthwiseConv2d(48)
    x = torch.randn(2, 48, 40, 60)
    factor = torch.randn_like(x)
    first, second = (backward(layer, x, factor) for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize('shape', [(3,), (5, 7), (2, 9, 11, 24), (1, 1, 1, 1), (0, 4)], ids=str)
def test_gelu(threads, shape):
    x = 4 * torch.randn(shape)
    factor = torch.randn(shape)
    actual = backward(GELU(), x, factor)
    expected = backward(nn.GELU(), x.double(), factor.double())
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b.float(), atol=2e-6, rtol=1e-6)


def test_gelu_over_its_range():
    x = torch.linspace(-40, 40, 80001)
    _, slope = backward(GELU(), x, torch.ones_like(x))
    _, expected = backward(nn.GELU(), x.double(), torch.ones_like(x).double())
    assert (slope - expected).abs().max() < 1e-6
    for value in (torch.inf, -torch.inf, torch.nan):
        ours, theirs = (
            backward(layer, torch.tensor([value]), torch.ones(1))[1]
            for layer in (GELU(), nn.GELU())
        )
        assert ours.isnan().equal(theirs.isnan()) or value != torch.nan


def test_gelu_of_other_layouts():
    """A gradient that is transposed, or one value expanded, lies differently from the input."""
    x = torch.randn(2, 6, 5, 3)
    for given in (x, x.contiguous(memory_format=LAST), x.transpose(1, 3), x[:, ::2]):
        for factor in (torch.randn_like(given), torch.ones(1).expand_as(given)):
            actual, expected = (backward(layer, given, factor) for layer in (GELU(), nn.GELU()))
            assert_close(actual, expected)


def test_gradients_of_gradients():
    layer = DepthwiseConv2d(2).double()
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    function = gradients.DepthwiseConvolution.apply
    assert torch.autograd.gradgradcheck(function, (x, layer.weight, layer.bias))
    assert torch.autograd.gradgradcheck(gradients.Gelu.apply, (x,))


def test_where_torch_computes(monkeypatch, native_calls):
    """Without gradients, in other types, under autocast, when compiled, and without kernels."""
    layer = nn.Sequential(DepthwiseConv2d(4), GELU())
    x = torch.randn(1, 4, 8, 8)
    monkeypatch.setattr(gradients.Gelu, 'forward', None)
    with torch.no_grad():
        layer(x)
    layer.double()(x.double()).sum().backward()
    layer.float()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        layer(x).float().sum().backward()
    torch.func.jvp(layer, (x,), (x,))
    monkeypatch.setenv(compiler.VARIABLE, '0')
    layer(x).sum().backward()
    assert not native_calls


def test_the_output_is_that_of_torch():
    layer = DepthwiseConv2d(4)
    x = torch.randn(1, 4, 8, 8)
    expected = F.conv2d(x, layer.weight, layer.bias, padding=3, groups=4)
    assert torch.equal(layer(x), expected)
