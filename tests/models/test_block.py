"""The memory-efficient form of the backbone: what it keeps, and that it changes nothing else."""

from contextlib import nullcontext

import pytest
import torch
from support.backbones import blocks, build
from torch.testing import assert_close

from convnext_backbones import ConvNeXt
from convnext_backbones.models.block import Block

LAYERS = ('dwconv', 'norm', 'pwconv1', 'act', 'pwconv2')


@pytest.fixture(params=[True, False], ids=['convolution', 'linear'])
def pointwise(request, monkeypatch):
    """Both forms of the pointwise layers: that of CPUs with AVX-512, and that of all else."""
    monkeypatch.setattr('convnext_backbones.models.layers.HAS_AVX512', request.param)


def pair(arch, layer_scale_init_value=1.0, **kwargs):
    """The plain and the memory-efficient form with the same weights, in training mode."""
    kwargs['layer_scale_init_value'] = layer_scale_init_value
    plain, lean = build(arch, **kwargs), build(arch, memory_efficient=True, **kwargs)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name.endswith('gamma'):  # all ones would fold into nothing
                parameter.mul_(1 + torch.rand_like(parameter))
    lean.load_state_dict(plain.state_dict())
    return plain.train(), lean.train()


def loss_of(maps):
    """Every value counts: along a plain sum, LayerNorm has no gradient."""
    generator = torch.Generator().manual_seed(1)
    return sum((map_ * torch.randn(map_.shape, generator=generator)).sum() for map_ in maps)


def step(net, images, autocast=None):
    """Maps, gradient with respect to the images, gradients of the parameters."""
    images = images.clone().requires_grad_()
    torch.manual_seed(4)  # of stochastic depth
    with torch.autocast('cpu', dtype=autocast) if autocast else nullcontext():
        maps = net(images)
    loss_of(maps).backward()
    return maps, images.grad, {name: p.grad for name, p in net.named_parameters()}


def assert_same_step(actual, expected, tolerance=1e-5):
    """The difference of each tensor is within ``tolerance`` of its largest value."""
    *actual, actual_grads = actual
    *expected, expected_grads = expected
    assert actual_grads.keys() == expected_grads.keys()
    for name, gradient in expected_grads.items():
        if gradient is None:
            assert actual_grads[name] is None, name
    pairs = zip(
        [*actual[0], actual[1], *(g for g in actual_grads.values() if g is not None)],
        [*expected[0], expected[1], *(g for g in expected_grads.values() if g is not None)],
        strict=True,
    )
    for a, b in pairs:
        assert_close(a, b, atol=tolerance * b.abs().max().item(), rtol=0)


def kept_bytes(module, x):
    """Bytes of each storage that ``module`` saves for the backward pass, parameters left out.

    Some versions of torch save empty ones beside them.
    """
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # alive, so that no other takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module(x)
    sizes = (s.nbytes() for pointer, s in storages.items() if pointer not in parameters)
    return sorted(size for size in sizes if size)


@pytest.mark.parametrize('layer_scale_init_value', [1.0, 0])
@pytest.mark.usefixtures('pointwise')
def test_a_block_keeps_its_input_and_the_hidden_map(layer_scale_init_value):
    x = torch.randn(2, 8, 6, 10).contiguous(memory_format=torch.channels_last).requires_grad_()
    size = x.numel() * x.element_size()
    block = Block(8, 0.0, layer_scale_init_value, memory_efficient=True)
    assert kept_bytes(block, x) == [size, 4 * size]
    mask = x.shape[0] * x.element_size()
    block = Block(8, 0.5, layer_scale_init_value, memory_efficient=True)
    assert kept_bytes(block, x) == [mask, size, 4 * size]
    block = Block(8, 0.5, layer_scale_init_value, use_grn=True, memory_efficient=True)
    assert kept_bytes(block, x) == [mask, size, 4 * size]


@pytest.mark.parametrize(('kwargs', 'share'), [(dict(), 0.48), (dict(use_grn=True), 0.36)])
def test_a_network_keeps_less_than_half(kwargs, share):
    plain, lean = pair(dict(depths=(3, 3, 9, 3), dims=(16, 32, 64, 128)), **kwargs)
    images = torch.randn(1, 3, 64, 64)
    assert sum(kept_bytes(lean, images)) < share * sum(kept_bytes(plain, images))


def test_setting_the_attribute_of_a_backbone_changes_its_blocks(miniature):
    lean = ConvNeXt(miniature, memory_efficient=True)
    net = ConvNeXt(miniature)
    images = torch.randn(1, 3, 64, 64)
    plain_bytes, lean_bytes = kept_bytes(net, images), kept_bytes(lean, images)
    assert not net.memory_efficient and lean.memory_efficient
    net.memory_efficient = True
    assert net.memory_efficient and all(block.memory_efficient for block in blocks(net))
    assert kept_bytes(net, images) == lean_bytes != plain_bytes
    net.stages[0][0].memory_efficient = False
    assert not net.memory_efficient
    net.memory_efficient = False
    assert not any(block.memory_efficient for block in blocks(net))
    assert kept_bytes(net, images) == plain_bytes


def test_a_bad_value_of_the_attribute_is_refused(miniature):
    net = ConvNeXt(miniature, with_cp=True)
    with pytest.raises(ValueError, match='expected with_cp or memory_efficient, got both'):
        net.memory_efficient = True
    with pytest.raises(TypeError, match='memory_efficient to be True or False, got 1'):
        net.memory_efficient = 1
    assert not net.memory_efficient


@pytest.mark.usefixtures('pointwise')
def test_pointwise_layers_run_once():
    block = Block(8, 0.0, 1.0, memory_efficient=True)
    calls = dict.fromkeys(LAYERS, 0)

    def count(name):
        calls[name] += 1

    for name in LAYERS:
        block.get_submodule(name).register_forward_hook(lambda *_, name=name: count(name))
    block(torch.randn(2, 8, 6, 10)).square().sum().backward()
    assert calls == dict(dwconv=2, norm=2, pwconv1=1, act=2, pwconv2=1)


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(),
        dict(drop_path_rate=0.5, channels_last=False),
        dict(layer_scale_init_value=0, drop_path_rate=0.5),
        dict(frozen_stages=2, drop_path_rate=0.5),
        dict(frozen_stages=4),
        dict(use_grn=True, layer_scale_init_value=0, drop_path_rate=0.5),
        dict(use_grn=True),
    ],
    ids=str,
)
@pytest.mark.usefixtures('pointwise')
def test_same_maps_and_gradients(miniature, kwargs):
    plain, lean = pair(miniature, **kwargs)
    images = torch.randn(4, 3, 64, 64)
    assert_same_step(step(lean, images), step(plain, images))


@pytest.mark.parametrize('trained', ['dwconv.weight', 'norm.bias', 'pwconv1', 'gamma'])
def test_same_gradients_of_some_parameters(miniature, trained):
    nets = pair(miniature)
    for net in nets:
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(trained in name)
    plain, lean = nets
    images = torch.randn(2, 3, 64, 64)
    assert_same_step(step(lean, images), step(plain, images))


def test_used_twice_and_differentiated_twice(miniature):
    images = torch.randn(2, 3, 64, 64)
    gradients = []
    for net in pair(miniature):
        loss = loss_of([*net(images), *net(images.flip(3))])
        loss.backward(retain_graph=True)
        loss.backward()
        first = net.stages[0][0]
        gradients.append((first.gamma.grad, first.dwconv.weight.grad, first.pwconv2.weight.grad))
    for expected, actual in zip(*gradients, strict=True):
        assert_close(actual, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


# What the forms may differ by: a few roundings to 8 and to 11 bits.
@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.bfloat16, 0.04), (torch.float16, 0.005)], ids=str
)
@pytest.mark.parametrize(
    'kwargs',
    [
        dict(),
        dict(layer_scale_init_value=1e-6),
        dict(use_grn=True, layer_scale_init_value=0),
    ],
    ids=str,
)
def test_autocast(miniature, dtype, tolerance, kwargs):
    """With a gamma of 1e-6, fp16 could not hold the folded weights."""
    nets = pair(miniature, drop_path_rate=0.3, **kwargs)
    for net in nets:
        net.pwconv1_outputs = []
        net.stages[0][0].pwconv1.register_forward_hook(
            lambda *args, net=net: net.pwconv1_outputs.append(args[-1].dtype)
        )
    plain, lean = nets
    images = torch.randn(4, 3, 64, 64)
    expected, actual = step(plain, images, dtype), step(lean, images, dtype)
    assert lean.pwconv1_outputs == [dtype]  # autocast was on
    assert all(map_.dtype == torch.float32 for map_ in actual[0])
    assert all(gradient.any() for gradient in actual[2].values())
    assert_same_step(actual, expected, tolerance)


def test_without_gradients_it_is_the_plain_form(miniature):
    plain, lean = pair(miniature)
    images = torch.randn(2, 3, 64, 64)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert_close(lean(images), plain(images), atol=0, rtol=0)


def test_compiled_it_is_the_plain_form():
    graphs = []

    def backend(graph, _):
        graphs.append(graph.code)
        return graph

    torch._dynamo.reset()
    plain, lean = (Block(8, 0.0, 1.0, memory_efficient=flag) for flag in (False, True))
    for block in (plain, lean):
        torch.compile(block, backend=backend, fullgraph=True)(torch.randn(2, 8, 6, 10))
    torch._dynamo.reset()
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize(
    ('kwargs', 'error', 'message'),
    [
        (dict(memory_efficient=1), TypeError, 'memory_efficient to be True or False, got 1 of typ'),
        (dict(memory_efficient=True, with_cp=True), ValueError, 'or memory_efficient, got both'),
    ],
)
def test_bad_arguments_are_refused(miniature, kwargs, error, message):
    with pytest.raises(error, match=f'^expected .*{message}'):
        ConvNeXt(miniature, **kwargs)
