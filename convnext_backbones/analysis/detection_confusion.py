"""Which classes are taken for which, with the background as one of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .detection_data import DetectionImage
from .detection_matches import FOREGROUND_IOU, box_ious


def confusion_matrix(
    images: Sequence[DetectionImage], classes: int, threshold: float
) -> np.ndarray:
    """Count which classes are taken for which.

    Detections take objects regardless of the class: from the highest score to the lowest, each the
    one with the highest IoU that is left, from IoU 0.5 on; of equal ones one of its class. The rest
    of the detections are taken for background, and the rest of the objects are missed. Detections
    in crowds of their class do not count.

    Args:
        images: The images.
        classes: The number of classes.
        threshold: Score from which a detection counts.

    Returns:
        (classes + 1, classes + 1), int: rows are the true classes, columns those of the
        detections, the last of each the background.
    """
    pairs = [np.zeros((0, 2), int)]
    pairs += [_pairs(image, classes, threshold) for image in images]
    rows, columns = np.concatenate(pairs).T
    size = classes + 1
    return np.bincount(rows * size + columns, minlength=size**2).reshape(size, size)


def _pairs(image: DetectionImage, background: int, threshold: float) -> np.ndarray:
    """Return (pairs, 2), the true class and the class of the detection."""
    truth, found = image.truth, image.found
    ious = box_ious(image)
    same = found.labels[:, None] == truth.labels[None]
    free = ~truth.crowd
    in_crowd = (same & truth.crowd & (ious >= FOREGROUND_IOU)).any(1)
    pairs = []
    order = np.argsort(-found.scores, kind='stable')
    for i in order[found.scores[order] >= threshold]:
        options = np.where(free, ious[i], 0)
        if free.any() and options.max() >= FOREGROUND_IOU:
            (best,) = np.nonzero(options == options.max())
            best = best[np.argmax(same[i, best])]
            free[best] = False
            pairs.append((truth.labels[best], found.labels[i]))
        elif not in_crowd[i]:
            pairs.append((background, found.labels[i]))
    pairs += [(label, background) for label in truth.labels[free]]
    return np.array(pairs, int).reshape(-1, 2)
