"""A faster form of a trained network, for inference on CPUs: same parameters, same outputs.

ConvNeXt spends its time in the pointwise layers of its blocks. Layer by layer, their hidden map of
4C channels is written to memory, activated and read back. Here a block works through bands of rows
whose hidden map stays in the cache, in channels_last, with oneDNN's fused operations, and adds its
result to the map in place; see :class:`InferenceBlock`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.block import MLP_RATIO, Block
from ..models.convnext import ConvNeXt
from ..models.layers import LayerNorm2d, PatchConv2d, convolve_patches
from .fast_form import has_fast_form

# Bytes of the hidden map of one band. Measured at 800 x 1280 on a CPU with AVX2, 0.5 MiB of L2 per
# core and 32 MiB of L3 (2026-11-23): 8 to 32 MiB are equal, 4 MiB take 1.2 times as long.
BAND_BYTES = 12 * 2**20
# Hidden channels that a block computes at once. Measured on the same CPU: from 3,072 on oneDNN
# computes the second pointwise layer at a third of the speed, at most numbers of positions.
PART_CHANNELS = 1536
# Up to so many positions of a map, a block keeps its weights in oneDNN's own format from one call
# to the next; above, converting them anew costs little and saves a copy of the weights.
KEEP_PACKED_POSITIONS = 512
# Rows that the depthwise convolution sees above and below.
RADIUS = 3
# Limit to the rows of a band whose even share is never less than RADIUS.
MIN_BAND = 2 * RADIUS
UNIT = [1, 1]  # stride and dilation
NO_PADDING = [0, 0]


class InferenceConvNeXt(ConvNeXt):
    """A ConvNeXt that computes its maps without gradients, in channels_last and in place.

    Attributes:
        compute_dtype: fp32 or bf16, between input and output.
        maps_channels_last: Return the maps in channels_last; set where no RoI operator reads them.
    """

    @classmethod
    def take_over(cls, backbone: ConvNeXt, compute_dtype: torch.dtype) -> None:
        """Turn a backbone, with its parameters and attributes, into one of this class."""
        backbone.__class__ = cls
        backbone.compute_dtype = compute_dtype
        backbone.maps_channels_last = False
        for stage in backbone.stages:
            for block in stage:
                block.__class__ = InferenceBlock
                block.packed = Kept()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of ``x``, as :meth:`ConvNeXt.forward` does."""
        self._check_input(x)
        if not has_fast_form(self, x) or not len(x):  # an empty batch has no bands
            return super().forward(x)
        x = x.to(self.compute_dtype).contiguous(memory_format=torch.channels_last)
        maps = []
        for i, (downsample, stage) in enumerate(
            zip(self.downsample_layers, self.stages, strict=True)
        ):
            if i == 0:
                convolution, norm = downsample
                x = _convolve(x, convolution)
                _normalize(x, norm, x)
            else:
                norm, convolution = downsample
                _normalize(x, norm, x)
                x = _convolve(x, convolution)
            for block in stage:
                block.forward_(x)
            if i in self.out_indices:
                maps.append(self._output(x, self._output_norm(i)))
        return tuple(maps)

    def _output(self, x: Tensor, norm: LayerNorm2d) -> Tensor:
        layout = torch.channels_last if self.maps_channels_last else torch.contiguous_format
        return _normalize(
            x, norm, out=torch.empty_like(x, dtype=torch.float32, memory_format=layout)
        )


class InferenceBlock(Block):
    """A block that adds its branch to a map in place, a band of rows at a time.

    Within a band, the 4C hidden map is written and read in the cache, a part of its channels at a
    time; layer scale is folded into the second pointwise layer; GELU and the residual sum are done
    by the convolutions themselves.
    """

    def forward_(self, x: Tensor) -> None:
        """Replace ``x``, of shape (N, C, H, W) in channels_last, by the output of the block."""
        samples, channels, height, width = x.shape
        part = even_share(MLP_RATIO * channels, PART_CHANNELS)
        hidden = part * width * x.element_size()  # bytes of a row
        rows = even_share(height, max(BAND_BYTES // hidden, MIN_BAND))
        together = even_share(samples, BAND_BYTES // (hidden * height)) if rows == height else 1
        pack = partial(self._pack, part, rows, width, x.dtype)
        if together * rows * width <= KEEP_PACKED_POSITIONS:
            weights = self.packed.get(self, (rows, width, x.dtype), pack)
        else:
            weights = pack()
        for some in x.split(together):
            # The convolution of a band sees the rows above and below, which must not have changed
            # by then: the band above waits for it.
            waiting = None
            for top in range(0, height, rows):
                bottom = min(top + rows, height)
                y = self._depthwise(some, top, bottom, weights)
                if waiting is not None:
                    self._add_branch(*waiting, weights)
                waiting = some[:, :, top:bottom], y
            self._add_branch(*waiting, weights)

    def _depthwise(self, x: Tensor, top: int, bottom: int, weights: Packed) -> Tensor:
        """The rows from ``top`` to ``bottom`` of the depthwise convolution of ``x``."""
        above, below = max(RADIUS - top, 0), max(bottom + RADIUS - x.shape[2], 0)
        x = x[:, :, top - RADIUS + above : bottom + RADIUS - below]
        if above or below:
            x = F.pad(x, (0, 0, above, below))
        return torch.ops.mkldnn._convolution_pointwise(
            x, *weights.dwconv, [0, RADIUS], UNIT, UNIT, x.shape[1], 'none', [], ''
        )

    def _add_branch(self, x: Tensor, y: Tensor, weights: Packed) -> None:
        """Add to ``x`` what follows the depthwise convolution ``y``."""
        y = y.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        norm = self.norm
        y = F.layer_norm(y, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        y = y.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
        for pwconv1, pwconv2 in weights.parts:
            hidden = torch.ops.mkldnn._convolution_pointwise(
                y, *pwconv1, NO_PADDING, UNIT, UNIT, 1, 'gelu', [], 'none'
            )
            torch.ops.mkldnn._convolution_pointwise_.binary(
                x, hidden, *pwconv2, NO_PADDING, UNIT, UNIT, 1, 'add', 1.0, None, [], None
            )

    def _pack(self, part: int, rows: int, width: int, dtype: torch.dtype) -> Packed:
        channels = self.dwconv.in_channels
        weight, bias = self.pwconv2.weight, self.pwconv2.bias
        if self.gamma is not None:
            weight, bias = self.gamma[:, None] * weight, self.gamma * bias

        def pack(
            weight: Tensor, bias: Tensor | None, padding: list[int], rows: int, groups: int = 1
        ) -> tuple[Tensor, Tensor | None]:
            size = [1, weight.shape[1] * groups, rows, width]
            weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
            weight = torch.ops.mkldnn._reorder_convolution_weight(
                weight, padding, UNIT, UNIT, groups, size
            )
            return weight, None if bias is None else bias.to(dtype)

        dwconv = pack(
            self.dwconv.weight, self.dwconv.bias, [0, RADIUS], rows + 2 * RADIUS, groups=channels
        )
        parts = []
        pwconv1 = self.pwconv1.weight.split(part), self.pwconv1.bias.split(part)
        for up, up_bias, down in zip(*pwconv1, weight.split(part, 1), strict=True):
            # Linear weights (C_out, C_in) become those of 1x1 convolutions.
            first = pack(up[:, :, None, None], up_bias, NO_PADDING, rows)
            parts.append((first, pack(down[:, :, None, None], bias, NO_PADDING, rows)))
            bias = None  # the sum of the parts has it once
        return Packed(dwconv, parts)


class Packed(NamedTuple):
    """Weight, in oneDNN's own format, and bias of the layers of a block.

    Attributes:
        dwconv: The depthwise convolution.
        parts: Both pointwise layers, for each part of the hidden channels.
    """

    dwconv: tuple[Tensor, Tensor]
    parts: list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor | None]]]


def even_share(total: int, limit: int) -> int:
    """The size of equal parts of ``total``, as few as have at most ``limit`` each."""
    parts = math.ceil(total / max(limit, 1))
    return math.ceil(total / parts)


def _convolve(x: Tensor, layer: PatchConv2d) -> Tensor:
    """A convolution over patches, in the type of ``x``, in channels_last."""
    weight = layer.weight.to(x.dtype).contiguous(memory_format=torch.channels_last)
    bias = layer.bias.to(x.dtype)
    if x.dtype == torch.bfloat16:  # which oneDNN may get wrong: see PatchConv2d
        return convolve_patches(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride)


def _normalize(x: Tensor, norm: LayerNorm2d, out: Tensor) -> Tensor:
    """Write the normalized ``x`` into ``out``, which may be ``x``, and return it."""
    rows = even_share(x.shape[2], BAND_BYTES // (x.shape[1] * x.shape[3] * x.element_size()))
    for source, target in zip(x, out, strict=True):
        for top in range(0, x.shape[2], rows):
            band = slice(top, top + rows)
            target[:, band] = norm(source[None, :, band])[0]
    return out


class Kept:
    """What was computed from parameters, for as long as these do not change.

    oneDNN's own formats can neither be copied nor saved, so a copy and a pickle of this are empty.
    Torch counts the changes of a parameter, but not those in place through its ``data``: these go
    unnoticed.
    """

    def __init__(self) -> None:
        self.value, self.state, self.sources = None, None, []

    def get(self, module: nn.Module, geometry: object, compute: Callable[[], Any]) -> Any:
        """``compute()``, or what it returned last time if nothing changed since.

        Args:
            module: Whose parameters are meant.
            geometry: What else the result depends on.
            compute: Called without arguments.
        """
        parameters = [*module.parameters()]
        if any(parameter.is_inference() for parameter in parameters):
            return compute()  # tensors of inference mode do not count their changes
        state = [geometry, *((x.data_ptr(), x._version) for x in parameters)]
        if state != self.state:
            self.value, self.state = compute(), state
            # The aliases keep the memory from being given to other parameters at the same address.
            self.sources = [parameter.detach() for parameter in parameters]
        return self.value

    def __reduce__(self) -> tuple:
        return Kept, ()
