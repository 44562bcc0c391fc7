"""What a detector gets right and wrong on a set of images.

Precision is measured for boxes and, where there are any, masks; all other numbers are of boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.cocoeval import COCOeval

from .calibration import Calibration, measure_calibration
from .detection_confusion import confusion_matrix
from .detection_data import SIZES, DetectionImage, size_counts
from .detection_errors import Errors, count_errors
from .detection_matches import CORRECT, IGNORED, Matches, match_detections
from .detection_precision import (
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    Precision,
    measure_precision,
)

SCORE_THRESHOLD = 0.3  # mmdet draws detections from here on


@dataclass(frozen=True)
class ClassCounts:
    """The objects and the detections of one class.

    Attributes:
        name: The class.
        objects: Number of annotated objects, without crowds.
        crowds: Number of crowds.
        images: Number of images with such objects.
        detections: Number of detections above the score threshold.
        correct: Number of these that are correct.
        missed: Number of objects that none of these has found.
    """

    name: str
    objects: int
    crowds: int
    images: int
    detections: int
    correct: int
    missed: int


@dataclass(frozen=True)
class SizeCounts:
    """The objects and the detections of one of COCO's sizes.

    Attributes:
        name: The size.
        objects: Number of annotated objects by their annotated areas, without crowds.
        missed: Number of these that no detection above the score threshold has found.
        detections: Number of detections above it, by the areas of their boxes.
    """

    name: str
    objects: int
    missed: int
    detections: int


@dataclass(frozen=True)
class ImageScore:
    """How well the objects of an image are found.

    Attributes:
        index: Place of the image in the data.
        name: Its name.
        objects: Number of annotated objects, without crowds.
        correct: Number of correct detections above the score threshold.
        false: Number of other detections above it, without those that lie in crowds.
        missed: Number of objects that are not found.
    """

    index: int
    name: str
    objects: int
    correct: int
    false: int
    missed: int

    @property
    def f1(self) -> float | None:
        """The F1 score, from 0 to 1; None where nothing is annotated and nothing is detected."""
        total = 2 * self.correct + self.false + self.missed
        return 2 * self.correct / total if total else None


@dataclass(frozen=True)
class DetectionAnalysis:
    """All that a report of detections shows.

    Attributes:
        classes: Names of the classes.
        threshold: Score from which a detection counts, in all but precision and calibration.
        images: The images, as they were given.
        precision: What COCOeval measured, by task: ``bbox``, and perhaps ``segm``.
        matches: What every detection is.
        errors: Errors by kind.
        confusion: Counts of true classes (rows) taken for others (columns), with the background
            last, see :func:`~.detection_confusion.confusion_matrix`.
        calibration: How scores and correctness go together.
        class_counts: Objects and detections by class.
        size_counts: Objects and detections by size.
        image_scores: How well every image is done, in the order of the images.
    """

    classes: tuple[str, ...]
    threshold: float
    images: Sequence[DetectionImage]
    precision: dict[str, Precision]
    matches: Matches
    errors: Errors
    confusion: np.ndarray
    calibration: Calibration
    class_counts: tuple[ClassCounts, ...]
    size_counts: tuple[SizeCounts, ...]
    image_scores: tuple[ImageScore, ...]


def analyse_detections(
    images: Sequence[DetectionImage],
    classes: Sequence[str],
    threshold: float = SCORE_THRESHOLD,
    tasks: Sequence[str] = ('bbox',),
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
    max_detections: Sequence[int] = MAX_DETECTIONS,
    evaluator: type = COCOeval,
) -> DetectionAnalysis:
    """Analyse the detections in a set of images.

    Args:
        images: The images, in the order of their ids, in which ties between scores are broken.
        classes: Names of the classes, by label.
        threshold: Score from which a detection counts, in all but precision and calibration.
        tasks: What precision is measured of, ``bbox`` and ``segm``, which needs masks everywhere.
        iou_thresholds: Those over which AP is averaged.
        max_detections: Three limits of detections per image and class, ascending.
        evaluator: pycocotools' COCOeval, or a class with its interface.

    Raises:
        ValueError: There are no images, or a label has no class.
    """
    if not images:
        raise ValueError('expected at least one image to analyse, got none')
    _check_labels(images, len(classes))
    matches = match_detections(images, len(classes))
    return DetectionAnalysis(
        classes=tuple(classes),
        threshold=threshold,
        images=images,
        precision={
            task: measure_precision(
                images, len(classes), task, iou_thresholds, max_detections, evaluator
            )
            for task in tasks
        },
        matches=matches,
        errors=count_errors(matches, threshold),
        confusion=confusion_matrix(images, len(classes), threshold),
        calibration=measure_calibration(matches),
        class_counts=_count_classes(matches, classes, threshold),
        size_counts=_count_sizes(images, matches, threshold),
        image_scores=_score_images(images, matches, threshold),
    )


def _check_labels(images: Sequence[DetectionImage], classes: int) -> None:
    for image in images:
        for labels in (image.truth.labels, image.found.labels):
            if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
                raise ValueError(
                    f'expected labels from 0 to {classes - 1}, one for each class, got '
                    f'{labels.min()} to {labels.max()} in {image.name!r}'
                )


def _count_classes(
    matches: Matches, classes: Sequence[str], threshold: float
) -> tuple[ClassCounts, ...]:
    counted = (matches.score >= threshold) & (matches.kind != IGNORED)
    real = ~matches.crowd

    def by_class(labels: np.ndarray) -> list[int]:
        return np.bincount(labels, minlength=len(classes)).tolist()

    # One row for every class in every image.
    seen = np.unique(np.stack([matches.truth_label[real], matches.truth_image[real]]), axis=1)
    columns = (
        by_class(matches.truth_label[real]),
        by_class(matches.truth_label[matches.crowd]),
        by_class(seen[0]),
        by_class(matches.label[counted]),
        by_class(matches.label[counted & (matches.kind == CORRECT)]),
        by_class(matches.truth_label[matches.missed(threshold)]),
    )
    return tuple(ClassCounts(*row) for row in zip(classes, *columns, strict=True))


def _count_sizes(
    images: Sequence[DetectionImage], matches: Matches, threshold: float
) -> tuple[SizeCounts, ...]:
    areas = np.concatenate([image.truth.areas for image in images])
    boxes = np.concatenate([image.found.boxes.reshape(-1, 4) for image in images])
    counted = (matches.score >= threshold) & (matches.kind != IGNORED)
    columns = (
        size_counts(areas[~matches.crowd]),
        size_counts(areas[matches.missed(threshold)]),
        size_counts(boxes[counted, 2] * boxes[counted, 3]),
    )
    return tuple(SizeCounts(name, *(column[name] for column in columns)) for name in SIZES)


def _score_images(
    images: Sequence[DetectionImage], matches: Matches, threshold: float
) -> tuple[ImageScore, ...]:
    counted = (matches.score >= threshold) & (matches.kind != IGNORED)
    correct = matches.kind == CORRECT
    rows = (
        matches.truth_image[~matches.crowd],
        matches.image[counted & correct],
        matches.image[counted & ~correct],
        matches.truth_image[matches.missed(threshold)],
    )
    columns = [np.bincount(row, minlength=len(images)).tolist() for row in rows]
    return tuple(
        ImageScore(i, image.name, *counts)
        for i, (image, *counts) in enumerate(zip(images, *columns, strict=True))
    )
