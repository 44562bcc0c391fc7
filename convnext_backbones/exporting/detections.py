"""Candidates to detections, for batches and with known shapes, as graphs need them.

mmdet filters candidates image by image, by lists of lengths that differ. Here a candidate that does
not count has the score -1, and every image has equally many: the best ones, or fill.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Registers the operator.
from ..ops.graph_operators import best_boxes

NOT_COUNTED = -1.0  # the score of what is no detection
NO_LABEL = -1


class Detections(NamedTuple):
    """What a detector found in a batch; the best first, then fill.

    Attributes:
        boxes: Of shape (N, K, 4): x1, y1, x2, y2 in pixels of the image.
        scores: Of shape (N, K), from 0 to 1; 0 for fill.
        labels: Of shape (N, K), int64; -1 for fill.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def best(scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the best scores and their indices.

    Args:
        scores: Of shape (N, M).
        most: How many; where M is less, the rest is fill of index 0.

    Returns:
        Two tensors of shape (N, most).
    """
    # Padded, so that the number is known while the graph is traced.
    filled = F.pad(scores, (0, most), value=NOT_COUNTED)
    values, indices = filled.topk(most, 1)
    return values, torch.where(indices < scores.shape[1], indices, 0)


def take(values: Tensor, indices: Tensor) -> Tensor:
    """Return rows of a batch.

    Args:
        values: Of shape (N, M, C).
        indices: Of shape (N, K).

    Returns:
        Of shape (N, K, C).
    """
    return values.gather(1, indices[..., None].expand(-1, -1, values.shape[2]))


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, most: int
) -> tuple[Tensor, Tensor]:
    """Return the best boxes that no better one of their group overlaps.

    Boxes of different groups are moved apart, as mmcv's ``batched_nms`` does.

    Args:
        boxes: Of shape (N, B, 4).
        scores: Of shape (N, B); negative ones do not count.
        groups: Of shape (N, B): classes, or levels.
        iou_threshold: Boxes that overlap more are suppressed.
        most: How many boxes of an image stay.

    Returns:
        Scores, -1 for fill, and indices, of shape (N, most).
    """
    counted = (scores >= 0)[..., None]
    highest = torch.where(counted, boxes, 0).amax((1, 2))[:, None]  # (N, 1)
    apart = boxes + (groups.to(boxes.dtype) * (highest + 1))[..., None]
    kept = best_boxes(apart, scores, iou_threshold, most)
    return best(torch.where(kept, scores, NOT_COUNTED), most)


def detections(boxes: Tensor, scores: Tensor, labels: Tensor, found: Tensor) -> Detections:
    """Gather detections, and mark the fill.

    Args:
        boxes: All candidates, of shape (N, B, 4).
        scores: Of the detections, of shape (N, K); -1 for fill.
        labels: Of all candidates, of shape (N, B).
        found: Indices of the detections, of shape (N, K).
    """
    counted = scores >= 0
    return Detections(
        torch.where(counted[..., None], take(boxes, found), 0),
        torch.where(counted, scores, 0),
        torch.where(counted, labels.gather(1, found), NO_LABEL),
    )


def is_large(boxes: Tensor, smallest: float | None) -> Tensor:
    """Return which boxes are wider and higher than ``smallest`` pixels; None: all.

    Args:
        boxes: Of shape (N, B, 4).
        smallest: mmdet's ``min_bbox_size``.
    """
    if smallest is None or smallest < 0:
        return torch.ones_like(boxes[..., 0], dtype=torch.bool)
    return ((boxes[..., 2:] - boxes[..., :2]) > smallest).all(-1)
