"""Layers of ConvNeXt that torch does not have: plain torch, no registry."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..native.compiler import load
from ..native.gradients import KERNEL_SIZE, DepthwiseConvolution, Gelu

# Properties of this build of torch and of the CPU. Constants, because the queries break the graph
# of torch.compile.
HAS_ONEDNN = torch.backends.mkldnn.is_available()
HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == 'AVX512'


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis, computed and returned in the dtype of its parameters.

    Under autocast the parameters stay fp32 while the input may be fp16 or bf16, so the
    statistics are computed in fp32 on every device. CUDA's autocast ensures this by itself, the
    CPU's does not.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` of shape (..., C)."""
        x = x.to(self.weight.dtype)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class LayerNorm2d(LayerNorm):
    """LayerNorm over the channels of an NCHW map, separately at each position.

    The output has the memory format of the input. In channels_last the NHWC view is already
    contiguous, so nothing is copied.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` of shape (N, C, H, W)."""
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        x = x.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        x = super().forward(x)
        x = x.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
        return x if channels_last else x.contiguous()


class PointwiseLinear(nn.Linear):
    """A linear layer over the channels of an NHWC map.

    On CPUs with AVX-512 it runs as a 1x1 convolution in oneDNN, which uses these instructions on
    every processor; MKL, which computes linear layers, uses them on Intel's only. With AVX2, MKL is
    as fast, and faster in training. The parameters are those of ``nn.Linear`` in both cases.
    """

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Map ``x`` of shape (N, H, W, C_in) to (N, H, W, C_out), times a ``scale`` of (C_out,).

        The scale multiplies weight and bias, so that its gradient does not need the output.
        """
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if scale is not None:
            weight, bias = scale[:, None] * weight, scale * bias
        if x.device.type == 'cpu' and HAS_ONEDNN and HAS_AVX512:
            x = x.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W), channels_last in memory
            x = F.conv2d(x, weight[:, :, None, None], bias)
            return x.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        return F.linear(x, weight, bias)


class DepthwiseConv2d(nn.Conv2d):
    """The depthwise 7x7 convolution of a block, with faster gradients on CPUs.

    Args:
        dim: Channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, kernel_size=KERNEL_SIZE, padding=KERNEL_SIZE // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (N, C, H, W) to the same shape."""
        if _has_native_gradient(x, self.weight) and x.dim() == 4 and x.shape[1] == len(self.weight):
            return DepthwiseConvolution.apply(x, self.weight, self.bias)
        return super().forward(x)


class GELU(nn.GELU):
    """The exact GELU, with a faster gradient on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` to the same shape."""
        return Gelu.apply(x) if _has_native_gradient(x) else super().forward(x)


def _has_native_gradient(x: Tensor, *parameters: Tensor) -> bool:
    """Whether a gradient is recorded that the kernels in C can compute."""
    return (
        torch.is_grad_enabled()
        and x.device.type == 'cpu'
        and all(each.dtype == torch.float32 for each in (x, *parameters))
        and any(each.requires_grad for each in (x, *parameters))
        and _runs_eagerly(x)
        and not torch.is_autocast_enabled('cpu')
        and load() is not None
    )


class GRN(nn.Module):
    """Global response normalization of an NHWC map (ConvNeXt V2, Woo et al., 2023, section 3).

    The response of a channel is the L2 norm of its whole map, in each sample. Each channel is
    scaled by its response relative to the mean response of all channels:
    ``y = gamma * (x * n) + beta + x`` with ``n = g / (mean(g) + eps)``. So a position depends on
    all others, on padding as well, and the result for a crop is not a crop of the result.

    Responses and scales are computed in fp32 at least: in fp16 the sum of squares over a map
    overflows.

    Args:
        dim: Channels.

    Attributes:
        gamma: Of shape (dim,), as is ``beta``; both are zero at first, which makes it an identity.
            As vectors they have no weight decay, which the authors advise. State dicts that hold
            them with axes of length one, such as the authors' (1, 1, 1, dim), load as well.
    """

    EPS = 1e-6

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` of shape (N, H, W, C); the result has its type."""
        if _runs_eagerly(x) and x.device.type == 'cpu' and x.numel():
            response = _ChannelNorms.apply(x)
        else:
            dtype = torch.promote_types(x.dtype, torch.float32)
            response = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=dtype)
        scale = 1 + self.gamma * self.relative(response)  # (N, 1, 1, C)
        return torch.addcmul(self.beta, x, scale).to(x.dtype)

    @classmethod
    def relative(cls, response: Tensor) -> Tensor:
        """Return the responses of all channels, the last axis, relative to their mean."""
        return response / (response.mean(-1, keepdim=True) + cls.EPS)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ('gamma', 'beta'):
            tensor = state_dict.get(prefix + name)
            if isinstance(tensor, Tensor) and tensor.shape[-1:] == tensor.flatten().shape:
                state_dict[prefix + name] = tensor.flatten()
        super()._load_from_state_dict(state_dict, prefix, *args)


def _runs_eagerly(x: Tensor) -> bool:
    """Whether ``x`` is an ordinary tensor and nothing records or transforms what is done with it.

    Compilers, ``torch.func``, forward-mode derivatives and tensors of other classes need torch's
    own operators; a trace would keep the number of samples.
    """
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or type(x) is not Tensor
    )


class _ChannelNorms(torch.autograd.Function):
    """L2 norms of the channels of an NHWC map, (N, 1, 1, C), as ``vector_norm`` computes them.

    On the CPU that takes as long as GELU and the scaling together.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        response = sums_of_squares(x)[:, None, None].sqrt()
        ctx.save_for_backward(x, response)
        return response

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, response = ctx.saved_tensors
        # A channel of zeros has no direction in which its norm would change.
        return (x * (gradient / response).where(response > 0, 0)).to(x.dtype)


def sums_of_squares(x: Tensor) -> Tensor:
    """Return the sums of squares of the channels of a map on the CPU, in fp32 at least.

    The statistics of batch norm are torch's only reduction over the positions of an NHWC map that
    runs in parallel and with vector instructions.

    Args:
        x: Of shape (N, H, W, C).

    Returns:
        A tensor of shape (N, C).
    """
    samples, height, width, channels = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    running = x.new_zeros(2, channels, dtype=dtype)  # which the operator asks for
    sums = x.new_empty(samples, channels, dtype=dtype)
    for total, sample in zip(sums, x.permute(0, 3, 1, 2).split(1), strict=True):
        mean, variance = torch.batch_norm_update_stats(sample, running[0], running[1], 0.0)
        total.copy_(mean.square().add_(variance).mul_(height * width))
    return sums


class PatchConv2d(nn.Conv2d):
    """A convolution over patches that do not overlap: its stride is its kernel size.

    The parameters are those of ``nn.Conv2d``. In bf16 on a CPU, :func:`convolve_patches` computes
    the result: on Intel CPUs with AMX, oneDNN's bf16 convolutions with such strides return garbage,
    up to 1e37 and NaN, for many numbers of channels, mainly where the output is one column wide
    (torch 2.13.0 and 2.14.1). A linear layer over the patches is always correct.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        size: Height and width of a patch.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=size, stride=size)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (N, C_in, H, W) to (N, C_out, H // size, W // size)."""
        if _is_bf16_on_cpu(x):
            return convolve_patches(x, self.weight, self.bias)
        return super().forward(x)


def convolve_patches(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with the kernel size as stride, as a linear layer over patches.

    Args:
        x: Of shape (N, C, H, W), at least one patch high and wide. Rows and columns that fill no
            patch are ignored.
        weight: Of shape (C', C, rows, columns).
        bias: Of shape (C',).

    Returns:
        A map of shape (N, C', H // rows, W // columns), in channels_last if ``x`` or ``weight``
        is, like the result of ``F.conv2d``.
    """
    rows, columns = weight.shape[2:]
    channels_last = 1 in (x.stride(1), weight.stride(1))
    # Where rows and columns are left over, too, it compiles to the same graph.
    x = x.unfold(2, rows, rows).unfold(3, columns, columns)  # (N, C, H', W', rows, columns)
    x = x.permute(0, 2, 3, 4, 5, 1)  # (N, H', W', rows, columns, C)
    weight = weight.permute(0, 2, 3, 1)  # (C', C, rows, columns) -> (C', rows, columns, C)
    x = F.linear(x.flatten(3), weight.flatten(1), bias)
    x = x.permute(0, 3, 1, 2)  # (N, H', W', C') -> (N, C', H', W')
    return x if channels_last else x.contiguous()


def _is_bf16_on_cpu(x: Tensor) -> bool:
    """Whether a layer computes ``x`` in bf16 on a CPU: by its own type, or under autocast."""
    if x.device.type != 'cpu':
        return False
    if torch.is_autocast_enabled('cpu') and x.dtype != torch.float64:  # autocast leaves fp64 alone
        return torch.get_autocast_dtype('cpu') == torch.bfloat16
    return x.dtype == torch.bfloat16


class DropPath(nn.Module):
    """Stochastic depth per sample (Huang et al., 2016): drops the whole residual branch.

    Args:
        rate: Probability of dropping, in [0, 1). Kept samples are scaled by ``1 / (1 - rate)``,
            so that the expected value equals the output in evaluation mode, where nothing is
            dropped.
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
        """Return the rate, for ``print(model)``."""
        return f'rate={self.rate:.4f}'


def in_memory_format(x: Tensor, channels_last: bool | None) -> Tensor:
    """Return an image batch of shape (N, C, H, W) in the memory format that a network computes in.

    Args:
        x: The images.
        channels_last: The format; None chooses channels_last on CPUs, and else keeps that of ``x``.
    """
    if channels_last is None and x.device.type == 'cpu':
        channels_last = True
    if channels_last is None:
        return x
    return x.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
