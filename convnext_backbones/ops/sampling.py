"""Weighted sums of the vectors of a map: what RoIAlign and deformable convolutions consist of.

A map of shape (N, C, H, W) is a table of N * H * W rows of C values. An output of these operators
is a weighted sum of some rows: ``F.embedding_bag`` computes such sums in parallel, on CPU and CUDA,
and reads channels_last maps directly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def single(tensor: Tensor) -> Tensor:
    """Return half precision as float32, other types as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def rows_of(maps: Tensor) -> Tensor:
    """Return maps of shape (N, C, H, W) as rows, of shape (N * H * W, C)."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def maps_of(rows: Tensor, shape: torch.Size) -> Tensor:
    """Return rows, of shape (N * H * W, C), as maps of ``shape`` (N, C, H, W)."""
    images, channels, height, width = shape
    return rows.view(images, height, width, channels).permute(0, 3, 1, 2)


def weighted_sums(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Return B weighted sums of S rows each.

    Args:
        rows: Of shape (R, C).
        index: Of shape (B, S), the rows of each sum.
        weight: Of shape (B, S), of the type of ``rows``.

    Returns:
        Of shape (B, C). It has gradients for ``rows`` and ``weight``.
    """
    if not index.numel():  # embedding_bag refuses sums of nothing on some devices
        return rows.new_zeros(len(index), rows.shape[1])
    return F.embedding_bag(index, rows, per_sample_weights=weight, mode='sum')


def spread(sums: Tensor, index: Tensor, weight: Tensor, count: int) -> Tensor:
    """Return the gradient of :func:`weighted_sums` for its rows, from that for its sums.

    The entries are sorted by row, and each row is a weighted sum in its turn: in parallel, without
    atomic additions, and so in the same order every time.

    Args:
        sums: Gradients of shape (B, C).
        index: Of shape (B, S).
        weight: Of shape (B, S).
        count: Number of rows, R.

    Returns:
        Of shape (R, C).
    """
    if not index.numel():
        return sums.new_zeros(count, sums.shape[1])
    row, order = index.flatten().sort(stable=True)
    starts = torch.searchsorted(row, torch.arange(count + 1, device=row.device))
    return F.embedding_bag(
        order.div(index.shape[1], rounding_mode='floor'),
        sums,
        starts,
        per_sample_weights=weight.flatten()[order],
        mode='sum',
        include_last_offset=True,
    )


def clamped_neighbors(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the two cells around positions on an axis, as RoIAlign takes them, and their weights.

    A position up to one cell outside counts as the cell at the edge, one further away as nothing.

    Args:
        position: Of any shape, in cells.
        size: Number of cells.

    Returns:
        Cells and weights, of the shape of ``position`` and a last dimension of two.
    """
    inside = (position >= -1) & (position <= size)
    position = position.clamp(0, size - 1)
    low = position.detach().long()
    share = position - low  # of the cell after `low`
    cells = torch.stack([low, (low + 1).clamp(max=size - 1)], -1)
    weights = torch.stack([1 - share, share], -1)
    return cells, weights * inside[..., None]


def padded_neighbors(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the two cells around positions on an axis, as convolutions take them, and weights.

    Cells outside the map are zeros; positions are not limited.

    Args:
        position: Of any shape, in cells.
        size: Number of cells.

    Returns:
        Cells and weights, of the shape of ``position`` and a last dimension of two.
    """
    low = position.detach().floor()
    share = position - low
    cells = torch.stack([low, low + 1], -1)
    weights = torch.stack([1 - share, share], -1)
    inside = (cells >= 0) & (cells < size)
    return cells.clamp(0, size - 1).long(), weights * inside
