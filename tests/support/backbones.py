"""Backbones for tests, with what is known about their parameters and gradients."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from convnext_backbones import ConvNeXt
from convnext_backbones.inference.fast_form import bf16_is_fast

needs_fast_bf16 = pytest.mark.skipif(not bf16_is_fast(), reason='this CPU has no bf16 instructions')
SUBSETS = [
    subset for n in range(1, 5) for subset in itertools.combinations(range(4), n)
]  # every out_indices of four stages


def build(arch, **kwargs):
    """A backbone whose blocks matter: at the default layer scale of 1e-6 they hardly would.

    GRN, which starts as an identity, gets random parameters.
    """
    layer_scale = None if kwargs.get('use_grn') else 1.0
    net = ConvNeXt(arch, **{'layer_scale_init_value': layer_scale, **kwargs})
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if '.grn.' in name:
                parameter.normal_()
    return net


def backward(maps):
    """A loss in which every channel counts: LayerNorm has no gradient along a plain sum."""
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (map_ * torch.randn(map_.shape, generator=generator).to(map_.dtype)).sum() for map_ in maps
    )
    loss.backward()


def gradients(module):
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def blocks(net):
    return [block for stage in net.stages for block in stage]


def authors_parameters(depths, dims, in_chans=3):
    """Names and shapes of the authors' network without its norms and head."""
    shapes = {}
    for i, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
        if i == 0:
            conv, norm, kernel, width, norm_width = 0, 1, 4, in_chans, dim
        else:
            conv, norm, kernel, width, norm_width = 1, 0, 2, dims[i - 1], dims[i - 1]
        shapes[f'downsample_layers.{i}.{conv}.weight'] = (dim, width, kernel, kernel)
        shapes[f'downsample_layers.{i}.{conv}.bias'] = (dim,)
        shapes[f'downsample_layers.{i}.{norm}.weight'] = (norm_width,)
        shapes[f'downsample_layers.{i}.{norm}.bias'] = (norm_width,)
        for j in range(depth):
            block = f'stages.{i}.{j}'
            shapes[f'{block}.gamma'] = (dim,)
            shapes[f'{block}.dwconv.weight'] = (dim, 1, 7, 7)
            shapes[f'{block}.dwconv.bias'] = (dim,)
            shapes[f'{block}.norm.weight'] = (dim,)
            shapes[f'{block}.norm.bias'] = (dim,)
            shapes[f'{block}.pwconv1.weight'] = (4 * dim, dim)
            shapes[f'{block}.pwconv1.bias'] = (4 * dim,)
            shapes[f'{block}.pwconv2.weight'] = (dim, 4 * dim)
            shapes[f'{block}.pwconv2.bias'] = (dim,)
    return shapes


def shapes_of(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def scrambled(net):
    """The network in evaluation mode, with parameters of which none is 0 or 1."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net.eval()


def assert_same_maps(actual, expected, tolerance=1e-5):
    """The difference of each map is within ``tolerance`` of its largest value."""
    for a, b in zip(actual, expected, strict=True):
        largest = b.abs().max().item() if b.numel() else 0
        assert_close(a, b, atol=tolerance * largest, rtol=0)
