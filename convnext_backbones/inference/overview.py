"""The drawing of a large image, at a size that can be looked at, collected from its tiles."""

from __future__ import annotations

import cv2
import numpy as np

LONGEST_SIDE = 2048  # of drawings, in pixels


class Overview:
    """An image reduced to at most :data:`LONGEST_SIDE`, in the type of its pixels.

    Args:
        height: Rows of the image.
        width: Columns of the image.

    Attributes:
        size: Height and width of the overview.
        scale: Of the overview: at most 1.
        pixels: (height, width, channels), once a part has been added.
    """

    def __init__(self, height: int, width: int) -> None:
        self.scale = min(1.0, LONGEST_SIDE / max(height, width))
        self.full_size = height, width
        self.size = (max(1, int(height * self.scale)), max(1, int(width * self.scale)))
        self.pixels = np.zeros((0, 0, 0), np.uint8)

    def add(self, top: int, left: int, part: np.ndarray) -> None:
        """Add a part of the image of shape (height, width, channels) at (top, left)."""
        part = part.reshape(*part.shape[:2], -1)
        if not self.pixels.size:
            self.pixels = np.zeros((*self.size, part.shape[2]), part.dtype)
        rows, columns = (
            self._covered(axis, start, length)
            for axis, start, length in ((0, top, part.shape[0]), (1, left, part.shape[1]))
        )
        target = self.pixels[rows, columns]
        if target.size:
            height, width = target.shape[:2]
            reduced = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
            target[:] = reduced.reshape(target.shape)

    def sample(self, top: int, left: int, part: np.ndarray, out: np.ndarray) -> None:
        """Write the values of a part of shape (height, width) into ``out``, of the overview's size.

        Each pixel of the overview gets the value at its center.
        """
        rows, columns = (
            self._covered(axis, start, length)
            for axis, start, length in ((0, top, part.shape[0]), (1, left, part.shape[1]))
        )
        y = self._centers(0, rows) - top
        x = self._centers(1, columns) - left
        out[rows, columns] = part[y.clip(0, part.shape[0] - 1)][:, x.clip(0, part.shape[1] - 1)]

    def _covered(self, axis: int, start: int, length: int) -> slice:
        """Return the pixels of the overview that a part covers; parts are neighbours there too."""
        ratio = self.size[axis] / self.full_size[axis]
        return slice(round(start * ratio), round((start + length) * ratio))

    def _centers(self, axis: int, covered: slice) -> np.ndarray:
        ratio = self.full_size[axis] / self.size[axis]
        return ((np.arange(covered.start, covered.stop) + 0.5) * ratio).astype(int)
