"""Which detections are correct, and what is wrong with the others, image by image.

The kinds of errors are those of D. Bolya et al., TIDE: A General Toolbox for Identifying Object
Detection Errors, ECCV 2020, https://arxiv.org/abs/2008.08115.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_utils

from .detection_data import DetectionImage

FOREGROUND_IOU = 0.5  # from here on a detection has found an object
BACKGROUND_IOU = 0.1  # up to here a detection has seen none
# Kinds of detections. Missed objects are the sixth kind of error, and no detections.
CORRECT, CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND, IGNORED = range(7)
KIND_NAMES = (
    'correct',
    'classification',
    'localization',
    'both',
    'duplicate',
    'background',
    'ignored',
)
NONE = -1  # no object


@dataclass(frozen=True)
class Matches:
    """All detections and all objects of all images, each in one row.

    Attributes:
        images: Number of images.
        classes: Number of classes.
        image: (detections,), index of the image; ascending, in an image in the order of its
            detections.
        label: (detections,), index of the class.
        score: (detections,), from 0 to 1.
        kind: (detections,), what the detection is, an index of :data:`KIND_NAMES`. Those that are
            ignored lie in a crowd of their class.
        target: (detections,), the object that was found, or would be with another class or another
            place; :data:`NONE` for other kinds.
        truth_image: (objects,), index of the image.
        truth_label: (objects,), index of the class.
        crowd: (objects,), whether this is a crowd, which need not be found.
    """

    images: int
    classes: int
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    kind: np.ndarray
    target: np.ndarray
    truth_image: np.ndarray
    truth_label: np.ndarray
    crowd: np.ndarray

    def objects_with(self, kinds: Sequence[int], threshold: float) -> np.ndarray:
        """Return (objects,): whether an object is the target of a detection of one of ``kinds``.

        Args:
            kinds: Indices of :data:`KIND_NAMES`.
            threshold: Only detections with at least this score count.
        """
        chosen = np.isin(self.kind, kinds) & (self.score >= threshold)
        targets = np.zeros(len(self.crowd), bool)
        targets[self.target[chosen]] = True
        return targets

    def missed(self, threshold: float) -> np.ndarray:
        """Return (objects,): whether no detection of at least this score has found an object."""
        return ~self.crowd & ~self.objects_with([CORRECT], threshold)


def match_detections(images: Sequence[DetectionImage], classes: int) -> Matches:
    """Match the detections of every image to its objects, by the IoU of their boxes.

    Args:
        images: The images.
        classes: The number of classes.
    """
    kinds, targets = [], []
    objects = 0
    for image in images:
        kind, target = match_image(image, box_ious(image))
        kinds.append(kind)
        targets.append(np.where(target == NONE, NONE, target + objects))
        objects += len(image.truth.labels)
    found, truth = [len(i.found.labels) for i in images], [len(i.truth.labels) for i in images]

    def joined(arrays: Sequence[np.ndarray], kind: type) -> np.ndarray:
        return np.concatenate([np.zeros(0, kind), *arrays]).astype(kind)

    return Matches(
        images=len(images),
        classes=classes,
        image=np.repeat(np.arange(len(images)), found),
        label=joined([image.found.labels for image in images], int),
        score=joined([image.found.scores for image in images], float),
        kind=joined(kinds, int),
        target=joined(targets, int),
        truth_image=np.repeat(np.arange(len(images)), truth),
        truth_label=joined([image.truth.labels for image in images], int),
        crowd=joined([image.truth.crowd for image in images], bool),
    )


def box_ious(image: DetectionImage) -> np.ndarray:
    """Return (detections, objects): IoU of boxes; for crowds the share of the detection inside."""
    shape = len(image.found.labels), len(image.truth.labels)
    if not all(shape):  # for which pycocotools returns a list
        return np.zeros(shape)
    boxes = (np.ascontiguousarray(b, float) for b in (image.found.boxes, image.truth.boxes))
    return mask_utils.iou(*boxes, image.truth.crowd.astype(np.uint8))


def match_image(image: DetectionImage, ious: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return kind and target of the detections of an image.

    Detections take the objects of their class as in pycocotools: from the highest score to the
    lowest, each the one with the highest IoU that is left.

    Args:
        image: The image.
        ious: (detections, objects), see :func:`box_ious`.

    Returns:
        Two arrays of shape (detections,); targets are indices of the image's objects.
    """
    truth, found = image.truth, image.found
    kind = np.full(len(found.labels), BACKGROUND)
    target = np.full(len(found.labels), NONE)
    if not ious.size:
        return kind, target
    same = found.labels[:, None] == truth.labels[None]
    close = same & (ious >= FOREGROUND_IOU)
    free = ~truth.crowd
    order = np.argsort(-found.scores, kind='stable')
    for i in order[close[order].any(1)]:
        (options,) = np.nonzero(close[i] & free)
        if len(options):
            kind[i], target[i] = CORRECT, _closest(ious[i], options)
            free[target[i]] = False
        elif (close[i] & truth.crowd).any():
            kind[i] = IGNORED
    wrong = kind == BACKGROUND
    _name_errors(kind, target, wrong, np.where(truth.crowd, 0, ious), same)
    return kind, target


def _closest(ious: np.ndarray, options: np.ndarray) -> int:
    """Return the option with the highest IoU; of equal ones the last, as pycocotools does."""
    return int(options[::-1][ious[options[::-1]].argmax()])


def _name_errors(
    kind: np.ndarray, target: np.ndarray, wrong: np.ndarray, ious: np.ndarray, same: np.ndarray
) -> None:
    """Write the kind of error, and the target, of the detections that are ``wrong``."""
    own, other = np.where(same, ious, 0), np.where(same, 0, ious)
    best_own, best_other = own.max(1), other.max(1)
    misplaced = wrong & (best_own >= BACKGROUND_IOU) & (best_own < FOREGROUND_IOU)
    confused = wrong & ~misplaced & (best_other >= FOREGROUND_IOU)
    rest = wrong & ~misplaced & ~confused
    kind[misplaced], target[misplaced] = LOCALIZATION, own.argmax(1)[misplaced]
    kind[confused], target[confused] = CLASSIFICATION, other.argmax(1)[confused]
    kind[rest & (best_own >= FOREGROUND_IOU)] = DUPLICATE
    kind[rest & (best_own < FOREGROUND_IOU) & (best_other > BACKGROUND_IOU)] = BOTH
