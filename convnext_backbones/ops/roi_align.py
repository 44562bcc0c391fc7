"""RoIAlign in plain torch (He et al., "Mask R-CNN", ICCV 2017, section 3).

A bin is the mean, or the largest, of samples that are interpolated between four cells of the map.
The mean is a weighted sum of the map's rows, see :mod:`.sampling`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .sampling import Entries, clamped_neighbors, maps_of, rows_of, single, weighted_sums

LARGEST_PART = 1 << 22  # entries of the sums that are prepared at once: 50 MB


class Grid(NamedTuple):
    """Where the samples of a RoI lie.

    Attributes:
        output_size: Rows and columns of bins.
        spatial_scale: Cells of the map per pixel of the image.
        sampling_ratio: Samples along each side of a bin; 0 for about one a cell.
        aligned: Whether the center of cell i is at i + 0.5, and not at i.
    """

    output_size: tuple[int, int]
    spatial_scale: float
    sampling_ratio: int
    aligned: bool

    @property
    def dense(self) -> bool:
        """Whether the samples of a bin are at most a cell apart."""
        return self.sampling_ratio <= 0

    def samples(self, rois: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the samples of RoIs, those with as many samples in a bin together.

        Args:
            rois: Of shape (K, 5): index of the image, x1, y1, x2, y2 in pixels of the image.

        Yields:
            Indices of k RoIs, and the positions of their samples along the two axes, in cells, of
            shape (k, bins, samples in a bin).
        """
        offset = 0.5 if self.aligned else 0.0
        x1, y1, x2, y2 = (rois[:, 1:] * self.spatial_scale - offset).unbind(1)
        sizes = torch.stack([y2 - y1, x2 - x1], 1)
        if not self.aligned:
            sizes = sizes.clamp(min=1)
        bins = sizes / sizes.new_tensor(self.output_size)  # (K, 2)
        if self.sampling_ratio > 0:
            counts = torch.full_like(bins, self.sampling_ratio, dtype=torch.long)
        else:
            counts = bins.ceil().nan_to_num(0, posinf=0).long().clamp(min=0)
        starts = torch.stack([y1, x1], 1)
        for count in counts.unique(dim=0):
            some = (counts == count).all(1).nonzero()[:, 0]
            y, x = (
                _positions(starts[some, axis], bins[some, axis], parts, int(count[axis]))
                for axis, parts in enumerate(self.output_size)
            )
            part = max(1, LARGEST_PART // max(1, 4 * y[0].numel() * x[0].numel()))
            yield from zip(some.split(part), y.split(part), x.split(part), strict=True)


def _positions(start: Tensor, size: Tensor, bins: int, count: int) -> Tensor:
    """Return the positions of ``count`` samples in each of some bins of a size, from a start."""
    start, size = start[:, None, None], size[:, None, None]
    places = torch.arange(bins, device=start.device)[:, None]
    within = torch.arange(count, device=start.device) + 0.5
    # Summed in the order of mmcv: rounding decides whether a sample at the edge is inside.
    return start + size * places + size * within / max(count, 1)


def roi_align(maps: Tensor, rois: Tensor, grid: Grid) -> Tensor:
    """Return the means of the bins of RoIs.

    Args:
        maps: Of shape (N, C, H, W).
        rois: Of shape (K, 5): index of the image, x1, y1, x2, y2 in pixels of the image.
        grid: Where the samples lie.

    Returns:
        Of shape (K, C, *output_size), in channels_last.
    """
    table = rows_of(maps)
    out = maps.new_empty(len(rois), *grid.output_size, maps.shape[1])
    for some, y, x in grid.samples(rois):
        index, weight = _means(rois[some, 0], y, x, maps.shape, grid.dense)
        out[some] = weighted_sums(table, index, weight).view(len(some), *out.shape[1:])
    return out.permute(0, 3, 1, 2)


def roi_align_gradient(gradient: Tensor, rois: Tensor, grid: Grid, shape: torch.Size) -> Tensor:
    """Return the gradient of :func:`roi_align` for maps of a shape, from that for its bins."""
    bins = gradient.permute(0, 2, 3, 1).flatten(0, 2)
    numbers = torch.arange(len(bins), device=bins.device).view(
        len(rois), math.prod(grid.output_size)
    )
    entries = Entries(bins, shape[0] * shape[2] * shape[3])
    for some, y, x in grid.samples(rois):
        entries.add(numbers[some].flatten(), *_means(rois[some, 0], y, x, shape, grid.dense))
    return maps_of(entries.spread(), shape)


def _means(
    images: Tensor, y: Tensor, x: Tensor, shape: torch.Size, dense: bool
) -> tuple[Tensor, Tensor]:
    """Return rows of the maps, and weights, whose sums are the means of the bins of k RoIs.

    Args:
        images: Index of the image of each RoI.
        y: Positions of the samples, of shape (k, bins, samples), from :meth:`Grid.samples`.
        x: Likewise, along the other axis.
        shape: (N, C, H, W), that of the maps.
        dense: Whether samples are at most a cell apart.

    Returns:
        Of shape (k * bins * bins', rows of a bin).
    """
    height, width = shape[2:]
    cells_y, weights_y = _axis_means(y, height, dense)
    cells_x, weights_x = _axis_means(x, width, dense)
    first = images.long()[:, None, None] * (height * width) + cells_y * width
    index = first[:, :, None, :, None] + cells_x[:, None, :, None]
    weight = weights_y[:, :, None, :, None] * weights_x[:, None, :, None]
    return index.flatten(3).flatten(0, 2), weight.flatten(3).flatten(0, 2)


def _axis_means(positions: Tensor, size: int, dense: bool) -> tuple[Tensor, Tensor]:
    """Return cells and weights whose sums are the means of samples along one axis.

    Args:
        positions: Of shape (k, bins, samples), increasing.
        size: Cells along the axis.
        dense: Whether samples are at most a cell apart. They then share cells, whose weights are
            added up: s samples lie on s + 1 cells.

    Returns:
        Of shape (k, bins, cells).
    """
    count = positions.shape[2]
    cells, weights = (part.flatten(2) for part in clamped_neighbors(positions, size))
    weights = weights / max(count, 1)
    if not dense or count < 2:
        return cells, weights
    first = cells[..., :1]
    # Rounding may put the last sample onto the next cell, with a weight of no importance.
    places = (cells - first).clamp(0, count)
    shared = weights.new_zeros(*cells.shape[:2], count + 1).scatter_add_(2, places, weights)
    cells = first + torch.arange(count + 1, device=cells.device)
    return cells.clamp(max=size - 1), shared


def roi_align_largest(maps: Tensor, rois: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest samples of the bins of RoIs, and where they lie.

    Args:
        maps: Of shape (N, C, H, W).
        rois: As in :func:`roi_align`.
        grid: Where the samples lie.

    Returns:
        Values, and positions in rows and columns of the maps, each of shape (K, C, *output_size).
        A bin without samples is -10000 at (-1, -1), as in mmcv.
    """
    table = rows_of(maps)
    bins = (len(rois), *grid.output_size, maps.shape[1])
    values, rows, columns = (maps.new_full(bins, start) for start in (-10000.0, -1.0, -1.0))
    for some, y, x in grid.samples(rois):
        if not (y.numel() and x.numel()):
            continue
        index, weight = _corners(rois[some, 0], y, x, maps.shape)
        down, across = (torch.arange(size, device=maps.device) for size in grid.output_size)
        for i, roi in enumerate(some):  # one at a time: there are as many values as samples
            samples = weighted_sums(table, index[i], weight[i]).view(*bins[1:3], -1, bins[3])
            values[roi], place = samples.max(2)
            y_place = place.div(x.shape[2], rounding_mode='floor')
            rows[roi] = y[i][down[:, None, None], y_place]
            columns[roi] = x[i][across[:, None], place % x.shape[2]]
    values, rows, columns = (part.permute(0, 3, 1, 2) for part in (values, rows, columns))
    return values, rows, columns


def _corners(images: Tensor, y: Tensor, x: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Return the four rows around each sample, and their weights.

    Args:
        images: As in :func:`_means`.
        y: As in :func:`_means`.
        x: As in :func:`_means`.
        shape: As in :func:`_means`.

    Returns:
        Of shape (k, bins * bins' * samples * samples', 4).
    """
    height, width = shape[2:]
    cells_y, weights_y = clamped_neighbors(y, height)
    cells_x, weights_x = clamped_neighbors(x, width)
    first = images.long()[:, None, None, None] * (height * width) + cells_y * width
    index = first[:, :, None, :, None, :, None] + cells_x[:, None, :, None, :, None]
    weight = weights_y[:, :, None, :, None, :, None] * weights_x[:, None, :, None, :, None]
    return index.reshape(len(images), -1, 4), weight.reshape(len(images), -1, 4)


def roi_align_largest_gradient(
    gradient: Tensor, rois: Tensor, rows: Tensor, columns: Tensor, shape: torch.Size
) -> Tensor:
    """Return the gradient of :func:`roi_align_largest` for maps of a shape.

    Args:
        gradient: That for its values, of shape (K, C, h, w).
        rois: Of shape (K, 5).
        rows: Where the largest samples lie, of shape (K, C, h, w).
        columns: Likewise.
        shape: (N, C, H, W).
    """
    channels, height, width = shape[1:]
    cells_y, weights_y = clamped_neighbors(rows, height)
    cells_x, weights_x = clamped_neighbors(columns, width)
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    first = plane[:, :, None, None, None] * height + cells_y
    index = first[..., None] * width + cells_x[..., None, :]
    weight = weights_y[..., None] * weights_x[..., None, :]
    weight = weight * ((rows != -1) | (columns != -1))[..., None, None]  # bins without samples
    entries = Entries(gradient.reshape(-1, 1), math.prod(shape))
    numbers = torch.arange(gradient.numel(), device=gradient.device)
    entries.add(numbers, index.reshape(-1, 4), weight.reshape(-1, 4))
    return entries.spread().view(shape)


# --- by the names and arguments of mmcv's extension -----------------------------------------


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the bins into ``output``; ``pool_mode`` is 0 for the largest sample, 1 for the mean."""
    grid = Grid((aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
    maps = single(input)
    if pool_mode == 1:
        output.copy_(roi_align(maps, rois.to(maps.dtype), grid))
    else:
        found = roi_align_largest(maps, rois.to(maps.dtype), grid)
        for target, values in zip((output, argmax_y, argmax_x), found, strict=True):
            target.copy_(values)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradient of :func:`roi_align_forward` into ``grad_input``."""
    grid = Grid((aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
    gradient = single(grad_output)
    rois, shape = rois.to(gradient.dtype), grad_input.shape
    if pool_mode == 1:
        grad_input.copy_(roi_align_gradient(gradient, rois, grid, shape))
    else:
        rows, columns = single(argmax_y), single(argmax_x)
        grad_input.copy_(roi_align_largest_gradient(gradient, rois, rows, columns, shape))


OPERATORS = {'roi_align_forward': roi_align_forward, 'roi_align_backward': roi_align_backward}
