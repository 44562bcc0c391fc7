"""Pixels of any kind as the 8 bits and three channels that drawings have."""

from __future__ import annotations

import numpy as np

# Of the values of an image of more than 8 bits: black and white in its drawing.
PERCENTILES = (1, 99)


def drawable(image: np.ndarray) -> np.ndarray:
    """Return an image as BGR of 8 bits.

    Args:
        image: (H, W) or (H, W, channels), BGR if there are three. Of more channels the first three
            are taken as R, G and B, of fewer the first one as gray.

    Returns:
        (H, W, 3), uint8.
    """
    image = image.reshape(*image.shape[:2], -1)
    if image.shape[2] < 3:
        image = image[..., :1].repeat(3, axis=2)
    elif image.shape[2] > 3:
        image = image[..., 2::-1]
    return np.ascontiguousarray(to_8_bits(image))


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """Return values in the range of 8 bits.

    Values that have this range already keep it; others are stretched from their 1st to their 99th
    percentile. Values that are not finite become 0.

    Args:
        image: Of any shape.

    Returns:
        uint8.
    """
    if image.dtype == np.uint8:
        return image
    finite = image[np.isfinite(image)]
    if not finite.size:
        return np.zeros(image.shape, np.uint8)
    if finite.min() > -0.5 and 1 < finite.max() < 255.5:
        low, high = 0.0, 255.0
    else:
        low, high = np.percentile(finite, PERCENTILES)
    scaled = (image.astype(np.float64) - low) * (255 / max(high - low, 1e-12))
    return np.nan_to_num(scaled, nan=0, posinf=0, neginf=0).round().clip(0, 255).astype(np.uint8)
