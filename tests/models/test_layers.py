"""LayerNorm, pointwise layers and stochastic depth by their definitions."""

import pytest
import torch
from support.backbones import backward, gradients
from torch import nn
from torch.testing import assert_close

from convnext_backbones import ConvNeXt, ConvNeXtClassifier
from convnext_backbones.models.layers import DropPath, LayerNorm, LayerNorm2d, PointwiseLinear


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
