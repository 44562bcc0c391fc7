"""Layers of ConvNeXt that torch does not have: plain torch, no registry."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Properties of the build of torch and of the CPU, asked once: the questions break the graph of
# torch.compile.
HAS_ONEDNN = torch.backends.mkldnn.is_available()
HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == 'AVX512'


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis, computed and returned in the dtype of its parameters.

    Under autocast the parameters stay fp32 while the input may be fp16 or bf16, so the
    statistics are taken in fp32 on every device; CUDA's autocast does this by itself, the
    CPU's does not.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape (..., C)."""
        x = x.to(self.weight.dtype)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class LayerNorm2d(LayerNorm):
    """LayerNorm over the channels of an NCHW map, at each position on its own.

    The output has the memory format of the input. In channels_last the NHWC view is already
    contiguous, so nothing is copied.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape (N, C, H, W)."""
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        x = x.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        x = super().forward(x)
        x = x.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
        return x if channels_last else x.contiguous()


class PointwiseLinear(nn.Linear):
    """A linear layer over the channels of an NHWC map.

    On CPUs with AVX-512 it runs as a 1x1 convolution: oneDNN uses these instructions on every
    processor, MKL, which computes linear layers, on Intel's alone. With AVX2 MKL is as fast, and
    faster in training. The parameters are those of ``nn.Linear`` either way.
    """

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Map ``x`` of shape (N, H, W, C_in) to (N, H, W, C_out), times a ``scale`` of (C_out,).

        The scale multiplies weight and bias, so that its gradient does not need the output.
        """
        weight, bias = self.weight, self.bias
        if scale is not None:
            weight, bias = scale[:, None] * weight, scale * bias
        if x.device.type == 'cpu' and HAS_ONEDNN and HAS_AVX512:
            x = x.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W), channels_last in memory
            x = F.conv2d(x, weight[:, :, None, None], bias)
            return x.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        return F.linear(x, weight, bias)


class DropPath(nn.Module):
    """Stochastic depth per sample (Huang et al., 2016): drops the whole residual branch.

    Args:
        rate: Probability of dropping, in [0, 1). Kept samples are scaled by ``1 / (1 - rate)``,
            so that the expectation is that of evaluation, where nothing is dropped.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of ``x`` of shape (N, ...) in training mode."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty(x.shape[:1] + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        """The rate, for ``print(model)``."""
        return f'rate={self.rate:.4f}'
