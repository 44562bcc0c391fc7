"""Call the kernels with tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .compiler import Library

POINTERS = ctypes.c_void_p
LONG = ctypes.c_long


class BlockWeights(NamedTuple):
    """Parameters of a block, fp32 and contiguous; names and shapes are the block's own.

    Attributes:
        dwconv: The weight of the depthwise convolution, (C, 1, 7, 7).
        dwconv_bias: (C,).
        norm_weight: (C,).
        norm_bias: (C,).
        pwconv1: (hidden, C).
        pwconv1_bias: (hidden,).
        pwconv2: (C, hidden).
        pwconv2_bias: (C,).
        grn_gamma: (hidden,) or None, as ``grn_beta``.
        grn_beta: Of global response normalization.
        gamma: Layer scale, (C,) or None.
    """

    dwconv: Tensor
    dwconv_bias: Tensor | None
    norm_weight: Tensor
    norm_bias: Tensor
    pwconv1: Tensor
    pwconv1_bias: Tensor
    pwconv2: Tensor
    pwconv2_bias: Tensor
    grn_gamma: Tensor | None
    grn_beta: Tensor | None
    gamma: Tensor | None


class _Block(ctypes.Structure):
    """``struct block`` of block.h."""

    _fields_: ClassVar[Sequence[Any]] = [
        ('x', POINTERS),
        *((name, LONG) for name in ('samples', 'height', 'width', 'channels', 'hidden')),
        *((name, POINTERS) for name in ('dwconv', 'dwconv_bias', 'norm_weight', 'norm_bias')),
        ('eps', ctypes.c_float),
        *((name, POINTERS) for name in ('pwconv1', 'pwconv1_bias', 'pwconv2', 'pwconv2_bias')),
        *((name, POINTERS) for name in ('grn_gamma', 'grn_beta', 'gamma', 'scratch')),
        ('threads', ctypes.c_int),
    ]


class _BlockBf16(ctypes.Structure):
    """``struct block_bf16`` of block_bf16.h."""

    _fields_: ClassVar[Sequence[Any]] = [
        ('x', POINTERS),
        *((name, LONG) for name in ('samples', 'height', 'width', 'channels', 'hidden')),
        *((name, POINTERS) for name in ('taps', 'dwconv_bias', 'norm_weight', 'norm_bias')),
        ('eps', ctypes.c_float),
        *((name, POINTERS) for name in ('packed', 'pwconv1_bias', 'pwconv2_bias')),
        *((name, POINTERS) for name in ('grn_gamma', 'grn_beta', 'gamma', 'scratch')),
        ('threads', ctypes.c_int),
    ]


class _Patches(ctypes.Structure):
    """``struct patches`` of maps.h."""

    _fields_: ClassVar[Sequence[Any]] = [
        ('x', POINTERS),
        *((name, LONG) for name in ('samples', 'height', 'width', 'channels')),
        *((f'{axis}_stride', LONG) for axis in ('sample', 'row', 'column', 'channel')),
        ('size', LONG),
        *((name, POINTERS) for name in ('weight', 'bias', 'norm_weight', 'norm_bias')),
        ('eps', ctypes.c_float),
        ('norms_input', ctypes.c_int),
        ('out', POINTERS),
        ('out_channels', LONG),
        ('scratch', POINTERS),
        ('threads', ctypes.c_int),
    ]


class _Output(ctypes.Structure):
    """``struct output`` of maps.h."""

    _fields_: ClassVar[Sequence[Any]] = [
        ('x', POINTERS),
        *((name, LONG) for name in ('samples', 'positions', 'channels')),
        *((name, POINTERS) for name in ('weight', 'bias')),
        ('eps', ctypes.c_float),
        ('out', POINTERS),
        ('channels_first', ctypes.c_int),
        ('threads', ctypes.c_int),
    ]


class Scratch:
    """Memory that one call after the other uses; it grows to the largest demand."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None

    def floats(self, count: int) -> Tensor:
        """Return at least ``count`` floats, of any value."""
        if self.memory is None or len(self.memory) < count:
            self.memory = None  # free it first
            self.memory = torch.empty(count)
        return self.memory


def add_branch(
    library: Library, x: Tensor, weights: BlockWeights, eps: float, scratch: Scratch
) -> None:
    """Replace ``x`` by the output of a block.

    Args:
        library: The kernels.
        x: Of shape (N, C, H, W), fp32, in channels_last, on the CPU.
        weights: Parameters of the block.
        eps: Epsilon of its LayerNorm.
        scratch: Memory for intermediate maps.
    """
    _check_map(x)
    samples, channels, height, width = x.shape
    bias = weights.dwconv_bias if weights.dwconv_bias is not None else x.new_zeros(channels)
    given = weights._replace(dwconv_bias=bias)._asdict()
    tensors = {name: tensor.contiguous() for name, tensor in given.items() if tensor is not None}
    pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    block = _Block(
        x=x.data_ptr(),
        samples=samples,
        height=height,
        width=width,
        channels=channels,
        hidden=len(weights.pwconv1),
        eps=eps,
        threads=torch.get_num_threads(),
        **pointers,
    )
    library.functions.block_scratch.restype = LONG
    memory = scratch.floats(library.functions.block_scratch(ctypes.byref(block)))
    block.scratch = memory.data_ptr()
    library.functions.block_forward(ctypes.byref(block))


def supports_bf16(library: Library) -> bool:
    """Whether the kernels have bf16 instructions to use, and the system permits them."""
    return bool(library.functions.block_bf16_supported())


def pack_bf16(library: Library, pwconv1: Tensor, pwconv2: Tensor) -> Tensor:
    """Round and pack the weights of both pointwise layers, for :func:`add_branch_bf16`.

    Args:
        library: Kernels that support bf16.
        pwconv1: Of shape (hidden, C), fp32.
        pwconv2: Of shape (C, hidden), fp32.

    Returns:
        Bytes of half the size of both.
    """
    hidden, channels = pwconv1.shape
    sizes = LONG(channels), LONG(hidden)
    library.functions.block_bf16_packed_bytes.restype = LONG
    packed = torch.empty(library.functions.block_bf16_packed_bytes(*sizes), dtype=torch.uint8)
    pwconv1, pwconv2 = pwconv1.contiguous(), pwconv2.contiguous()
    pointers = (POINTERS(tensor.data_ptr()) for tensor in (pwconv1, pwconv2))
    library.functions.pack_block_bf16(*pointers, *sizes, POINTERS(packed.data_ptr()))
    return packed


def add_branch_bf16(
    library: Library,
    x: Tensor,
    weights: BlockWeights,
    packed: Tensor,
    eps: float,
    scratch: Scratch,
) -> None:
    """Replace ``x`` by the output of a block, with products of bf16 and sums in fp32.

    Args:
        library: Kernels that support bf16.
        x: Of shape (N, C, H, W), bf16, in channels_last, on the CPU.
        weights: Parameters of the block.
        packed: Those of its pointwise layers, by :func:`pack_bf16`.
        eps: Epsilon of its LayerNorm.
        scratch: Memory for intermediate maps.
    """
    assert x.dtype == torch.bfloat16 and x.is_contiguous(memory_format=torch.channels_last)
    samples, channels, height, width = x.shape
    taps = weights.dwconv.flatten(1).t().contiguous()  # (C, 1, 7, 7) -> (49, C)
    bias = weights.dwconv_bias if weights.dwconv_bias is not None else taps.new_zeros(channels)
    given = dict(weights._replace(dwconv_bias=bias)._asdict(), taps=taps, packed=packed)
    for name in ('dwconv', 'pwconv1', 'pwconv2'):
        given.pop(name)
    tensors = {name: tensor.contiguous() for name, tensor in given.items() if tensor is not None}
    block = _BlockBf16(
        x=x.data_ptr(),
        samples=samples,
        height=height,
        width=width,
        channels=channels,
        hidden=len(weights.pwconv1),
        eps=eps,
        threads=torch.get_num_threads(),
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
    )
    library.functions.block_bf16_scratch.restype = LONG
    memory = scratch.floats(library.functions.block_bf16_scratch(ctypes.byref(block)))
    block.scratch = memory.data_ptr()
    library.functions.block_bf16_forward(ctypes.byref(block))


def downsample(
    library: Library,
    x: Tensor,
    convolution: nn.Conv2d,
    norm: nn.LayerNorm,
    norms_input: bool,
    scratch: Scratch,
) -> Tensor:
    """Convolve patches, after LayerNorm over the channels or before it.

    Args:
        library: The kernels.
        x: Of shape (N, C, H, W), fp32, on the CPU; in channels_last if ``norms_input``.
        convolution: Has its kernel size as stride, and no padding.
        norm: Its norm.
        norms_input: Whether the norm comes first.
        scratch: Memory for intermediate values.

    Returns:
        A map of shape (N, C', H // size, W // size), in channels_last.
    """
    samples, channels, height, width = x.shape
    size = convolution.kernel_size[0]
    weight = convolution.weight.contiguous()  # (C', C, size, size)
    shape = samples, len(weight), height // size, width // size
    out = torch.empty(shape, memory_format=torch.channels_last)
    strides = dict(zip(('sample', 'channel', 'row', 'column'), x.stride(), strict=True))
    patches = _Patches(
        x=x.data_ptr(),
        samples=samples,
        height=height,
        width=width,
        channels=channels,
        **{f'{axis}_stride': stride for axis, stride in strides.items()},
        size=size,
        weight=weight.data_ptr(),
        bias=None if convolution.bias is None else convolution.bias.data_ptr(),
        norm_weight=norm.weight.data_ptr(),
        norm_bias=norm.bias.data_ptr(),
        eps=norm.eps,
        norms_input=norms_input,
        out=out.data_ptr(),
        out_channels=len(weight),
        threads=torch.get_num_threads(),
    )
    library.functions.patches_scratch.restype = LONG
    memory = scratch.floats(library.functions.patches_scratch(ctypes.byref(patches)))
    patches.scratch = memory.data_ptr()
    library.functions.convolve_patches(ctypes.byref(patches))
    return out


def normalize_map(library: Library, x: Tensor, norm: nn.LayerNorm, out: Tensor) -> Tensor:
    """Write LayerNorm over the channels of a map.

    Args:
        library: The kernels.
        x: Of shape (N, C, H, W), fp32, in channels_last, on the CPU.
        norm: The norm.
        out: Of the same shape, contiguous or in channels_last.

    Returns:
        ``out``.
    """
    _check_map(x)
    samples, channels, height, width = x.shape
    output = _Output(
        x=x.data_ptr(),
        samples=samples,
        positions=height * width,
        channels=channels,
        weight=norm.weight.data_ptr(),
        bias=norm.bias.data_ptr(),
        eps=norm.eps,
        out=out.data_ptr(),
        channels_first=not out.is_contiguous(memory_format=torch.channels_last),
        threads=torch.get_num_threads(),
    )
    library.functions.normalize_map(ctypes.byref(output))
    return out


def _check_map(x: Tensor) -> None:
    assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
