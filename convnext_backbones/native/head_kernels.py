"""Call the kernels of necks and heads with tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from .compiler import Library
from .kernels import LONG, POINTERS, Scratch

# A bin of more samples along a side is left to others.
MOST_SAMPLES = 1000


class _Convolution(ctypes.Structure):
    """``struct convolution`` of winograd.h."""

    _fields_: ClassVar[Sequence[Any]] = [
        ('x', POINTERS),
        *((name, LONG) for name in ('samples', 'height', 'width', 'channels')),
        *((name, POINTERS) for name in ('weight', 'bias', 'out')),
        ('out_channels', LONG),
        ('relu', ctypes.c_int),
        ('scratch', POINTERS),
        ('threads', ctypes.c_int),
    ]


class _Regions(ctypes.Structure):
    """``struct regions`` of roi_align.h."""

    _fields_: ClassVar[Sequence[Any]] = [
        ('x', POINTERS),
        *((name, LONG) for name in ('samples', 'height', 'width', 'channels')),
        *((name, POINTERS) for name in ('rois', 'places')),
        ('count', LONG),
        ('scale', ctypes.c_float),
        ('ratio', LONG),
        ('aligned', ctypes.c_int),
        *((name, LONG) for name in ('rows', 'columns')),
        ('out', POINTERS),
        ('channels_first', ctypes.c_int),
        ('threads', ctypes.c_int),
    ]


def convolve_3x3(
    library: Library, x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False
) -> Tensor:
    """Convolve a map, padded with a zero on all sides, with a quarter of the multiplications.

    Args:
        library: The kernels.
        x: Of shape (N, C, H, W), fp32, on the CPU; best in channels_last.
        weight: Of shape (C', C, 3, 3); best in channels_last.
        bias: Of shape (C',).
        relu: Whether negative results become zero.

    Returns:
        The result, of shape (N, C', H, W), in channels_last.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    samples, channels, height, width = x.shape
    kernel = weight.permute(0, 2, 3, 1).contiguous()  # (C', C, 3, 3) -> (C', 3, 3, C)
    bias = None if bias is None else bias.contiguous()
    out = torch.empty((samples, len(weight), height, width), memory_format=torch.channels_last)
    convolution = _Convolution(
        x=x.data_ptr(),
        samples=samples,
        height=height,
        width=width,
        channels=channels,
        weight=kernel.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        out=out.data_ptr(),
        out_channels=len(weight),
        relu=relu,
        threads=torch.get_num_threads(),
    )
    library.functions.convolution_scratch.restype = LONG
    memory = Scratch().floats(library.functions.convolution_scratch(ctypes.byref(convolution)))
    convolution.scratch = memory.data_ptr()
    library.functions.convolve_3x3(ctypes.byref(convolution))
    return out


def can_align(maps: Tensor, rois: Tensor, scale: float) -> bool:
    """Whether :func:`align_regions` takes these RoIs: of these maps, finite, and not huge."""
    if maps.dtype != torch.float32 or not maps.numel() or not len(rois):
        return False
    images, boxes = rois[:, 0], rois[:, 1:].abs() * scale
    # A comparison with NaN is false.
    return bool(
        (images >= 0).all() and (images < len(maps)).all() and (boxes < MOST_SAMPLES / 2).all()
    )


def align_regions(
    library: Library,
    maps: Tensor,
    rois: Tensor,
    out: Tensor,
    places: Tensor,
    *,
    scale: float,
    ratio: int,
    aligned: bool,
) -> None:
    """Write the means of the bins of RoIs (RoIAlign).

    Args:
        library: The kernels.
        maps: Of shape (N, C, H, W), fp32, on the CPU; best in channels_last.
        rois: Of shape (K, 5): index of the map, x1, y1, x2, y2; see :func:`can_align`.
        out: Of shape (M, C, rows, columns), contiguous or in channels_last.
        places: Of shape (K,), int64: where in ``out`` each RoI goes.
        scale: Cells of the maps per unit of the RoIs.
        ratio: Samples along each side of a bin; 0 for about one a cell.
        aligned: Whether the center of cell i is at i + 0.5, and not at i.

    Raises:
        MemoryError: There is not enough memory.
    """
    maps = maps.contiguous(memory_format=torch.channels_last)
    rois, places = rois.contiguous(), places.contiguous()
    samples, channels, height, width = maps.shape
    assert out.shape[1] == channels and rois.dtype == out.dtype == torch.float32
    last = out.is_contiguous(memory_format=torch.channels_last)
    assert last or out.is_contiguous()
    regions = _Regions(
        x=maps.data_ptr(),
        samples=samples,
        height=height,
        width=width,
        channels=channels,
        rois=rois.data_ptr(),
        places=places.data_ptr(),
        count=len(rois),
        scale=scale,
        ratio=ratio,
        aligned=aligned,
        rows=out.shape[2],
        columns=out.shape[3],
        out=out.data_ptr(),
        channels_first=not last,
        threads=torch.get_num_threads(),
    )
    if library.functions.align_regions(ctypes.byref(regions)):
        raise MemoryError('expected memory for the samples of RoIs, got none')
