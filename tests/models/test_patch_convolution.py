"""Layers in bf16 on a CPU: patches of every size, and what else oneDNN computes in narrow maps."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from support.backbones import needs_fast_bf16
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from convnext_backbones import ConvNeXt
from convnext_backbones.inference import backbone as inference_backbone
from convnext_backbones.inference.fast_form import has_fast_form
from convnext_backbones.inference.optimize import optimize_for_inference
from convnext_backbones.models import layers
from convnext_backbones.models.block import Block
from convnext_backbones.models.layers import PatchConv2d, PointwiseLinear, convolve_patches

LAYOUTS = (torch.contiguous_format, torch.channels_last)
# Of images. The last map is one column wide from 32 to 63, and five at 160.
WIDTHS = range(32, 161)
# Of a map, with some heights and numbers of samples.
NARROW = [
    (samples, height, width)
    for width in range(1, 9)
    for samples, height in ((1, 1), (1, 2), (2, 5), (1, 16))
]
CHANNELS = (7, 8, 32, 33, 96, 384)
# Of the largest value: roundings to 8 bits of one layer, of four, and of a whole network.
LAYER_TOLERANCE, BLOCK_TOLERANCE, NETWORK_TOLERANCE = 1e-2, 2e-2, 5e-2


def build(depths=(1, 1, 2, 1), dims=(7, 13, 24, 33), **kwargs):
    """A backbone of odd numbers of channels in which every parameter matters."""
    arch = dict(depths=depths, dims=dims)
    net = ConvNeXt(arch, layer_scale_init_value=1.0, **kwargs)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net.eval()


def rounded(*shape):
    """Random numbers in fp32 that bf16 can hold."""
    return torch.randn(shape).bfloat16().float()


def assert_near(actual, expected, tolerance=LAYER_TOLERANCE):
    """Within ``tolerance`` of the largest value, and finite."""
    limit = tolerance * expected.abs().max().item()
    assert_close(actual.float(), expected.float(), atol=limit, rtol=0)


def autocast(dtype=torch.bfloat16, enabled=True):
    return torch.autocast('cpu', dtype=dtype) if enabled else nullcontext()


# The way around, in types that every CPU computes


@pytest.mark.parametrize(
    ('patch', 'widths'),
    [((4, 4), range(4, 41)), ((2, 2), range(2, 24)), ((3, 2), range(2, 14))],
    ids=str,
)
@pytest.mark.parametrize('channels', [(1, 1), (3, 7), (8, 5), (33, 32)], ids=str)
def test_it_is_the_convolution(patch, widths, channels):
    inputs, outputs = channels
    weight = torch.randn(outputs, inputs, *patch, dtype=torch.float64)
    some_bias = torch.randn(outputs, dtype=torch.float64)
    for width in widths:
        for height in (patch[0], 7, 8):
            x = torch.randn(2, inputs, height, width, dtype=torch.float64)
            for bias in (None, some_bias):
                expected = F.conv2d(x, weight, bias, patch)
                assert_close(convolve_patches(x, weight, bias), expected)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('of_weight', LAYOUTS, ids=str)
@pytest.mark.parametrize('of_input', LAYOUTS, ids=str)
@pytest.mark.parametrize('inputs', [1, 3])
def test_memory_format_is_that_of_the_convolution(dtype, of_input, of_weight, inputs):
    x = torch.randn(2, inputs, 13, 18).to(dtype, memory_format=of_input)
    weight = torch.randn(5, inputs, 4, 4).to(dtype, memory_format=of_weight)
    before = x.clone(), weight.clone()
    actual = convolve_patches(x, weight)
    expected = F.conv2d(x.float(), weight.float(), None, 4)
    assert actual.dtype == dtype and actual.stride() == expected.stride()
    assert_near(actual, expected)
    assert all(map(torch.equal, (x, weight), before))


def test_inputs_that_are_views():
    weight = torch.randn(5, 3, 2, 2)
    x = torch.randn(2, 3, 11, 14)
    views = [
        x[:, :, 1:, 2:13],
        x[:, :, ::2, ::3],
        x[:1].expand(3, -1, -1, -1),
        x.mT,
        x.contiguous(memory_format=torch.channels_last)[:, :, :, 3:],
        torch.randn(2, 6, 11, 14)[:, ::2],
    ]
    for view in views:
        assert_close(convolve_patches(view, weight), F.conv2d(view, weight, None, 2))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_an_empty_batch(dtype):
    layer = PatchConv2d(3, 5, 4).to(dtype)
    x = torch.randn(0, 3, 9, 17).to(dtype).requires_grad_()
    y = layer(x)
    assert y.shape == (0, 5, 2, 4) and y.dtype == dtype
    y.sum().backward()
    assert x.grad.shape == x.shape and not layer.weight.grad.any()


def test_gradients():
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    inputs = (x, weight, bias)
    assert torch.autograd.gradcheck(convolve_patches, inputs)
    assert torch.autograd.gradgradcheck(convolve_patches, inputs)
    outputs = convolve_patches(*inputs), F.conv2d(*inputs, 2)
    assert_close(*(torch.autograd.grad((y * y).sum(), inputs) for y in outputs))


def test_an_input_smaller_than_a_patch_is_refused():
    for size in ((3, 8), (8, 3)):
        with pytest.raises(RuntimeError):
            convolve_patches(torch.randn(1, 3, *size), torch.randn(5, 3, 4, 4))


# The layer


@pytest.fixture
def ways_around(monkeypatch):
    """The types of the inputs of ``convolve_patches``, one for each of its calls."""
    seen = []

    def convolve(x, *args):
        seen.append(x.dtype)
        return convolve_patches(x, *args)

    for module in (layers, inference_backbone):
        monkeypatch.setattr(module, 'convolve_patches', convolve)
    return seen


def test_it_is_a_convolution_of_torch():
    layer, plain = PatchConv2d(3, 5, 4), nn.Conv2d(3, 5, 4, stride=4)
    assert repr(layer) == repr(plain).replace('Conv2d', 'PatchConv2d')
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 9, 15)
    for other in (plain, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(layer(x), other(x))
    for dtype in (torch.float32, torch.bfloat16):
        assert layer.to('meta', dtype)(x.to('meta', dtype)).shape == (2, 5, 2, 3)


@pytest.mark.parametrize(
    ('input_type', 'parameters', 'autocast_type', 'around'),
    [
        (torch.float32, torch.float32, None, False),
        (torch.float64, torch.float64, None, False),
        (torch.float16, torch.float16, None, False),
        (torch.bfloat16, torch.bfloat16, None, True),
        (torch.float32, torch.float32, torch.bfloat16, True),
        (torch.bfloat16, torch.float32, torch.bfloat16, True),
        (torch.float16, torch.float32, torch.bfloat16, True),
        (torch.float64, torch.float64, torch.bfloat16, False),  # autocast leaves it
        (torch.float32, torch.float32, torch.float16, False),
        (torch.bfloat16, torch.float32, torch.float16, False),
    ],
    ids=str,
)
def test_where_it_is_gone_around(ways_around, input_type, parameters, autocast_type, around):
    layer = PatchConv2d(3, 5, 4).to(parameters)
    x = torch.randn(2, 3, 9, 15).to(input_type)
    with autocast(autocast_type, enabled=autocast_type is not None), torch.no_grad():
        y, expected = layer(x), nn.Conv2d.forward(layer, x)
    assert len(ways_around) == around
    assert y.dtype == expected.dtype and y.stride() == expected.stride()


def test_the_fast_form_goes_around_it(ways_around):
    layer = PatchConv2d(3, 5, 4).requires_grad_(False)
    for dtype in (torch.float32, torch.bfloat16):
        y = inference_backbone._convolve(torch.randn(2, 3, 9, 15).to(dtype), layer)
        assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    assert ways_around == [torch.bfloat16]


@pytest.mark.parametrize('form', ['bfloat16', 'autocast', 'optimized'])
@pytest.mark.parametrize('layout', LAYOUTS, ids=str)
@pytest.mark.parametrize(
    ('size', 'inputs', 'outputs', 'heights', 'widths'),
    [
        (4, 3, 7, (4, 33, 48), WIDTHS),
        (4, 1, 96, (7,), WIDTHS),
        (4, 5, 8, (4, 5, 63), range(4, 33)),
        (2, 7, 13, (2, 9, 16), range(2, 41)),
        (2, 33, 65, (2, 5), range(2, 21)),
        (2, 96, 192, (2, 3), range(2, 21)),
        (2, 384, 768, (2, 5), range(2, 6)),
    ],
    ids=str,
)
def test_every_width(form, layout, size, inputs, outputs, heights, widths):
    """Against fp32, on parameters and inputs that bf16 can hold."""
    layer = PatchConv2d(inputs, outputs, size).bfloat16().float().requires_grad_(False)
    half = copy.deepcopy(layer).bfloat16()
    for width in widths:
        for height in heights:
            x = rounded(2, inputs, height, width).contiguous(memory_format=layout)
            if form == 'optimized':
                actual = inference_backbone._convolve(x.bfloat16(), layer)
            elif form == 'bfloat16':
                actual = half(x.bfloat16())
            else:
                with autocast():
                    actual = layer(x)
            assert actual.dtype == torch.bfloat16
            assert_near(actual, F.conv2d(x, layer.weight, layer.bias, size))


@pytest.mark.parametrize('form', ['bfloat16', 'autocast'])
def test_gradients_at_every_width(form):
    layer = PatchConv2d(5, 7, 2).bfloat16().float()
    half = copy.deepcopy(layer).bfloat16() if form == 'bfloat16' else layer
    for width in range(2, 18):
        x, factors = rounded(2, 5, 5, width), rounded(2, 7, 2, width // 2)
        gradients = []
        for module, in_autocast in ((half, form == 'autocast'), (layer, False)):
            given = x.to(module.weight.dtype).requires_grad_()
            with autocast(enabled=in_autocast):
                loss = (module(given).float() * factors).sum()
            gradients.append(torch.autograd.grad(loss, (given, module.weight, module.bias)))
        for actual, expected in zip(*gradients, strict=True):
            assert_near(actual, expected)


# The network


@pytest.mark.parametrize(
    'form', ['bfloat16', 'autocast', pytest.param('optimized', marks=needs_fast_bf16)]
)
@pytest.mark.parametrize('height', [32, 47, 65])
@torch.no_grad()
def test_maps_at_every_width(form, height):
    net = build(in_chans=5)
    half = copy.deepcopy(net).bfloat16()
    fast = optimize_for_inference(net, dtype=torch.bfloat16) if form == 'optimized' else net
    for width in WIDTHS:
        x = rounded(1, 5, height, width)
        if form == 'bfloat16':
            maps = half(x.bfloat16())
        else:
            with autocast(enabled=form == 'autocast'):
                maps = fast(x)
        for actual, expected in zip(maps, net(x), strict=True):
            assert_near(actual, expected, NETWORK_TOLERANCE)


class Convolutions(TorchDispatchMode):
    """The convolutions that torch computes, forward and backward: (type, kernel, stride)."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if 'convolution' in name:
            # (input, weight, bias, stride, ...), backward after the gradient of the output.
            inputs = args[1:] if 'backward' in name else args
            x, weight, _, stride = inputs[:4]
            self.seen.add((x.dtype, tuple(weight.shape[2:]), tuple(stride)))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize('form', ['float32', 'bfloat16', 'autocast'])
def test_no_convolution_over_patches_in_bf16(form):
    """Neither forward nor backward."""
    dtype = torch.bfloat16 if form == 'bfloat16' else torch.float32
    net = build().to(dtype)
    with Convolutions() as convolutions:
        with autocast(enabled=form == 'autocast'):
            maps = net(torch.randn(1, 3, 64, 48, dtype=dtype))
        sum(map_.float().square().sum() for map_ in maps).backward()
    computed = torch.float32 if form == 'float32' else torch.bfloat16
    assert (computed, (7, 7), (1, 1)) in convolutions.seen
    over_patches = {seen for seen in convolutions.seen if seen[1] == seen[2] != (1, 1)}
    expected = {(torch.float32, (n, n), (n, n)) for n in (2, 4)} if form == 'float32' else set()
    assert over_patches == expected


@pytest.mark.parametrize(('form', 'channels_last'), [('bfloat16', False), ('autocast', None)])
def test_it_compiles_once_for_all_sizes(monkeypatch, form, channels_last):
    monkeypatch.setattr(layers, 'HAS_AVX512', False)  # or pointwise layers are convolutions, too
    dtype = torch.bfloat16 if form == 'bfloat16' else torch.float32
    net = build((1, 1), (7, 13), out_indices=(0, 1), channels_last=channels_last).to(dtype)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(net, backend=backend, fullgraph=True, dynamic=True)
    with autocast(enabled=form == 'autocast'):
        for size in ((2, 3, 64, 96), (3, 3, 95, 127), (4, 3, 128, 64)):
            x = torch.randn(size, dtype=dtype)
            assert_close(compiled(x), net(x))
    torch._dynamo.reset()
    (graph,) = graphs
    assert graph.code.count('conv2d(') == 2  # one in each block


# What else oneDNN computes in bf16, in maps of one to eight columns


@pytest.mark.parametrize('form', ['bfloat16', 'autocast'])
@pytest.mark.parametrize('layout', LAYOUTS, ids=str)
@pytest.mark.parametrize('channels', CHANNELS)
def test_narrow_depthwise_convolutions(form, layout, channels):
    layer = Block(channels, 0.0, 1.0).dwconv
    check_narrow(layer, form, channels, lambda x: x.contiguous(memory_format=layout))


@pytest.mark.parametrize('form', ['bfloat16', 'autocast'])
@pytest.mark.parametrize('convolution', [True, False])
@pytest.mark.parametrize('channels', CHANNELS)
def test_narrow_pointwise_layers(monkeypatch, form, convolution, channels):
    """As a linear layer and as a convolution, whichever this CPU prefers."""
    monkeypatch.setattr(layers, 'HAS_AVX512', convolution)
    for layer in (PointwiseLinear(channels, 4 * channels), PointwiseLinear(4 * channels, channels)):
        check_narrow(layer, form, layer.in_features, lambda x: x.permute(0, 2, 3, 1).contiguous())


def check_narrow(layer, form, channels, arrange):
    """In bf16 the layer gives what it gives in fp32."""
    layer = layer.bfloat16().float().requires_grad_(False)
    half = copy.deepcopy(layer).bfloat16()
    for samples, height, width in NARROW:
        x = arrange(rounded(samples, channels, height, width))
        if form == 'bfloat16':
            actual = half(x.bfloat16())
        else:
            with autocast():
                actual = layer(x)
        assert actual.dtype == torch.bfloat16
        assert_near(actual, layer(x))


@pytest.mark.parametrize(
    'dtype', [torch.float32, pytest.param(torch.bfloat16, marks=needs_fast_bf16)]
)
@pytest.mark.parametrize('channels', CHANNELS)
def test_narrow_blocks_in_place(dtype, channels):
    """oneDNN's fused operations."""
    net = ConvNeXt(dict(depths=[1], dims=[channels]), layer_scale_init_value=1.0, out_indices=0)
    net = net.bfloat16().float().eval().requires_grad_(False)
    if not has_fast_form(net, torch.empty(0)):
        pytest.skip('this torch does not have the fused operations')
    block, fast = (each.stages[0][0] for each in (net, optimize_for_inference(net)))
    for samples, height, width in NARROW:
        x = rounded(samples, channels, height, width)
        actual = x.clone().to(dtype, memory_format=torch.channels_last)
        fast.forward_(actual)
        assert_near(actual, block(x), 1e-5 if dtype == torch.float32 else BLOCK_TOLERANCE)


def test_heads_use_neither_fused_operations_nor_winograd_in_bf16(monkeypatch):
    """In bf16, and under autocast, the faster classes of the heads compute as the plain ones."""
    pytest.importorskip('mmcv')
    from mmcv.cnn import ConvModule

    from convnext_backbones.inference import convolutions, heads

    calls = []

    def convolve(x, *args, **kwargs):
        calls.append(x.dtype)
        return x

    monkeypatch.setenv('CONVNEXT_BACKBONES_NATIVE', '0')
    monkeypatch.setattr(convolutions, 'is_faster', lambda *_: True)
    monkeypatch.setattr(convolutions, 'convolve', convolve)
    plain = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), ConvModule(8, 8, 3, padding=1))
    plain.eval().requires_grad_(False)
    fast = copy.deepcopy(plain)
    heads.optimize_heads(fast)
    assert [type(module) for module in fast] == [
        convolutions.InferenceConv2d,
        convolutions.InferenceConvModule,
    ]
    x = torch.randn(1, 8, 6, 3)
    with autocast():
        assert_near(fast(x), plain(x), BLOCK_TOLERANCE)
        assert not has_fast_form(fast, x)
    half = copy.deepcopy(fast).bfloat16()
    assert_near(half(x.bfloat16()), plain(x), BLOCK_TOLERANCE)
    for module, given in ((fast, x.bfloat16()), (half, x), (half, x.bfloat16())):
        assert not has_fast_form(module, given)
    assert not calls
    fast(x)
    assert calls == [torch.float32] * 2 * has_fast_form(fast, x)
