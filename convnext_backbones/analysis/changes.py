"""Choose the changed images that a comparison shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MOST_CHANGED, MOST_OF_CLASS, MOST_IMAGES = 40, 2, 80


def choose_changed(
    ranked: Sequence[Any],
    most_changed: int = MOST_CHANGED,
    per_class: int = MOST_OF_CLASS,
    most: int = MOST_IMAGES,
) -> list[int]:
    """Return the places of the images to show, in the order of ``ranked``.

    Args:
        ranked: Changes of images with ``classes``, those of the most changed image first.
        most_changed: Number of images from the start of ``ranked``.
        per_class: Number of images that every class should have, as far as there are any.
        most: Number of images in all.
    """
    chosen = list(range(min(most_changed, most, len(ranked))))
    counts: dict[int, int] = {}
    for place, image in enumerate(ranked):
        wanted = [label for label in image.classes if counts.get(label, 0) < per_class]
        if place < most_changed or (wanted and len(chosen) < most):
            for label in image.classes:
                counts[label] = counts.get(label, 0) + 1
            if place >= most_changed:
                chosen.append(place)
    return chosen
