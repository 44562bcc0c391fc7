"""Compare an exported model with the model that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

# Images, height and width: none is the traced one, and none fits the strides.
SIZES = ((1, 64, 64), (2, 101, 135), (1, 160, 96))
TOLERANCE = 1e-4  # of the largest value
# Detections are the same if their boxes overlap by at least this much, in IoU; those of int8 if
# they would be taken for the same object.
SAME_BOX, SAME_OBJECT = 0.99, 0.5
# Where scores differ by less, either of two detections may be the last that is kept.
SAME_SCORE = 1e-3

Outputs = dict[str, np.ndarray]
Run = Callable[[np.ndarray], Outputs]


@dataclass(frozen=True)
class Parity:
    """How far an exported model is from the original.

    Attributes:
        difference: The largest, of all outputs but labels, as a fraction of the largest value; of a
            detector that of its raw outputs. None if these were not compared.
        labels: The share of pixels with another label; None without labels.
        detections: The share of detections that only one of the two has; None without boxes.
    """

    difference: float | None
    labels: float | None = None
    detections: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.difference is not None:
            parts.append(f'outputs differ by {self.difference:.1e} of the largest value')
        if self.labels is not None:
            parts.append(f'{self.labels:.3%} of the labels differ')
        if self.detections is not None:
            parts.append(f'{self.detections:.3%} of the detections differ')
        return ', '.join(parts)


def measure(graph: nn.Module, exported: Run, images: Sequence[np.ndarray]) -> Parity:
    """Compare the outputs.

    Args:
        graph: The original, see :func:`.graphs.make_graph`.
        exported: The exported model.
        images: Each of shape (N, C, H, W), as they were read.
    """
    difference, wrong, total = None, 0, 0
    for expected, found in _results(graph, exported, images):
        for name, target in expected.items():
            if name == 'labels':
                wrong += int((found[name] != target).sum())
                total += target.size
                continue
            difference = _larger(difference, target, found[name])
    return Parity(difference, wrong / total if total else None)


def measure_detector(
    graph: nn.Module, exported: Run, images: Sequence[np.ndarray], exact: bool = True
) -> Parity:
    """Compare raw values, if the graph returns any, and detections.

    Args:
        graph: The original, of a detector.
        exported: The exported model.
        images: Each of shape (N, C, H, W), as they were read.
        exact: Whether boxes must be equal but for rounding, instead of overlapping by half.
    """
    difference, alone, total = None, 0, 0
    overlap = SAME_BOX if exact else SAME_OBJECT
    for expected, found in _results(graph, exported, images):
        for name, target in expected.items():
            if name.startswith('raw'):
                difference = _larger(difference, target, found[name])
        names = ('boxes', 'scores', 'labels')
        ours, theirs = ([each[name] for name in names] for each in (expected, found))
        for one, other in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True):
            alone += _alone(one, other, overlap) + _alone(other, one, overlap)
            total += int((one[2] >= 0).sum() + (other[2] >= 0).sum())
    return Parity(difference, None, alone / total if total else 0.0)


def _larger(difference: float | None, target: np.ndarray, found: np.ndarray) -> float:
    """Return the larger difference: the given one, or of two arrays; NaN, if any is."""
    largest = max(float(np.abs(target).max()), torch.finfo(torch.float32).tiny)
    return float(np.maximum(difference or 0.0, np.abs(found - target).max() / largest))


def _results(
    graph: nn.Module, exported: Run, images: Sequence[np.ndarray]
) -> Iterable[tuple[Outputs, Outputs]]:
    for batch in images:
        with torch.no_grad():
            expected = graph(torch.from_numpy(np.asarray(batch, np.float32)))
        found = exported(batch)
        yield dict(zip(found, (value.numpy() for value in expected), strict=True)), found


def _alone(one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...], overlap: float) -> int:
    """Return how many detections of an image the other result lacks.

    Args:
        one: Boxes (K, 4), scores (K,) and labels (K,), with -1 for fill.
        other: The same.
        overlap: The least IoU of the same detections.
    """
    boxes, scores, labels = (values[one[2] >= 0] for values in one)
    if not len(boxes):
        return 0
    other_boxes, _, other_labels = (values[other[2] >= 0] for values in other)
    same = (labels[:, None] == other_labels) & (_overlaps(boxes, other_boxes) >= overlap)
    lacking = ~same.any(1) & (scores > scores.min() + SAME_SCORE)
    return int(lacking.sum())


def _overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the IoU of all pairs of boxes, of shape (K, L)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = (high - low).clip(0).prod(2)
    first, second = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other))
    union = first[:, None] + second - shared
    # Boxes without an area overlap if they are equal.
    equal = (one[:, None] == other[None]).all(2)
    return np.where(union > 0, shared / np.maximum(union, 1e-12), equal)


def random_images(channels: int, smallest: int = 1) -> list[np.ndarray]:
    """Return images of three sizes, the same every time.

    Args:
        channels: Of the images.
        smallest: The least height and width.
    """
    generator = np.random.default_rng(0)
    return [
        generator.integers(
            0, 256, (count, channels, *(max(side, smallest) + i for i, side in enumerate(size)))
        ).astype(np.float32)
        for count, *size in SIZES
    ]


def check(parity: Parity) -> None:
    """Refuse an exported model that does not compute what the original does.

    Raises:
        ValueError: An output differs by more than :data:`TOLERANCE`, or a detection.
    """
    if parity.difference is not None and not parity.difference <= TOLERANCE or parity.detections:
        raise ValueError(
            f'the exported model is not used: its {parity}, and at most {TOLERANCE:.0e} is '
            'expected, and the same detections; another format may be right'
        )
