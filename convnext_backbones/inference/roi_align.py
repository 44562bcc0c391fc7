"""RoIAlign as weighted sums of the vectors of a map."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from mmcv.ops import RoIAlign
from torch import Tensor

from .fast_form import has_fast_form


class InferenceRoIAlign(RoIAlign):
    """RoIAlign as weighted sums of the vectors of a map, of C values each.

    Each sample in a bin lies between two rows and two columns of the map, so a bin is a weighted
    sum of the vectors at these positions. ``F.embedding_bag`` computes such sums in parallel and
    reads channels_last maps directly; mmcv's operator ignores strides and uses one thread.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Sample ``input`` of shape (N, C, H, W).

        Args:
            input: The map.
            rois: Of shape (K, 5): index of the image, x1, y1, x2, y2 in pixels of the image.

        Returns:
            The bins, of shape (K, C, height, width).
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
            some = (samples == count).all(1).nonzero()[:, 0]  # RoIs with `count` samples per bin
            vertical, horizontal = (
                _neighbors(start[some], bins[some, axis], int(count[axis]), parts, size)
                for axis, (start, parts, size) in enumerate(
                    zip((y1, x1), self.output_size, (height, width), strict=True)
                )
            )
            out[some] = _weighted_sums(rows, first_row[some], vertical, horizontal, width)
        return out.permute(0, 3, 1, 2)  # (K, height, width, C) -> (K, C, height, width)


def _neighbors(
    start: Tensor, bin_size: Tensor, count: int, bins: int, size: int
) -> tuple[Tensor, Tensor]:
    """Return the positions around the samples of every bin, along one axis, and their weights.

    Args:
        start: Start of each of the K RoIs, in cells of the map.
        bin_size: Size of a bin of each RoI, in cells.
        count: Samples in a bin.
        bins: Bins of a RoI along the axis.
        size: Size of the map along the axis.

    Returns:
        Positions and weights of shape (K, bins, 2 * count).
    """
    start, bin_size = start[:, None, None], bin_size[:, None, None]
    # Summed in the order of mmcv: rounding decides whether a sample on the edge is inside.
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
    """Return the bins of K RoIs, of shape (K, bins, bins', C); ``rows`` has a vector per cell."""
    (y, share_y), (x, share_x) = vertical, horizontal
    shape = len(first_row), y.shape[1], x.shape[1]
    index = (first_row[:, None, None] + y * width)[:, :, None, :, None] + x[:, None, :, None]
    weight = share_y[:, :, None, :, None] * share_x[:, None, :, None]
    if not index.numel():  # RoIs without height or width
        return rows.new_zeros(*shape, rows.shape[1])
    index, weight = (values.reshape(math.prod(shape), -1) for values in (index, weight))
    return F.embedding_bag(index, rows, per_sample_weights=weight, mode='sum').view(*shape, -1)
