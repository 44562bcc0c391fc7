"""Layers of the block whose gradients the kernels compute, faster than torch's operators."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from .compiler import Library, load
from .kernels import LONG, POINTERS, Scratch

LAST = torch.channels_last
KERNEL_SIZE = 7  # that the kernels are written for


class _Depthwise(ctypes.Structure):
    """``struct depthwise`` of train.h."""

    _fields_: ClassVar[Sequence[Any]] = [
        *((name, POINTERS) for name in ('x', 'gradient')),
        *((name, LONG) for name in ('samples', 'height', 'width', 'channels')),
        *((name, POINTERS) for name in ('flipped', 'input_gradient', 'taps_gradient', 'scratch')),
        ('threads', ctypes.c_int),
    ]


class DepthwiseConvolution(Function):
    """A depthwise 7x7 convolution with a stride of 1 and a padding of 3.

    ``DepthwiseConvolution.apply(x, weight, bias)``: ``x`` of shape (N, C, H, W), ``weight`` of
    (C, 1, 7, 7), ``bias`` of (C,) or None; fp32, on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve, and keep what the gradients need."""
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return F.conv2d(x, weight, bias, padding=KERNEL_SIZE // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments."""
        x, weight = ctx.saved_tensors
        wanted = [bool(needed) for needed in ctx.needs_input_grad]
        library = load()
        # Gradients of gradients need operators that have some.
        if library is None or torch.is_grad_enabled() or not x.numel():
            channels = [len(weight)] if ctx.has_bias else None
            padding = [KERNEL_SIZE // 2] * 2
            return torch.ops.aten.convolution_backward(
                gradient,
                x,
                weight,
                channels,
                [1, 1],
                padding,
                [1, 1],
                False,
                [0, 0],
                len(weight),
                [*wanted[:2], wanted[2] and ctx.has_bias],
            )
        return _depthwise_backward(library, x, weight, gradient, wanted, ctx.has_bias)


def _depthwise_backward(
    library: Library,
    x: Tensor,
    weight: Tensor,
    gradient: Tensor,
    wanted: list[bool],
    has_bias: bool,
) -> tuple[Tensor | None, ...]:
    channels_last = x.is_contiguous(memory_format=LAST) and not x.is_contiguous()
    x, gradient = (t.contiguous(memory_format=LAST) for t in (x, gradient))
    flipped = weight.flatten(1).flip(1).t().contiguous()  # (C, 1, 7, 7) -> (49, C)
    input_gradient = torch.empty_like(x) if wanted[0] else None
    taps_gradient = x.new_empty(len(flipped) + 1, len(weight)) if any(wanted[1:]) else None
    depthwise = _Depthwise(
        x=x.data_ptr(),
        gradient=gradient.data_ptr(),
        samples=len(x),
        height=x.shape[2],
        width=x.shape[3],
        channels=x.shape[1],
        flipped=flipped.data_ptr(),
        input_gradient=None if input_gradient is None else input_gradient.data_ptr(),
        taps_gradient=None if taps_gradient is None else taps_gradient.data_ptr(),
        threads=torch.get_num_threads(),
    )
    library.functions.depthwise_scratch.restype = LONG
    memory = Scratch().floats(library.functions.depthwise_scratch(ctypes.byref(depthwise)))
    depthwise.scratch = memory.data_ptr()
    library.functions.depthwise_backward(ctypes.byref(depthwise))
    if input_gradient is not None and not channels_last:
        input_gradient = input_gradient.contiguous()
    if taps_gradient is None:
        return input_gradient, None, None
    weight_gradient = taps_gradient[:-1].t().reshape(weight.shape)  # (49, C) -> (C, 1, 7, 7)
    return (
        input_gradient,
        weight_gradient if wanted[1] else None,
        taps_gradient[-1].clone() if has_bias and wanted[2] else None,
    )


class Gelu(Function):
    """GELU, the exact one: ``Gelu.apply(x)`` with ``x`` of any shape, fp32, on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Activate, and keep the input."""
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the gradient of the input."""
        (x,) = ctx.saved_tensors
        library = load()
        if library is None or torch.is_grad_enabled() or not _are_dense_alike(x, gradient):
            return torch.ops.aten.gelu_backward(gradient, x)
        out = torch.empty_like(x)
        library.functions.gelu_backward(
            POINTERS(x.data_ptr()),
            POINTERS(gradient.data_ptr()),
            POINTERS(out.data_ptr()),
            LONG(x.numel()),
            torch.get_num_threads(),
        )
        return out


def _are_dense_alike(x: Tensor, y: Tensor) -> bool:
    """Whether equal elements of two tensors lie at equal places in memory, without gaps."""
    return x.stride() == y.stride() and any(
        x.is_contiguous(memory_format=layout)
        for layout in (torch.contiguous_format, *[LAST] * (x.dim() == 4))
    )
