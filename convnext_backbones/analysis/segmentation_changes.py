"""What changed between two sets of label maps, counted image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..io.label_maps import UNLABELED
from .segmentations import areas, count_pairs, mean_of_numbers, score_image


@dataclass(frozen=True)
class ClassChange:
    """How the pixels of one class changed. Numbers that need the truth are None without it.

    Attributes:
        name: The class.
        pixels: Predicted pixels in A and in B.
        left: Pixels with this label in A only.
        joined: Pixels with this label in B only.
        became_right: Pixels of this true class that A has wrong and B right.
        became_wrong: Pixels of this true class that A has right and B wrong.
        iou: IoU in A and in B, 0 to 1, None for a class that is nowhere.
    """

    name: str
    pixels: tuple[int, int]
    left: int
    joined: int
    became_right: int | None
    became_wrong: int | None
    iou: tuple[float | None, float | None]


@dataclass(frozen=True)
class ImageChange:
    """How one image changed. Numbers that need the truth are None without it.

    Attributes:
        index: Place of the image in the data.
        name: Its name.
        pixels: Number of compared pixels.
        changed: Number of pixels with another label.
        became_right: Number of labeled pixels that A has wrong and B right.
        became_wrong: Number of labeled pixels that A has right and B wrong.
        mean_iou: Mean IoU of A and of B, over the classes in truth or prediction, 0 to 1.
        classes: Indices of the classes that pixels left or joined.
    """

    index: int
    name: str
    pixels: int
    changed: int
    became_right: int | None
    became_wrong: int | None
    mean_iou: tuple[float | None, float | None]
    classes: tuple[int, ...]

    @property
    def share(self) -> float:
        """The share of pixels with another label, 0 to 1."""
        return self.changed / self.pixels if self.pixels else 0.0


@dataclass(frozen=True)
class SegmentationChanges:
    """What changed between two sets of label maps, A and B.

    Attributes:
        classes: Changes by class, in the order of the labels.
        images: Changes by image, in the order of the data.
        transitions: Pixels by label in A (rows) and in B (columns), (K, K), int64.
        pixels: Number of compared pixels. With the truth these are the labeled ones.
        changed: Number of pixels with another label.
        became_right: Number of pixels that A has wrong and B right; None without truth.
        became_wrong: Number of pixels that A has right and B wrong; None without truth.
        mean_iou: Mean IoU of A and of B over the classes, 0 to 1; None without truth.
    """

    classes: tuple[ClassChange, ...]
    images: tuple[ImageChange, ...]
    transitions: np.ndarray
    pixels: int
    changed: int
    became_right: int | None
    became_wrong: int | None
    mean_iou: tuple[float | None, float | None]


class SegmentationChangeCounter:
    """Counts pairs of predicted label maps, of which it keeps no pixels.

    Args:
        classes: Names of the classes; label ``i`` is ``classes[i]``.
        with_truth: Whether every image has a true label map.
        ignore_index: True label of pixels that are not compared.
        nan_to_num: What a class that is in no label map counts in the mean IoU; by default it is
            left out.
    """

    def __init__(
        self,
        classes: Sequence[str],
        with_truth: bool,
        ignore_index: int = UNLABELED,
        nan_to_num: float | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.with_truth = with_truth
        self.ignore_index = ignore_index
        self.nan_to_num = nan_to_num
        self.images: list[ImageChange] = []
        size = len(self.classes) + 1  # the last label stands for all that are no class
        self.transitions = np.zeros((size, size), np.int64)
        self.confusions = np.zeros((2, size, size), np.int64)  # of A and B with the truth
        self.became = np.zeros((2, size), np.int64)  # right and wrong, by true class

    def add(
        self, name: str, a: np.ndarray, b: np.ndarray, truth: np.ndarray | None = None
    ) -> ImageChange:
        """Count an image.

        Args:
            name: Name of the image.
            a: Labels in A, (H, W), integers.
            b: Labels in B, of the same shape.
            truth: True labels, of the same shape; None exactly if the counter has no truth.

        Returns:
            The changes of the image.

        Raises:
            ValueError: The shapes differ.
        """
        assert (truth is not None) == self.with_truth
        shapes = {labels.shape for labels in (a, b, truth) if labels is not None}
        if len(shapes) > 1:
            raise ValueError(
                f'expected label maps of one shape for {name!r}, got '
                f'{" and ".join(map(str, sorted(shapes)))}'
            )
        size = len(self.classes) + 1
        if truth is not None:
            labeled = truth != self.ignore_index
            a, b, truth = a[labeled], b[labeled], truth[labeled]
        # Integers, because NumPy's minimum of a uint8 and a larger number fails.
        a, b = (np.minimum(labels.astype(np.int32), size - 1) for labels in (a, b))
        transitions = count_pairs(a, b, size)
        self.transitions += transitions
        became: tuple[int | None, int | None] = (None, None)
        mean_iou: tuple[float | None, float | None] = (None, None)
        if truth is not None:
            truth = np.minimum(truth.astype(np.int32), size - 1)
            became, mean_iou = self._compare(name, a, b, truth)
        moved = transitions - np.diag(transitions.diagonal())
        touched = np.flatnonzero((moved.sum(0) + moved.sum(1))[:-1])
        change = ImageChange(
            index=len(self.images),
            name=name,
            pixels=int(transitions.sum()),
            changed=int(moved.sum()),
            became_right=became[0],
            became_wrong=became[1],
            mean_iou=mean_iou,
            classes=tuple(map(int, touched)),
        )
        self.images.append(change)
        return change

    def _compare(
        self, name: str, a: np.ndarray, b: np.ndarray, truth: np.ndarray
    ) -> tuple[tuple[int, int], tuple[float | None, float | None]]:
        """Return the pixels that became right and wrong, and the mean IoU of A and B."""
        size = len(self.classes) + 1
        counts = [count_pairs(truth, labels, size) for labels in (a, b)]
        right, wrong = (
            np.bincount(truth[now & ~before], minlength=size)
            for before, now in ((a == truth, b == truth), (b == truth, a == truth))
        )
        self.confusions += counts
        self.became += [right, wrong]
        scores = [score_image(0, name, one).mean_iou for one in counts]
        return (int(right.sum()), int(wrong.sum())), (scores[0], scores[1])

    def changes(self) -> SegmentationChanges:
        """Return the changes of all images counted so far."""
        moved = self.transitions - np.diag(self.transitions.diagonal())
        ious = np.stack([_ious(counts) for counts in self.confusions], axis=1)  # (K, 2)
        classes = []
        for i, name in enumerate(self.classes):
            became = self.became[:, i].tolist() if self.with_truth else (None, None)
            classes.append(
                ClassChange(
                    name=name,
                    pixels=(int(self.transitions[i].sum()), int(self.transitions[:, i].sum())),
                    left=int(moved[i].sum()),
                    joined=int(moved[:, i].sum()),
                    became_right=became[0],
                    became_wrong=became[1],
                    iou=_pair(ious[i]),
                )
            )
        totals = self.became.sum(1).tolist() if self.with_truth else (None, None)
        if self.nan_to_num is not None and self.with_truth:
            ious = np.nan_to_num(ious, nan=self.nan_to_num)
        return SegmentationChanges(
            classes=tuple(classes),
            images=tuple(self.images),
            transitions=self.transitions[:-1, :-1].copy(),
            pixels=int(self.transitions.sum()),
            changed=int(moved.sum()),
            became_right=totals[0],
            became_wrong=totals[1],
            mean_iou=(mean_of_numbers(ious[:, 0]), mean_of_numbers(ious[:, 1])),
        )


def rank_changes(images: Sequence[ImageChange]) -> list[ImageChange]:
    """Return the images that changed, those with the largest share of changed pixels first."""
    changed = [image for image in images if image.changed]
    return sorted(changed, key=lambda image: (-image.share, image.name, image.index))


def _ious(counts: np.ndarray) -> np.ndarray:
    hits, true, found = areas(counts)
    with np.errstate(invalid='ignore'):
        return hits / (true + found - hits)


def _pair(values: np.ndarray) -> tuple[float | None, float | None]:
    first, second = (None if np.isnan(value) else float(value) for value in values)
    return first, second
