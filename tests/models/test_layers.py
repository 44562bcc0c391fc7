"""LayerNorm, pointwise layers and stochastic depth by their definitions."""

import pytest
import torch
from support.backbones import backward, gradients
from torch import nn
from torch.testing import assert_close

from convnext_backbones import ConvNeXt, ConvNeXtClassifier
from convnext_backbones.models.layers import (
    GRN,
    DropPath,
    LayerNorm,
    LayerNorm2d,
    PointwiseLinear,
    _ChannelNorms,
    sums_of_squares,
)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_layer_norm_2d_is_the_authors_formula(memory_format):
    norm = LayerNorm2d(6, eps=1e-6)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-1, 1)
    # The variance is about eps, so that eps and the biased variance show.
    x = (1e-3 * torch.randn(2, 6, 5, 7)).contiguous(memory_format=memory_format)
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    expected = (x - mean) / torch.sqrt(variance + 1e-6)
    expected = norm.weight[:, None, None] * expected + norm.bias[:, None, None]
    out = norm(x)
    assert_close(out, expected)
    assert out.is_contiguous(memory_format=memory_format)


def test_norms_have_the_authors_eps(miniature):
    nets = (ConvNeXt(miniature), ConvNeXtClassifier(miniature))
    norms = [m for net in nets for m in net.modules() if isinstance(m, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    assert all(isinstance(norm, LayerNorm) for norm in norms)


def drawn_grn(dim):
    grn = GRN(dim)
    for parameter in grn.parameters():
        nn.init.normal_(parameter)
    return grn


def test_grn_is_the_authors_formula():
    grn = drawn_grn(6)
    x = torch.randn(3, 5, 7, 6)
    x[1, ..., 2] = 0  # a dead channel: its norm has no derivative
    response = x.square().sum((1, 2), keepdim=True).sqrt()
    relative = response / (response.mean(-1, keepdim=True) + 1e-6)
    assert_close(grn(x), grn.gamma * (x * relative) + grn.beta + x)
    assert torch.equal(GRN(6)(x), x)
    assert torch.autograd.gradcheck(drawn_grn(6).double(), x.double()[:1, :2, :3].requires_grad_())
    x.requires_grad_()
    grn(x).sum().backward()
    assert x.grad.isfinite().all()


def test_epsilon_of_grn_is_beside_the_mean_only():
    grn = drawn_grn(4)
    x = 1e-6 * torch.randn(1, 3, 3, 4)
    response = x.square().sum((1, 2), keepdim=True).sqrt()
    relative = response / (response.mean(-1, keepdim=True) + 1e-6)
    assert_close(grn.relative(response), relative)
    assert relative.max() < 1.5 and not grn(0 * x).isnan().any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('half_parameters', [False, True])
def test_grn_computes_responses_in_fp32(dtype, half_parameters):
    grn = drawn_grn(8)
    # The sum of squares is 7e7, above the largest number of fp16.
    x = (30 * torch.randn(1, 200, 304, 8)).to(dtype)
    expected = grn(x.float())
    if half_parameters:
        grn.to(dtype)
    out = grn(x)
    assert out.dtype == dtype
    error = (out.float() - expected).abs().max() / expected.abs().max()
    assert error < torch.finfo(dtype).eps


def test_grn_takes_what_other_layers_take():
    grn, x = drawn_grn(8), torch.randn(2, 5, 4, 8)

    def total(x):
        return grn(x).sum()

    leaf = x.clone().requires_grad_()
    total(leaf).backward()
    assert_close(torch.func.grad(total)(x), leaf.grad)
    slope = torch.func.jvp(total, (x,), (torch.ones_like(x),))[1]
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        assert_close(torch.autograd.forward_ad.unpack_dual(total(dual)).tangent, slope)
    assert_close(slope, leaf.grad.sum())
    assert_close(torch.func.vmap(grn)(x[:, None])[:, 0], grn(x))
    traced, other = torch.jit.trace(grn, x), torch.randn(3, 2, 6, 8)
    assert_close(traced(other), grn(other))
    with torch.device('meta'):  # new tensors are on another device than x
        assert grn(x).device == x.device


@pytest.mark.parametrize('axes', [0, 1, 3])
def test_grn_loads_with_axes_of_length_one(axes):
    grn, source = GRN(8), drawn_grn(8)
    state = {name: t.reshape(*[1] * axes, 8) for name, t in source.state_dict().items()}
    grn.load_state_dict(state)
    assert torch.equal(grn.gamma, source.gamma) and torch.equal(grn.beta, source.beta)
    assert state['gamma'].dim() == axes + 1
    with pytest.raises(RuntimeError, match='size mismatch for gamma'):
        grn.load_state_dict({**state, 'gamma': torch.ones(2, 4)})


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_sums_of_squares(dtype, layout):
    x = (3 + torch.randn(2, 5, 6, 7)).to(dtype).contiguous(memory_format=layout)
    found = sums_of_squares(x.permute(0, 2, 3, 1))
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert_close(found, x.double().square().sum((2, 3)).to(found.dtype))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_norms_of_channels_have_the_gradient_of_vector_norm(dtype):
    x = torch.randn(2, 5, 6, 7).to(dtype)
    x[0, ..., 3] = 0
    results = []
    for norm in (
        _ChannelNorms.apply,
        lambda x: torch.linalg.vector_norm(
            x, dim=(1, 2), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32)
        ),
    ):
        leaf = x.clone().requires_grad_()
        response = norm(leaf)
        (response * torch.arange(7.0)).sum().backward()
        results.append((response, leaf.grad))
    assert_close(*results)


def test_grn_depends_on_the_whole_map():
    grn = drawn_grn(6)
    x = torch.randn(1, 8, 8, 6)
    assert not torch.allclose(grn(x)[:, :4], grn(x[:, :4]))
    # Maps of zeros around it change nothing.
    assert_close(grn(nn.functional.pad(x, (0, 0, 0, 3)))[:, :, :8], grn(x))


@pytest.mark.parametrize('convolution', [True, False])
def test_pointwise_linear_is_linear(monkeypatch, convolution):
    monkeypatch.setattr('convnext_backbones.models.layers.HAS_AVX512', convolution)
    reference = nn.Linear(6, 10)
    layer = PointwiseLinear(6, 10)
    layer.load_state_dict(reference.state_dict())
    results = []
    for module in (reference, layer):
        x = torch.randn(2, 5, 7, 6, generator=torch.Generator().manual_seed(3)).requires_grad_()
        y = module(x)
        backward([y])
        results.append((y, x.grad, gradients(module)))
    assert_close(results[1], results[0])


def test_drop_path_drops_whole_samples_and_keeps_the_expectation():
    layer = DropPath(0.3)
    x = torch.ones(20_000, 2, 3)
    dropped = layer(x)
    per_sample = dropped.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    kept = per_sample[:, 0] != 0
    assert_close(per_sample[kept], torch.full_like(per_sample[kept], 1 / 0.7))
    # Five standard errors: sqrt(0.3 * 0.7 / 20000) = 0.0032.
    assert abs(kept.float().mean().item() - 0.7) < 0.016
    layer.eval()
    assert torch.equal(layer(x), x)
