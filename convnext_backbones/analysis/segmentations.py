"""What label maps get right and wrong, counted image by image.

The numbers by class are those of mmseg's IoUMetric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..io.label_maps import UNLABELED
from .segmentation_boundaries import DISTANCES, boundary_areas, distance_group

GRID = 32  # rows and columns of the map of positions


@dataclass(frozen=True)
class ClassScore:
    """How well one class is segmented. A ratio of nothing to nothing is None.

    Attributes:
        name: The class.
        iou: Intersection over union of all its pixels, 0 to 1.
        accuracy: Share of its true pixels that are predicted, also called recall.
        precision: Share of its predicted pixels that are true.
        dice: Twice the intersection over the sum of true and predicted pixels; the F-score.
        boundary_iou: IoU of the pixels near the outlines, see :mod:`.segmentation_boundaries`.
        true_pixels: Number of pixels in the truth.
        predicted_pixels: Number of predicted pixels.
    """

    name: str
    iou: float | None
    accuracy: float | None
    precision: float | None
    dice: float | None
    boundary_iou: float | None
    true_pixels: int
    predicted_pixels: int


@dataclass(frozen=True)
class ImageScore:
    """How well one image is segmented.

    Attributes:
        index: Place of the image in the data.
        name: Its name.
        mean_iou: Mean IoU over the classes that are in the truth or in the prediction, 0 to 1;
            None if no pixel is labeled.
        accuracy: Share of right pixels; None if no pixel is labeled.
        pixels: Number of labeled pixels.
        present: Indices of the classes in the truth or in the prediction.
        wrong: Number of wrong pixels of these classes: true ones that were missed, and predicted
            ones that are not true.
    """

    index: int
    name: str
    mean_iou: float | None
    accuracy: float | None
    pixels: int
    present: tuple[int, ...]
    wrong: tuple[int, ...]


@dataclass(frozen=True)
class DistanceError:
    """Errors at one group of distances to the nearest true boundary.

    Attributes:
        label: The distances in pixels, such as ``3-4``.
        pixels: Number of labeled pixels.
        wrong: Number of wrong ones.
    """

    label: str
    pixels: int
    wrong: int

    @property
    def share(self) -> float | None:
        """The share of wrong pixels; None if there are no pixels."""
        return self.wrong / self.pixels if self.pixels else None


@dataclass(frozen=True)
class SegmentationAnalysis:
    """All numbers of an evaluation.

    Attributes:
        classes: Scores by class, in the order of the labels.
        images: Scores by image, in the order of the data.
        confusion: Pixels by true class (rows) and predicted class (columns), (K, K), int64.
        mean_iou: Mean over the classes, 0 to 1, as the evaluator computes it.
        mean_accuracy: Likewise.
        accuracy: Share of right pixels among those with a true class.
        error_positions: Share of wrong pixels by place in the image, rows from top to bottom,
            (GRID, GRID); NaN where no pixel is labeled.
        distances: Errors by distance to the nearest true boundary, from near to far.
    """

    classes: tuple[ClassScore, ...]
    images: tuple[ImageScore, ...]
    confusion: np.ndarray
    mean_iou: float | None
    mean_accuracy: float | None
    accuracy: float | None
    error_positions: np.ndarray
    distances: tuple[DistanceError, ...]


class SegmentationCounter:
    """Counts pairs of label maps, of which it keeps no pixels.

    Args:
        classes: Names of the classes; label ``i`` is ``classes[i]``.
        ignore_index: True label of pixels that are not evaluated.
        nan_to_num: What a class that is in no label map counts in the means; by default it is left
            out, as mmseg's IoUMetric does.
    """

    def __init__(
        self,
        classes: Sequence[str],
        ignore_index: int = UNLABELED,
        nan_to_num: float | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.ignore_index = ignore_index
        self.nan_to_num = nan_to_num
        self.images: list[ImageScore] = []
        size = len(self.classes)
        # The last row and column are of labels that are no class, which IoUMetric counts as pixels
        # of the other map only.
        self.counts = np.zeros((size + 1, size + 1), np.int64)
        self.boundaries = np.zeros((2, size), np.int64)  # intersections, unions
        self.positions = np.zeros((2, GRID * GRID), np.int64)  # labeled, wrong
        self.distances = np.zeros((2, len(DISTANCES) + 1), np.int64)  # labeled, wrong

    def add(self, name: str, truth: np.ndarray, predicted: np.ndarray) -> ImageScore:
        """Count an image.

        Args:
            name: Name of the image.
            truth: True labels, (H, W), integers.
            predicted: Predicted labels, of the same shape.

        Returns:
            The scores of the image.

        Raises:
            ValueError: The shapes differ.
        """
        if truth.ndim != 2 or truth.shape != predicted.shape:
            raise ValueError(
                f'expected two label maps of one shape (H, W) for {name!r}, got {truth.shape} and '
                f'{predicted.shape}'
            )
        labeled = truth != self.ignore_index
        other = len(self.classes)
        depth = np.uint8 if other + 1 < 256 else np.uint16
        # Labels that are no class become one; unlabeled pixels another, for their boundaries.
        true = np.where(labeled, np.minimum(truth, other), other + 1).astype(depth)
        found = np.minimum(predicted.astype(np.int64), other).astype(depth)
        counts = count_pairs(true[labeled], found[labeled], other + 1)
        self.counts += counts
        self.boundaries += boundary_areas(true, found, labeled, other)
        wrong = labeled & (true != found)
        self._count_places(true, labeled, wrong)
        score = score_image(len(self.images), name, counts)
        self.images.append(score)
        return score

    def _count_places(self, true: np.ndarray, labeled: np.ndarray, wrong: np.ndarray) -> None:
        height, width = true.shape
        rows, columns = np.arange(height) * GRID // height, np.arange(width) * GRID // width
        cells = (rows[:, None] * GRID + columns).astype(np.int32)
        groups = distance_group(true)
        for i, chosen in enumerate((labeled, wrong)):
            self.positions[i] += np.bincount(cells[chosen], minlength=GRID * GRID)
            self.distances[i] += np.bincount(groups[chosen], minlength=len(DISTANCES) + 1)

    def analysis(self) -> SegmentationAnalysis:
        """Return the numbers of all images counted so far."""
        hits, true, found = areas(self.counts)
        with np.errstate(divide='ignore', invalid='ignore'):
            ratios = dict(
                iou=hits / (true + found - hits),
                accuracy=hits / true,
                precision=hits / found,
                dice=2 * hits / (true + found),
                boundary_iou=self.boundaries[0] / self.boundaries[1],
            )
            positions = (self.positions[1] / self.positions[0]).reshape(GRID, GRID)
        scores = tuple(
            ClassScore(
                name,
                **{key: _number(values[i]) for key, values in ratios.items()},
                true_pixels=int(true[i]),
                predicted_pixels=int(found[i]),
            )
            for i, name in enumerate(self.classes)
        )
        labels = _distance_labels()
        return SegmentationAnalysis(
            classes=scores,
            images=tuple(self.images),
            confusion=self.counts[:-1, :-1].copy(),
            mean_iou=self._mean(ratios['iou']),
            mean_accuracy=self._mean(ratios['accuracy']),
            accuracy=_ratio(hits.sum(), true.sum()),
            error_positions=positions,
            distances=tuple(
                DistanceError(label, int(pixels), int(wrong))
                for label, pixels, wrong in zip(labels, *self.distances, strict=True)
            ),
        )

    def _mean(self, values: np.ndarray) -> float | None:
        if self.nan_to_num is not None:
            values = np.nan_to_num(values, nan=self.nan_to_num)
        return mean_of_numbers(values)


def mean_of_numbers(values: np.ndarray) -> float | None:
    """Return the mean of those values that are numbers; None if none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def areas(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return right, true and predicted pixels by class from (K + 1, K + 1) counts."""
    return counts.diagonal()[:-1], counts.sum(1)[:-1], counts.sum(0)[:-1]


def count_pairs(first: np.ndarray, second: np.ndarray, size: int) -> np.ndarray:
    """Return how often two labels below ``size`` lie on each other, (size, size), int64."""
    pairs = first.ravel().astype(np.int32) * size + second.ravel()
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


def score_image(index: int, name: str, counts: np.ndarray) -> ImageScore:
    """Return the scores of an image.

    Args:
        index: Place of the image in the data.
        name: Its name.
        counts: Pixels by true and predicted class, (K + 1, K + 1), the last of labels that are no
            class.
    """
    hits, true, found = areas(counts)
    union = true + found - hits
    present = np.flatnonzero(union)
    pixels = int(counts.sum())
    return ImageScore(
        index=index,
        name=name,
        mean_iou=float((hits[present] / union[present]).mean()) if present.size else None,
        accuracy=_ratio(hits.sum(), pixels),
        pixels=pixels,
        present=tuple(map(int, present)),
        wrong=tuple(map(int, (union - hits)[present])),
    )


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _distance_labels() -> list[str]:
    """Return ``1``, ``2``, ``3-4``, and so on up to ``over 64``."""
    labels = ['1']
    for start, end in zip(DISTANCES[:-1], DISTANCES[1:], strict=True):
        labels.append(f'{end}' if end == start + 1 else f'{start + 1}-{end}')
    return [*labels, f'over {DISTANCES[-1]}']
