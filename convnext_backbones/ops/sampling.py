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
    # Of a single image the reshaped rows would be a view, across which embedding_bag is slow.
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1]).contiguous()


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


class Entries:
    """The entries of weighted sums, for the gradient of their rows.

    They are sorted by row, and each row is a weighted sum in its turn: in parallel, without atomic
    additions, and so in the same order every time.

    Args:
        sums: Gradients of the sums, of shape (B, C).
        count: Number of rows, R.
    """

    LARGEST = 1 << 23  # entries to keep until they are added up: 160 MB

    def __init__(self, sums: Tensor, count: int) -> None:
        self.sums, self.count = sums, count
        self.total: Tensor | None = None
        self._forget()

    def _forget(self) -> None:
        self.parts: tuple[list[Tensor], ...] = ([], [], [])
        self.size = 0

    def add(self, numbers: Tensor, index: Tensor, weight: Tensor) -> None:
        """Add the entries of b of the sums.

        Args:
            numbers: Which sums, of shape (b,).
            index: Rows of each, of shape (b, S).
            weight: Of shape (b, S).
        """
        entries = numbers[:, None].expand_as(index), index, weight
        for part, entry in zip(self.parts, entries, strict=True):
            part.append(entry.reshape(-1))
        self.size += index.numel()
        if self.size > self.LARGEST:
            self._add_up()

    def spread(self) -> Tensor:
        """Return the gradients of the rows, of shape (R, C)."""
        self._add_up()
        if self.total is None:
            return self.sums.new_zeros(self.count, self.sums.shape[1])
        return self.total

    def _add_up(self) -> None:
        if not self.size:
            return
        numbers, index, weight = (torch.cat(part) for part in self.parts)
        self._forget()
        row, order = index.sort(stable=True)
        starts = torch.searchsorted(row, torch.arange(self.count + 1, device=row.device))
        total = F.embedding_bag(
            numbers[order],
            self.sums.contiguous(),
            starts,
            per_sample_weights=weight[order],
            mode='sum',
            include_last_offset=True,
        )
        self.total = total if self.total is None else self.total.add_(total)


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
    low = position.detach().nan_to_num(0).long()
    share = position - low  # of the cell after `low`
    cells = torch.stack([low, (low + 1).clamp(max=size - 1)], -1)
    weights = torch.stack([1 - share, share], -1)
    return cells, weights * inside[..., None]


def padded_neighbors(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the two cells around positions on an axis, as convolutions take them, and weights.

    Cells outside the map are zeros; positions are not limited. A position of exactly -1, like any
    before it, has no gradient, as in mmcv.

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
    inside = (cells >= 0) & (cells < size) & (position > -1)[..., None]
    return cells.where(inside, 0).long(), weights * inside
