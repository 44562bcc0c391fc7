"""Masks of objects in large images, kept as run lengths of the part where the object is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco

# COCO's run lengths are unsigned integers of 32 bits.
MOST_PIXELS = 2**32 - 1


@dataclass(frozen=True)
class CroppedMask:
    """The mask of one object.

    Attributes:
        top: First row of the part that is kept.
        left: First column.
        height: Rows of the part.
        width: Columns of the part.
        counts: COCO's compressed run lengths of the part.
    """

    top: int
    left: int
    height: int
    width: int
    counts: bytes

    @classmethod
    def of(cls, pixels: np.ndarray, top: int = 0, left: int = 0) -> CroppedMask | None:
        """Crop a mask to its object.

        Args:
            pixels: Of shape (height, width), bool.
            top: Row of the image at which ``pixels`` begins.
            left: Column of the image at which ``pixels`` begins.

        Returns:
            None for an empty mask.
        """
        rows, columns = pixels.any(1).nonzero()[0], pixels.any(0).nonzero()[0]
        if not rows.size:
            return None
        y, x = int(rows[0]), int(columns[0])
        part = pixels[y : int(rows[-1]) + 1, x : int(columns[-1]) + 1]
        counts = coco.encode(np.asfortranarray(part, np.uint8))['counts']
        height, width = part.shape
        return cls(top + y, left + x, height, width, counts)

    def pixels(self) -> np.ndarray:
        """Return the part as (height, width), bool."""
        return coco.decode(dict(size=[self.height, self.width], counts=self.counts)).astype(bool)

    def within(self, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """Return the mask of a window of the image, of shape (bottom - top, right - left)."""
        window = np.zeros((bottom - top, right - left), bool)
        y1, y2 = max(top, self.top), min(bottom, self.top + self.height)
        x1, x2 = max(left, self.left), min(right, self.left + self.width)
        if y1 < y2 and x1 < x2:
            part = self.pixels()[y1 - self.top : y2 - self.top, x1 - self.left : x2 - self.left]
            window[y1 - top : y2 - top, x1 - left : x2 - left] = part
        return window

    def run_lengths(self, height: int, width: int) -> dict | None:
        """Return COCO's compressed run lengths in an image of that size, without making its mask.

        Returns:
            None if the image has more pixels than run lengths can count.
        """
        if height * width > MOST_PIXELS:
            return None
        # Runs go down the columns. Between the padding, each run of a column starts and ends.
        padded = np.pad(self.pixels(), ((1, 1), (0, 0))).astype(np.int8)
        steps = np.diff(padded, axis=0).T  # (columns, rows + 1)
        offsets = (self.left + np.arange(self.width)) * height + self.top
        starts, stops = (
            offsets[columns] + rows for columns, rows in ((steps == s).nonzero() for s in (1, -1))
        )
        # A column to the last row, and the next from the first row on, are one run.
        joined = starts[1:] == stops[:-1]
        starts = starts[np.r_[True, ~joined]]
        stops = stops[np.r_[~joined, True]]
        ends = [0, *np.stack([starts, stops], 1).ravel().tolist()]
        if ends[-1] < height * width:
            ends.append(height * width)
        counts = np.diff(ends).tolist()
        encoded = coco.frPyObjects(dict(size=[height, width], counts=counts), height, width)
        return dict(size=[height, width], counts=encoded['counts'].decode())


def union(masks: Sequence[CroppedMask]) -> CroppedMask:
    """Return the mask of an object that several masks show parts of; at least one."""
    top, left = min(mask.top for mask in masks), min(mask.left for mask in masks)
    bottom = max(mask.top + mask.height for mask in masks)
    right = max(mask.left + mask.width for mask in masks)
    pixels = np.zeros((bottom - top, right - left), bool)
    for mask in masks:
        y, x = mask.top - top, mask.left - left
        pixels[y : y + mask.height, x : x + mask.width] |= mask.pixels()
    merged = CroppedMask.of(pixels, top, left)
    assert merged is not None
    return merged
