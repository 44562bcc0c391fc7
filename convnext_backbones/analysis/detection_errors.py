"""How many errors of each kind there are, and what they cost.

The cost of a kind is that of TIDE, see :mod:`.detection_matches`: how much higher AP at IoU 0.5
would be if an oracle corrected the errors of this kind only. It corrects missed objects by not
asking for them, as if the detector found them as precisely as the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .detection_matches import (
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    CORRECT,
    DUPLICATE,
    IGNORED,
    KIND_NAMES,
    LOCALIZATION,
    Matches,
)

MISSED = 'missed'
ERRORS = (CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND)
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class ErrorKind:
    """The errors of one kind.

    Attributes:
        name: The kind.
        count: Number of errors among the detections above the score threshold; of missed objects
            those for which there is not even a detection with a wrong class or a wrong place.
        total: The same among all detections.
        gain: How much AP at IoU 0.5 rises, from 0 to 1, if all errors of this kind are corrected.
    """

    name: str
    count: int
    total: int
    gain: float


@dataclass(frozen=True)
class Errors:
    """The errors of all kinds.

    Attributes:
        kinds: Classification, localization, both, duplicate, background, missed.
        correct: Number of correct detections above the score threshold.
        ignored: Number of detections above it that lie in crowds, and do not count.
        ap50: AP at IoU 0.5 of all detections, from 0 to 1; None if there are no objects.
    """

    kinds: tuple[ErrorKind, ...]
    correct: int
    ignored: int
    ap50: float | None


def count_errors(matches: Matches, threshold: float) -> Errors:
    """Count the errors of each kind, and compute what correcting them gains.

    Args:
        matches: What the detections are.
        threshold: Score from which a detection counts.
    """
    counted = matches.score >= threshold
    ap50 = average_precision(matches)
    kinds = [
        ErrorKind(
            KIND_NAMES[kind],
            int((counted & (matches.kind == kind)).sum()),
            int((matches.kind == kind).sum()),
            (FIXES.get(kind, _removed)(matches, kind) or 0.0) - (ap50 or 0.0),
        )
        for kind in ERRORS
    ]
    missed = unseen(matches, 0.0)
    positives = _objects(matches) - np.bincount(matches.truth_label[missed], None, matches.classes)
    gain = (average_precision(matches, positives=positives) or 0.0) - (ap50 or 0.0)
    kinds.append(ErrorKind(MISSED, int(unseen(matches, threshold).sum()), int(missed.sum()), gain))
    return Errors(
        kinds=tuple(kinds),
        correct=int((counted & (matches.kind == CORRECT)).sum()),
        ignored=int((counted & (matches.kind == IGNORED)).sum()),
        ap50=ap50,
    )


def unseen(matches: Matches, threshold: float) -> np.ndarray:
    """Return (objects,): whether an object is missed, and no detection is almost right about it."""
    almost = matches.objects_with([CLASSIFICATION, LOCALIZATION], threshold)
    return matches.missed(threshold) & ~almost


def average_precision(
    matches: Matches,
    keep: np.ndarray | None = None,
    correct: np.ndarray | None = None,
    label: np.ndarray | None = None,
    positives: np.ndarray | None = None,
) -> float | None:
    """Return AP at IoU 0.5, the mean over classes, as COCOeval interpolates it.

    The arguments change what was measured, as an oracle does.

    Args:
        matches: What the detections are.
        keep: (detections,), which of them count; by default all that are not ignored.
        correct: (detections,), which of them are correct.
        label: (detections,), their classes.
        positives: (classes,), the number of objects to be found; a class that has objects, and
            none to be found, has AP 1.

    Returns:
        From 0 to 1; None if there are no objects.
    """
    keep = matches.kind != IGNORED if keep is None else keep
    correct = matches.kind == CORRECT if correct is None else correct
    label = matches.label if label is None else label
    positives = _objects(matches) if positives is None else positives
    order = np.lexsort((-matches.score, label))
    order = order[keep[order]]
    ends = np.searchsorted(label[order], np.arange(matches.classes + 1))
    scores = [
        _interpolated(correct[order[ends[k] : ends[k + 1]]], positives[k])
        for k in np.nonzero(_objects(matches))[0]
    ]
    return float(np.mean(scores)) if scores else None


def _interpolated(correct: np.ndarray, positives: int) -> float:
    """Return the mean precision at 101 recalls of detections in the order of their scores."""
    if not positives:
        return 1.0
    true = np.cumsum(correct)
    precision = true / np.arange(1, len(true) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(true / positives, RECALLS)
    return float(np.append(precision, 0)[places].mean())


def _objects(matches: Matches) -> np.ndarray:
    """Return (classes,), the number of objects to be found."""
    return np.bincount(matches.truth_label[~matches.crowd], minlength=matches.classes)


def _removed(matches: Matches, kind: int) -> float | None:
    """Return AP without the errors of a kind, which no correction would make correct."""
    return average_precision(matches, keep=~np.isin(matches.kind, [IGNORED, kind]))


def _corrected(matches: Matches, kind: int) -> float | None:
    """Return AP if the errors of a kind had the class and the place of their targets.

    Of several errors with one target the one with the highest score is corrected. The others, and
    those whose target is found already, are removed.
    """
    open_objects = matches.missed(0.0)
    (errors,) = np.nonzero(matches.kind == kind)
    errors = errors[open_objects[matches.target[errors]]]
    errors = errors[np.argsort(-matches.score[errors], kind='stable')]
    errors = errors[np.unique(matches.target[errors], return_index=True)[1]]
    keep = ~np.isin(matches.kind, [IGNORED, kind])
    correct, label = matches.kind == CORRECT, matches.label.copy()
    keep[errors] = correct[errors] = True
    label[errors] = matches.truth_label[matches.target[errors]]
    return average_precision(matches, keep, correct, label)


FIXES: dict[int, Callable[[Matches, int], float | None]] = {
    CLASSIFICATION: _corrected,
    LOCALIZATION: _corrected,
}
