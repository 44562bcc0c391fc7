"""Encode label maps as PNG images."""

from __future__ import annotations

import cv2
import numpy as np

# mmseg's label for pixels that are neither trained nor evaluated: reduce_zero_label maps 0 to it,
# and classes that are not wanted become it.
UNLABELED = 255


def encode_label_map(labels: np.ndarray) -> np.ndarray:
    """Return the bytes of a PNG image of labels.

    Args:
        labels: Integers of shape (H, W), at least 0. Labels above 255 give an image of 16 bits.

    Returns:
        The bytes, uint8.
    """
    depth = np.uint8 if labels.max() < 256 else np.uint16
    _, image = cv2.imencode('.png', labels.astype(depth))
    return image
