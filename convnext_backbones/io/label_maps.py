"""Encode label maps as PNG images."""

from __future__ import annotations

import cv2
import numpy as np


def encode_label_map(labels: np.ndarray) -> np.ndarray:
    """The bytes of a PNG image of labels, (H, W); of 16 bits if 8 do not hold them."""
    depth = np.uint8 if labels.max() < 256 else np.uint16
    _, image = cv2.imencode('.png', labels.astype(depth))
    return image
