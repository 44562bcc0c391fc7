"""A faster form of the backbone, for inference on CPUs: same parameters, same outputs.

Maps are in channels_last, and each block adds its result to the map in place, see
:class:`InferenceBlock`. Layers that a subclass has replaced by its own run as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TypeGuard, cast

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from ..models.block import Block
from ..models.convnext import ConvNeXt
from ..models.layers import LayerNorm2d, PatchConv2d, convolve_patches
from ..native.compiler import Library, load
from ..native.kernels import Scratch, downsample, normalize_map
from .bands import even_share, fitting
from .block import InferenceBlock, is_plain_convolution
from .classes import has_hooks, keeps_methods, restore_class, runs_forward_of, swap_class
from .fast_form import can_be_faster, is_plain_call
from .tuning import Tuner


class InferenceConvNeXt(ConvNeXt):
    """A ConvNeXt that computes its maps without gradients, in channels_last and in place.

    Attributes:
        compute_dtype: fp32 or bf16, between input and output.
        maps_channels_last: Return the maps in channels_last; set where no RoI operator reads them.
    """

    original_class = ConvNeXt
    compute_dtype: torch.dtype
    maps_channels_last: bool

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of ``x``, as :meth:`ConvNeXt.forward` does."""
        self._check_input(x)
        # An empty batch has no bands.
        if not is_plain_call(self, x) or not can_be_faster() or not len(x):
            return super().forward(x)
        x = x.to(self.compute_dtype)
        library = load() if x.dtype == torch.float32 else None
        scratch = Scratch()
        maps = []
        for i, (layers, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = _downsample(layers, x, i == 0, library, scratch)
            for block in cast(Iterable[nn.Module], stage):
                if isinstance(block, InferenceBlock) and not has_hooks(block):
                    block.forward_(x, scratch)
                else:
                    x = run_unchanged(block, x)
            if i in self.out_indices:
                maps.append(self._output(x, self._output_norm(i), library))
        return tuple(maps)

    def _output(self, x: Tensor, norm: nn.Module, library: Library | None) -> Tensor:
        layout = torch.channels_last if self.maps_channels_last else torch.contiguous_format
        if not _is_channel_norm(norm):
            return norm(x.float()).to(torch.float32, memory_format=layout, copy=True)
        out = torch.empty_like(x, dtype=torch.float32, memory_format=layout)
        if library is not None:
            return normalize_map(library, x, norm, out)
        return _normalize(x, norm, out)


def optimize_backbone(backbone: ConvNeXt, compute_dtype: torch.dtype, tuner: Tuner) -> None:
    """Give a backbone and its blocks their fast classes, in place, where these compute the same.

    A subclass of ConvNeXt that overrides ``forward`` keeps it and computes in fp32, but its blocks
    become fast. A block that overrides ``forward`` keeps it too, and the rest becomes fast.
    """
    for module in backbone.modules():
        if isinstance(module, (ConvNeXt, Block)):
            _restore(module)
        if isinstance(module, Block) and InferenceBlock.computes(module):
            InferenceBlock.take_over(module, tuner)
    if keeps_methods(backbone, InferenceConvNeXt, ('forward', '_run_block')):
        swap_class(backbone, InferenceConvNeXt)
        fast = cast(InferenceConvNeXt, backbone)
        fast.compute_dtype = compute_dtype
        fast.maps_channels_last = False
        return
    print_log(
        f'{type(backbone).__name__} overrides how ConvNeXt computes its maps: its own method is '
        'kept, and only its blocks become faster, in fp32.',
        logger='current',
        level=logging.INFO if compute_dtype == torch.float32 else logging.WARNING,
    )


def _restore(module: nn.Module) -> None:
    """Make a fast backbone or block what it was before."""
    for fast in (InferenceConvNeXt, InferenceBlock):
        if isinstance(module, fast):
            for name in fast.__annotations__:
                vars(module).pop(name, None)
            restore_class(module)


def _downsample(
    layers: nn.Module, x: Tensor, is_stem: bool, library: Library | None, scratch: Scratch
) -> Tensor:
    """Run stem or downsampling layers; the result, in channels_last, may change in place.

    Args:
        layers: A convolution over patches and a norm, or others.
        x: The image for the stem, which is left as it is; or a map, which may change.
        is_stem: Whether the norm comes last.
        library: The kernels, if they may be used.
        scratch: Memory for them.
    """
    if not runs_forward_of(layers, nn.Sequential) or has_hooks(layers):
        return run_unchanged(layers, x)
    parts = [*cast(nn.Sequential, layers)]
    if len(parts) != 2:
        return run_unchanged(layers, x)
    convolution, norm = parts if is_stem else parts[::-1]
    if not _is_patch_convolution(convolution) or not _is_channel_norm(norm):
        return run_unchanged(layers, x)
    if library is not None and len(set(convolution.kernel_size)) == 1:
        return downsample(library, x, convolution, norm, not is_stem, scratch)
    if is_stem:
        x = _convolve(x.contiguous(memory_format=torch.channels_last), convolution)
        return _normalize(x, norm, x)
    _normalize(x, norm, x)
    return _convolve(x, convolution)


def run_unchanged(module: nn.Module, x: Tensor) -> Tensor:
    """Run a module without a fast form, in fp32.

    The result has the type of ``x``, is in channels_last and shares no memory with other tensors,
    so that the following layers may change it in place.
    """
    return module(x.float()).to(x.dtype, memory_format=torch.channels_last, copy=True)


def _is_patch_convolution(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        isinstance(module, nn.Conv2d)
        and is_plain_convolution(module, PatchConv2d)
        and module.kernel_size == module.stride
        and module.padding == (0, 0)
        and module.groups == 1
    )


def _is_channel_norm(module: nn.Module) -> TypeGuard[LayerNorm2d]:
    return runs_forward_of(module, LayerNorm2d) and not has_hooks(module)


def _convolve(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """Convolve patches, in the type of ``x``, in channels_last."""
    weight = layer.weight.to(x.dtype).contiguous(memory_format=torch.channels_last)
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    if x.dtype == torch.bfloat16:  # oneDNN may compute garbage: see PatchConv2d
        return convolve_patches(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride)


def _normalize(x: Tensor, norm: LayerNorm2d, out: Tensor) -> Tensor:
    """Write the normalized ``x`` into ``out``, which may be ``x``, and return it."""
    rows = even_share(x.shape[2], fitting(x.shape[1] * x.shape[3] * x.element_size()))
    for source, target in zip(x, out, strict=True):
        for top in range(0, x.shape[2], rows):
            band = slice(top, top + rows)
            target[:, band] = norm(source[None, :, band])[0]
    return out
