"""What changed between two sets of detections, image by image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pycocotools import mask as mask_utils

from .detection_data import DetectionImage, Found
from .detection_matches import CORRECT, Matches
from .detection_precision import COLUMNS
from .detections import SCORE_THRESHOLD, ClassCounts, DetectionAnalysis, analyse_detections

SAME_OBJECT_IOU = 0.5  # from here on two boxes are of one object
SAME_PLACE_IOU = 0.75  # below, the box of an object has moved
KEPT, MOVED, CLASS_CHANGED, GONE, NEW = KINDS = (
    'kept',
    'box moved',
    'class changed',
    'gone',
    'new',
)
RIGHT, WRONG = 'became right', 'became wrong'
Pair = tuple[float | None, float | None]  # a number of A and one of B
NO_PAIR: Pair = (None, None)


@dataclass(frozen=True)
class Change:
    """What became of one detection.

    Attributes:
        kind: One of :data:`KINDS`.
        a: Index of the detection in A; None if it is new.
        b: Index of the detection in B; None if it is gone.
        label_a: Its class in A; None if it is new.
        label_b: Its class in B; None if it is gone.
        iou: IoU of both boxes; None if there is only one.
    """

    kind: str
    a: int | None
    b: int | None
    label_a: int | None
    label_b: int | None
    iou: float | None = None


@dataclass(frozen=True)
class ImageChange:
    """How the detections of one image changed. Numbers that need the truth are None without it.

    Attributes:
        index: Place of the image in the data.
        name: Its name.
        changes: What became of every detection of A and B.
        became_right: Classes of the objects that only B finds.
        became_wrong: Classes of the objects that only A finds.
        f1: F1 in A and in B, 0 to 1; None where nothing is annotated and nothing is detected.
    """

    index: int
    name: str
    changes: tuple[Change, ...]
    became_right: tuple[int, ...] | None = None
    became_wrong: tuple[int, ...] | None = None
    f1: Pair = NO_PAIR

    def count(self, kind: str) -> int:
        """Return the number of changes of a kind."""
        return sum(change.kind == kind for change in self.changes)

    @property
    def changed(self) -> int:
        """The number of detections that are not kept."""
        return len(self.changes) - self.count(KEPT)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of change that occur, without ``kept``."""
        found = [kind for kind in KINDS[1:] if self.count(kind)]
        found += [RIGHT] if self.became_right else []
        return (*found, *([WRONG] if self.became_wrong else []))

    @property
    def classes(self) -> tuple[int, ...]:
        """Labels of the changed detections and of the objects that became right or wrong."""
        labels = {*(self.became_right or ()), *(self.became_wrong or ())}
        for change in self.changes:
            if change.kind != KEPT:
                labels |= {change.label_a, change.label_b} - {None}  # type: ignore[arg-type]
        return tuple(sorted(labels))


@dataclass(frozen=True)
class ClassChange:
    """How the detections of one class changed. Numbers that need the truth are None without it.

    Attributes:
        name: The class.
        detections: Number in A and in B.
        kinds: Numbers by kind. A changed class counts for the class in A.
        joined: Number of detections whose class changed to this one.
        became_right: Number of objects that only B finds.
        became_wrong: Number of objects that only A finds.
        average_precision: AP of boxes in A and in B, 0 to 1.
        f1: F1 in A and in B, 0 to 1.
    """

    name: str
    detections: tuple[int, int]
    kinds: dict[str, int]
    joined: int
    became_right: int | None
    became_wrong: int | None
    average_precision: Pair
    f1: Pair


@dataclass(frozen=True)
class DetectionChanges:
    """What changed between two sets of detections, A and B.

    Attributes:
        threshold: Score from which a detection counts.
        classes: Changes by class, in the order of the labels.
        images: Changes by image, in the order of the data.
        kinds: Numbers by kind.
        became_right: Number of objects that only B finds; None without truth.
        became_wrong: Number of objects that only A finds; None without truth.
        average_precision: Mean AP of boxes in A and in B, 0 to 1; None without truth.
        f1: F1 of all detections in A and in B, 0 to 1; None without truth.
    """

    threshold: float
    classes: tuple[ClassChange, ...]
    images: tuple[ImageChange, ...]
    kinds: dict[str, int]
    became_right: int | None
    became_wrong: int | None
    average_precision: Pair
    f1: Pair


def compare_detections(
    a: Sequence[DetectionImage],
    b: Sequence[DetectionImage],
    classes: Sequence[str],
    with_truth: bool,
    threshold: float = SCORE_THRESHOLD,
) -> DetectionChanges:
    """Compare the detections in a set of images.

    Args:
        a: The images with the detections of A.
        b: The same images, in the same order, with the detections of B.
        classes: Names of the classes, by label.
        with_truth: Whether the images have annotations.
        threshold: Score from which a detection counts, in all but AP.
    """
    images = [
        ImageChange(i, one.name, tuple(match_changes(one.found, other.found, threshold)))
        for i, (one, other) in enumerate(zip(a, b, strict=True))
    ]
    both = None
    if with_truth and images:
        both = tuple(analyse_detections(part, classes, threshold) for part in (a, b))
        images = list(_with_truth(images, both))
    every = [change for image in images for change in image.changes]
    average = f1 = NO_PAIR
    if both:
        average, f1 = _pair(map(_mean_precision, both)), _pair(map(_f1, both))
    return DetectionChanges(
        threshold=threshold,
        classes=_by_class(images, every, classes, both),
        images=tuple(images),
        kinds={kind: sum(change.kind == kind for change in every) for kind in KINDS},
        became_right=sum(len(i.became_right or ()) for i in images) if with_truth else None,
        became_wrong=sum(len(i.became_wrong or ()) for i in images) if with_truth else None,
        average_precision=average,
        f1=f1,
    )


def match_changes(a: Found, b: Found, threshold: float) -> Iterator[Change]:
    """Yield what became of the detections of an image.

    Pairs of one class are matched first, the highest IoU first, then pairs of two classes.

    Args:
        a: Detections before.
        b: Detections after.
        threshold: Score from which a detection counts.
    """
    left_a, left_b = ((found.scores >= threshold) for found in (a, b))
    ious = np.zeros((len(a.labels), len(b.labels)))
    if ious.size:
        boxes = (np.ascontiguousarray(found.boxes, float) for found in (a, b))
        ious = np.asarray(mask_utils.iou(*boxes, np.zeros(len(b.labels), np.uint8)))
    same = a.labels[:, None] == b.labels[None]
    for allowed in (same, ~same):
        close = np.argwhere(allowed & (ious >= SAME_OBJECT_IOU))
        order = np.argsort(-ious[close[:, 0], close[:, 1]], kind='stable')
        for i, j in close[order].tolist():
            if not (left_a[i] and left_b[j]):
                continue
            left_a[i] = left_b[j] = False
            kind = KEPT if ious[i, j] >= SAME_PLACE_IOU else MOVED
            kind = kind if same[i, j] else CLASS_CHANGED
            yield Change(kind, i, j, int(a.labels[i]), int(b.labels[j]), float(ious[i, j]))
    for i in np.flatnonzero(left_a).tolist():
        yield Change(GONE, i, None, int(a.labels[i]), None)
    for j in np.flatnonzero(left_b).tolist():
        yield Change(NEW, None, j, None, int(b.labels[j]))


def rank_changes(images: Sequence[ImageChange]) -> list[ImageChange]:
    """Return the images that changed, those with the most changes first.

    With the truth, objects that became right or wrong come before other changes.
    """
    keys = {
        image.index: (
            -len(image.became_right or ()) - len(image.became_wrong or ()),
            -image.changed,
            image.name,
            image.index,
        )
        for image in images
        if image.kinds
    }
    return sorted((i for i in images if i.index in keys), key=lambda image: keys[image.index])


def _with_truth(
    images: Sequence[ImageChange], both: Sequence[DetectionAnalysis]
) -> Iterator[ImageChange]:
    """Yield the images with what became right and wrong."""
    found = [analysis.matches.objects_with([CORRECT], analysis.threshold) for analysis in both]
    objects: Matches = both[0].matches
    for image in images:
        here = (objects.truth_image == image.index) & ~objects.crowd
        yield replace(
            image,
            became_right=_labels(objects, here & ~found[0] & found[1]),
            became_wrong=_labels(objects, here & found[0] & ~found[1]),
            f1=_pair(analysis.image_scores[image.index].f1 for analysis in both),
        )


def _labels(objects: Matches, chosen: np.ndarray) -> tuple[int, ...]:
    return tuple(objects.truth_label[chosen].tolist())


def _by_class(
    images: Sequence[ImageChange],
    every: Sequence[Change],
    names: Sequence[str],
    both: Sequence[DetectionAnalysis] | None,
) -> tuple[ClassChange, ...]:
    kinds = [dict.fromkeys(KINDS, 0) for _ in names]
    detections, joined = np.zeros((len(names), 2), int), np.zeros(len(names), int)
    for change in every:
        first, second = change.label_a, change.label_b
        kinds[second if first is None else first][change.kind] += 1  # type: ignore[index]
        if first is not None:
            detections[first, 0] += 1
        if second is not None:
            detections[second, 1] += 1
            joined[second] += change.kind == CLASS_CHANGED
    became = np.zeros((len(names), 2), int)
    for image in images:
        for column, labels in enumerate((image.became_right, image.became_wrong)):
            np.add.at(became[:, column], list(labels or ()), 1)
    classes = []
    for i, name in enumerate(names):
        average = f1 = NO_PAIR
        if both:
            place = COLUMNS.index('AP')
            average = _pair(_number(one.precision['bbox'].by_class[i, place]) for one in both)
            f1 = _pair(_class_f1([one.class_counts[i]]) for one in both)
        right, wrong = became[i].tolist() if both else (None, None)
        pair = (int(detections[i, 0]), int(detections[i, 1]))
        numbers = (kinds[i], int(joined[i]), right, wrong, average, f1)
        classes.append(ClassChange(name, pair, *numbers))
    return tuple(classes)


def _mean_precision(analysis: DetectionAnalysis) -> float | None:
    return analysis.precision['bbox'].statistics['mAP']


def _f1(analysis: DetectionAnalysis) -> float | None:
    return _class_f1(analysis.class_counts)


def _class_f1(counts: Sequence[ClassCounts]) -> float | None:
    correct = sum(one.correct for one in counts)
    total = sum(one.detections + one.objects for one in counts)
    return 2 * correct / total if total else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _pair(values: Iterable[float | None]) -> Pair:
    first, second = values
    return first, second
