"""Which images a report shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .detection_matches import CORRECT, IGNORED
from .detections import DetectionAnalysis, ImageScore

WORST, BEST, OF_CLASS = 'worst', 'best', 'most errors of a class'
MOST_WORST, MOST_BEST, MOST_OF_CLASS, MOST_IMAGES = 30, 15, 2, 80


def choose_images(analysis: DetectionAnalysis) -> list[tuple[int, str]]:
    """Choose the worst images, the best, and for each class those with the most errors of it.

    Returns:
        Indices of images and the reason for which they were chosen, each image once.
    """
    worst = worst_images(analysis.image_scores)
    judged = len(worst)
    worst = [score for score in worst if score.false or score.missed]
    # A third of few images is left for the best.
    chosen = {score.index: WORST for score in worst[: min(MOST_WORST, max(1, judged * 2 // 3))]}
    best = [score for score in best_images(analysis.image_scores) if score.correct]
    left = [score.index for score in best if score.index not in chosen]
    chosen |= dict.fromkeys(left[:MOST_BEST], BEST)
    of_classes = [worst_of_class(analysis, label) for label in range(len(analysis.classes))]
    for index in _taking_turns(of_classes):
        if len(chosen) >= MOST_IMAGES:
            break
        chosen.setdefault(index, OF_CLASS)
    return list(chosen.items())


def worst_images(scores: Sequence[ImageScore]) -> list[ImageScore]:
    """Return the images in which there is something to judge, the worst first.

    They are ordered by F1. Of equal ones, those with more errors come first, then those whose name
    does.
    """
    judged = [(score.f1, score) for score in scores if score.f1 is not None]
    judged.sort(key=lambda pair: (pair[0], -pair[1].false - pair[1].missed, *_place(pair[1])))
    return [score for _, score in judged]


def best_images(scores: Sequence[ImageScore]) -> list[ImageScore]:
    """Return the images in which there is something to judge, the best first.

    They are ordered by F1. Of equal ones, those with more correct detections come first, then those
    whose name does.
    """
    judged = [(score.f1, score) for score in scores if score.f1 is not None]
    judged.sort(key=lambda pair: (-pair[0], -pair[1].correct, *_place(pair[1])))
    return [score for _, score in judged]


def _place(score: ImageScore) -> tuple[str, int]:
    return score.name, score.index


def worst_of_class(analysis: DetectionAnalysis, label: int, most: int = MOST_OF_CLASS) -> list[int]:
    """Return the images with the most errors of a class, the worst first; of equal ones by name.

    Args:
        analysis: The analysis.
        label: Index of the class.
        most: How many images to return at most.

    Returns:
        Indices of images with at least one missed object or false detection of the class.
    """
    matches, threshold = analysis.matches, analysis.threshold
    false = (matches.score >= threshold) & ~np.isin(matches.kind, [IGNORED, CORRECT])
    places = (
        matches.image[false & (matches.label == label)],
        matches.truth_image[matches.missed(threshold) & (matches.truth_label == label)],
    )
    counts = np.bincount(np.concatenate(places), minlength=matches.images)
    wrong = [analysis.image_scores[index] for index in np.nonzero(counts)[0]]
    wrong.sort(key=lambda score: (-counts[score.index], *_place(score)))
    return [score.index for score in wrong[:most]]


def _taking_turns(lists: Sequence[Sequence[int]]) -> Iterator[int]:
    """Yield the first entries of all lists, then the second ones, and so on."""
    for place in range(max(map(len, lists), default=0)):
        for entries in lists:
            yield from entries[place : place + 1]
