"""Choose the images that a report shows, and the confusions that it lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .segmentations import ImageScore, SegmentationAnalysis

WORST, BEST, OF_CLASS = 'worst', 'best', 'most errors of a class'
MOST_WORST, MOST_BEST, MOST_OF_CLASS, MOST_IMAGES = 30, 10, 2, 80


def rank_images(images: Sequence[ImageScore]) -> list[ImageScore]:
    """Return the images that have a score from the worst mean IoU to the best.

    Images of equal mean IoU are in the order of their accuracy, then of their names.
    """
    scored = [image for image in images if image.mean_iou is not None]
    return sorted(
        scored, key=lambda image: (image.mean_iou, image.accuracy, image.name, image.index)
    )


def choose_images(
    analysis: SegmentationAnalysis,
    worst: int = MOST_WORST,
    best: int = MOST_BEST,
    per_class: int = MOST_OF_CLASS,
    most: int = MOST_IMAGES,
) -> dict[int, str]:
    """Choose images to show.

    Args:
        analysis: The scores of all images.
        worst: Number of the worst images.
        best: Number of the best images; of few images at most every fourth.
        per_class: Number of images for each class, beyond these: those with the most wrong pixels
            of the class. If they are too many, the classes of the lowest IoU get theirs first.
        most: Number of images in all.

    Returns:
        ``WORST``, ``OF_CLASS`` or ``BEST`` by the index of the image, in this order.
    """
    ranked = [image.index for image in rank_images(analysis.images)]
    best = min(best, len(ranked) // 4)
    last = ranked[len(ranked) - best :][::-1]
    first = ranked[: min(worst, len(ranked) - best)]
    chosen = {*first, *last}
    extra: list[int] = []
    for place in range(per_class):
        for images in _worst_by_class(analysis, per_class):
            if place < len(images) and len(chosen) < most and images[place] not in chosen:
                chosen.add(images[place])
                extra.append(images[place])
    groups = ((WORST, first), (OF_CLASS, extra), (BEST, last))
    return {index: group for group, indices in groups for index in indices}


def _worst_by_class(analysis: SegmentationAnalysis, number: int) -> list[list[int]]:
    """Return the images with the most wrong pixels of each class, the worst class first."""
    errors: list[list[tuple[int, str, int]]] = [[] for _ in analysis.classes]
    for image in analysis.images:
        for label, wrong in zip(image.present, image.wrong, strict=True):
            if wrong:
                errors[label].append((-wrong, image.name, image.index))
    known = [i for i, one in enumerate(analysis.classes) if one.iou is not None]
    known.sort(key=lambda i: (analysis.classes[i].iou, i))
    return [[index for _, _, index in sorted(errors[i])[:number]] for i in known]


def largest_confusions(confusion: np.ndarray, number: int = 50) -> list[tuple[int, int, int]]:
    """Return the pairs of classes that are confused in the most pixels.

    Args:
        confusion: Pixels by true and predicted class, (K, K).
        number: Number of pairs at most.

    Returns:
        The true class, the predicted class and their pixels, the largest number first.
    """
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind='stable')[:number]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(t), int(p), int(wrong[t, p])) for t, p in pairs if wrong[t, p]]
