"""What follows the backbone, faster on CPUs: necks and heads of mmdet and mmseg.

:func:`optimize_heads` gives their modules classes that compute the same from the same parameters:
everything stays in channels_last, batch norm and ReLU are done by the convolutions, 3x3 ones with
half of the multiplications (:mod:`.winograd`), and RoIAlign is a weighted sum of rows. What only
mmseg has is in :mod:`.inference_segmentors`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.ops import RoIAlign
from torch import Tensor, nn

from .inference import InferenceConvNeXt, has_fast_form
from .layers import HAS_AVX512, PointwiseLinear
from .winograd import convolve, is_covered, is_faster


def optimize_heads(model: nn.Module) -> None:
    """Give neck and heads of a detector or a segmentor their faster classes, in place."""
    faster = {RoIAlign: InferenceRoIAlign} | _faster_segmentation_parts()
    if HAS_AVX512:
        faster[nn.Linear] = InferenceLinear
    operators = [module for module in model.modules() if _is_operator(module)]
    theirs = {part for operator in operators for part in operator.modules()}
    for module in model.modules():
        if type(module) is ConvModule and _is_fusible(module):
            module.__class__ = InferenceConvModule
        elif type(module) in faster:
            module.__class__ = faster[type(module)]
        elif module in operators:
            module.register_forward_pre_hook(_contiguous, with_kwargs=True)
        if isinstance(module, InferenceConvNeXt):
            module.maps_channels_last = True
        elif type(module) is nn.Conv2d and module not in theirs:
            module.weight.data = module.weight.contiguous(memory_format=torch.channels_last)
            if is_covered(module):
                module.__class__ = InferenceConv2d


def _is_operator(module: nn.Module) -> bool:
    """Whether ``module`` is mmcv's, or derived from it, and may read memory ignoring strides.

    Its own layers may compute what it reads: they keep their layout, and so that of their inputs.
    """
    return not isinstance(module, InferenceRoIAlign) and any(
        base.__module__.startswith('mmcv.ops.') for base in type(module).__mro__
    )


def _contiguous(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    def contiguous(x: object) -> object:
        return x.contiguous() if isinstance(x, Tensor) else x

    return tuple(map(contiguous, args)), {name: contiguous(x) for name, x in kwargs.items()}


class InferenceLinear(PointwiseLinear):
    """A linear layer over the last axis, computed by oneDNN."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (..., C_in) to (..., C_out)."""
        if not x.numel() or not has_fast_form(self, x):
            return F.linear(x, self.weight, self.bias)
        rows = x.reshape(1, 1, -1, self.in_features)
        return super().forward(rows).reshape(*x.shape[:-1], self.out_features)


class InferenceConv2d(nn.Conv2d):
    """A 3x3 convolution with half of the multiplications."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (N, C_in, H, W) to (N, C_out, H, W)."""
        if not has_fast_form(self, x) or not is_faster(self.weight, x):
            return super().forward(x)
        return convolve(x, self.weight, self.bias)


class InferenceConvModule(ConvModule):
    """Convolution, batch norm and ReLU in one operation."""

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        """Map ``x`` of shape (N, C_in, H, W) to (N, C_out, H', W')."""
        if not has_fast_form(self, x) or not (activate and norm):
            return super().forward(x, activate, norm)
        weight, bias = folded(self)
        conv = self.conv
        if is_covered(conv) and is_faster(weight, x):
            return convolve(x, weight, bias, relu=self.with_activation)
        return torch.ops.mkldnn._convolution_pointwise(
            x.contiguous(memory_format=torch.channels_last),
            weight,
            bias,
            *map(list, (conv.padding, conv.stride, conv.dilation)),
            conv.groups,
            'relu' if self.with_activation else 'none',
            [],
            '',
        )


def _is_fusible(module: ConvModule) -> bool:
    """Whether ``module`` is no more than convolution, batch norm and ReLU, in this order."""
    return (
        type(module.conv) is nn.Conv2d
        and module.conv.padding_mode == 'zeros'
        and not isinstance(module.conv.padding, str)
        and not module.with_explicit_padding
        and not module.with_spectral_norm
        and module.order == ('conv', 'norm', 'act')
        and (not module.with_norm or _is_constant(module.norm))
        and (not module.with_activation or type(module.activate) is nn.ReLU)
    )


def _is_constant(norm: nn.Module) -> bool:
    """Whether ``norm`` scales and shifts in evaluation mode by what it has learnt."""
    return (
        isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm))
        and norm.track_running_stats
        and norm.affine
    )


def folded(module: ConvModule) -> tuple[Tensor, Tensor | None]:
    """Weight, in channels_last, and bias of a convolution that does the batch norm as well."""
    weight, bias = module.conv.weight, module.conv.bias
    if module.with_norm:
        norm = module.norm
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = weight * scale[:, None, None, None]
        shift = -norm.running_mean if bias is None else bias - norm.running_mean
        bias = norm.bias + scale * shift
    return weight.contiguous(memory_format=torch.channels_last), bias


class InferenceRoIAlign(RoIAlign):
    """RoIAlign as a weighted sum of rows of the map, of C values each.

    Each of the samples in a bin lies between two rows and two columns of the map, so a bin is a
    weighted sum of the vectors at these positions. ``F.embedding_bag`` computes such sums in
    parallel, and reads channels_last maps as they are; mmcv's operator ignores strides and uses
    one thread.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Sample ``input`` of shape (N, C, H, W).

        Args:
            input: The map.
            rois: Of shape (K, 5): index of the image, x1, y1, x2, y2 in pixels of the image.

        Returns:
            Of shape (K, C, height, width).
        """
        plain = self.pool_mode != 'avg' or self.use_torchvision
        if plain or not has_fast_form(self, input, rois):
            return super().forward(input.contiguous(), rois)
        channels, height, width = input.shape[1:]
        rows = input.permute(0, 2, 3, 1).reshape(-1, channels)  # (N * H * W, C)
        out = input.new_empty(len(rois), *self.output_size, channels)
        offset = 0.5 if self.aligned else 0.0
        x1, y1, x2, y2 = (rois[:, 1:] * self.spatial_scale - offset).unbind(1)
        sizes = torch.stack([y2 - y1, x2 - x1], 1)
        if not self.aligned:
            sizes = sizes.clamp(min=1)
        bins = sizes / sizes.new_tensor(self.output_size)  # (K, 2)
        if self.sampling_ratio > 0:
            samples = torch.full_like(bins, self.sampling_ratio, dtype=torch.long)
        else:
            samples = bins.ceil().long().clamp(min=0)
        first_row = rois[:, 0].long() * (height * width)
        for count in samples.unique(dim=0):
            some = (samples == count).all(1).nonzero()[:, 0]  # RoIs with so many samples in a bin
            near = [
                _neighbours(start[some], bins[some, axis], int(count[axis]), parts, size)
                for axis, (start, parts, size) in enumerate(
                    zip((y1, x1), self.output_size, (height, width), strict=True)
                )
            ]
            out[some] = _weighted_sums(rows, first_row[some], *near, width)
        return out.permute(0, 3, 1, 2)  # (K, height, width, C) -> (K, C, height, width)


def _neighbours(
    start: Tensor, bin_size: Tensor, count: int, bins: int, size: int
) -> tuple[Tensor, Tensor]:
    """Along one axis, the positions that the samples of every bin lie between, and their shares.

    Args:
        start: Where each of the K RoIs begins, in cells of the map.
        bin_size: Of each, in cells.
        count: Samples in a bin.
        bins: Bins of a RoI.
        size: Cells of the map.

    Returns:
        Positions and weights of shape (K, bins, 2 * count).
    """
    start, bin_size = start[:, None, None], bin_size[:, None, None]
    # Added up as mmcv does: rounding decides whether a sample on the edge is inside.
    samples = start + bin_size * torch.arange(bins)[:, None]
    samples = samples + bin_size * (torch.arange(count) + 0.5) / max(count, 1)  # (K, bins, count)
    inside = (samples >= -1) & (samples <= size)
    samples = samples.clamp(0, size - 1)
    low = samples.long()
    share = samples - low  # of the cell after `low`
    positions = torch.stack([low, (low + 1).clamp(max=size - 1)], -1)
    weights = torch.stack([1 - share, share], -1) * (inside[..., None] / max(count, 1))
    return positions.flatten(2), weights.flatten(2)


def _weighted_sums(
    rows: Tensor,
    first_row: Tensor,
    vertical: tuple[Tensor, Tensor],
    horizontal: tuple[Tensor, Tensor],
    width: int,
) -> Tensor:
    """The bins of K RoIs, of shape (K, bins, bins', C), out of ``rows``, one row per position."""
    (y, share_y), (x, share_x) = vertical, horizontal
    shape = len(first_row), y.shape[1], x.shape[1]
    index = (first_row[:, None, None] + y * width)[:, :, None, :, None] + x[:, None, :, None]
    weight = share_y[:, :, None, :, None] * share_x[:, None, :, None]
    if not index.numel():  # RoIs without height or width
        return rows.new_zeros(*shape, rows.shape[1])
    index, weight = (values.reshape(math.prod(shape), -1) for values in (index, weight))
    return F.embedding_bag(index, rows, per_sample_weights=weight, mode='sum').view(*shape, -1)


def _faster_segmentation_parts() -> dict[type, type]:
    """The parts of mmseg with a faster class, where mmseg is installed."""
    try:
        from mmseg.models import EncoderDecoder, UPerHead
    except ImportError:
        return {}
    from .inference_segmentors import InferenceEncoderDecoder, InferenceUPerHead

    return {EncoderDecoder: InferenceEncoderDecoder, UPerHead: InferenceUPerHead}
