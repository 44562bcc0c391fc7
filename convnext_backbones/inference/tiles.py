"""Cut an image into tiles that overlap.

Along each axis, the image is split into cores of equal length, tile - overlap. The tile of a core
adds half the overlap on either side, and is moved into the image where it would reach beyond it. So
every tile has full size wherever the image does (the last may lack up to 31 pixels), and all but
the edges of the image are seen with at least half the overlap around them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# The largest stride of the networks: where tiles begin at multiples of it, their maps have the same
# grids as those of the whole image.
STRIDE = 32
TILE, OVERLAP = 1024, 128  # of the command, in pixels


@dataclass(frozen=True)
class Tiling:
    """How images are cut.

    Args:
        tile: Side of the tiles in pixels.
        overlap: Pixels that neighbouring tiles share.

    Raises:
        ValueError: The numbers are no multiples of 32 and 64, or the overlap is more than half the
            tile.
    """

    tile: int = TILE
    overlap: int = OVERLAP

    def __post_init__(self) -> None:
        if self.tile < 4 * STRIDE or self.tile % STRIDE:
            raise ValueError(
                f'expected --tiles to be a multiple of {STRIDE}, from {4 * STRIDE} on, because '
                f'maps of the network have that stride, got {self.tile}'
            )
        if self.overlap % (2 * STRIDE) or not 0 < 2 * self.overlap <= self.tile:
            raise ValueError(
                f'expected --overlap to be a multiple of {2 * STRIDE} above 0, and at most half of '
                f'the tile of {self.tile}, got {self.overlap}'
            )

    @property
    def core(self) -> int:
        """Side of the part of a tile that no other tile has to see."""
        return self.tile - self.overlap


@dataclass(frozen=True)
class Tile:
    """A part of an image.

    Attributes:
        top: First row.
        left: First column.
        height: Rows.
        width: Columns.
        core: Its own part of the image: first row, first column, height and width. Rows and columns
            begin at multiples of the tiling's core.
        inner: Whether its left, top, right and bottom border lie inside of the image.
    """

    top: int
    left: int
    height: int
    width: int
    core: tuple[int, int, int, int]
    inner: tuple[bool, bool, bool, bool]

    @property
    def box(self) -> np.ndarray:
        """The borders: x1, y1, x2, y2, float64."""
        right, bottom = self.left + self.width, self.top + self.height
        return np.array([self.left, self.top, right, bottom], np.float64)

    def of_core(self, pixels: np.ndarray) -> np.ndarray:
        """Return the core of values of the tile, of shape (height, width, ...)."""
        top, left, height, width = self.core
        rows = slice(top - self.top, top - self.top + height)
        return pixels[rows, left - self.left : left - self.left + width]


def cut(height: int, width: int, tiling: Tiling) -> list[Tile]:
    """Return the tiles of an image, row by row; their cores are a partition of the image."""
    rows, columns = (list(_along(size, tiling)) for size in (height, width))
    return [
        Tile(
            top=y.start,
            left=x.start,
            height=y.stop - y.start,
            width=x.stop - x.start,
            core=(core_y.start, core_x.start, len(core_y), len(core_x)),
            inner=(x.start > 0, y.start > 0, x.stop < width, y.stop < height),
        )
        for y, core_y in rows
        for x, core_x in columns
    ]


def _along(size: int, tiling: Tiling) -> Iterator[tuple[range, range]]:
    """Yield the tiles and their cores along one axis."""
    if size <= tiling.tile:
        yield range(size), range(size)
        return
    last = -(-(size - tiling.tile) // STRIDE) * STRIDE  # rounded up, to begin on the grid
    for start in range(0, size, tiling.core):
        first = min(max(start - tiling.overlap // 2, 0), last)
        if first == last:
            yield range(first, size), range(start, size)
            return
        yield range(first, first + tiling.tile), range(start, start + tiling.core)
