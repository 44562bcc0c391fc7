"""What the analysis of detections takes: plain arrays for every image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# COCO's sizes of objects by their area in square pixels: from, up to.
SIZES = {'small': (0, 32**2), 'medium': (32**2, 96**2), 'large': (96**2, float('inf'))}


@dataclass(frozen=True)
class Truth:
    """The annotated objects of an image.

    Attributes:
        boxes: (objects, 4), x, y, width and height in pixels, as in COCO's files: no conversion
            may round a number on which a match depends.
        labels: (objects,), index of the class.
        areas: (objects,), in square pixels, from which COCO takes the size of an object.
        crowd: (objects,), whether this is a region of many objects, which need not be found.
        masks: COCO's run-length encodings of the objects; None if there are none.
        ids: (objects,), ids of the annotation file. pycocotools takes the id 0 for no match. None
            numbers the objects from 1.
    """

    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    masks: Sequence[dict[str, Any]] | None = None
    ids: Sequence[Any] | None = None


@dataclass(frozen=True)
class Found:
    """The detections in an image.

    Attributes:
        boxes: (detections, 4), x, y, width and height in pixels.
        labels: (detections,), index of the class.
        scores: (detections,), from 0 to 1.
        masks: COCO's run-length encodings of the detections; None if there are none.
        mask_scores: (detections,), for detectors that score masks apart; None if they do not.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: Sequence[dict[str, Any]] | None = None
    mask_scores: np.ndarray | None = None


@dataclass(frozen=True)
class DetectionImage:
    """An image with what is there and what was found.

    Attributes:
        name: Name for people, such as the name of the file.
        path: The file; empty if it is not known.
        size: Height and width in pixels.
        truth: The annotated objects.
        found: The detections.
    """

    name: str
    path: str
    size: tuple[int, int]
    truth: Truth
    found: Found


def size_counts(areas: np.ndarray) -> dict[str, int]:
    """Return the number of areas, in square pixels, of each of COCO's sizes."""
    return {
        name: int(((areas >= low) & (areas < high)).sum()) for name, (low, high) in SIZES.items()
    }
