"""Suppression of overlapping boxes, and overlaps, in plain torch and numpy.

Indices equal those of compiled mmcv: equal scores in the order of its sort, overlaps in the type of
the boxes and in its order of operations, thresholds in float32.
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from torch import Tensor

from .sampling import single

CHUNK = 2048  # boxes whose overlaps with one another are listed at once
BLOCK = 128  # boxes that are compared with all in their reach at once; this fits into the cache


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the boxes that no better one overlaps, best first.

    Args:
        boxes: Of shape (N, 4): x1, y1, x2, y2.
        scores: Of shape (N,).
        iou_threshold: Boxes that overlap more are suppressed.
        offset: A box from x1 to x2 is x2 - x1 + offset wide: 0 or 1.
    """
    order = scores.sort(0, descending=True)[1]
    threshold = ctypes.c_float(iou_threshold).value
    sides = single(boxes)[order].T  # 4 x N
    sides = torch.cat([sides, _areas(sides, offset)[None]])
    kept = []
    left = torch.arange(len(order), device=boxes.device)
    while len(left):
        best, left = left[:CHUNK], left[CHUNK:]
        own = sides[:, best]
        best = best[_kept_in_order(len(best), *_overlapping(own, own, threshold, offset))]
        kept.append(best)
        if len(left):
            others = sides[:, left]
            alive = torch.ones(len(left), dtype=torch.bool, device=left.device)
            alive[_overlapping(sides[:, best], others, threshold, offset)[1]] = False
            left = left[alive]
    return order[torch.cat(kept)] if kept else order


def _overlapping(
    first: Tensor, second: Tensor, threshold: float, offset: int
) -> tuple[Tensor, Tensor]:
    """Return the pairs of boxes that overlap more than a threshold.

    The boxes are sorted by x1, so that each block of them is compared only with those that it can
    reach along x. This leaves little of all pairs; of boxes that mmcv moved apart by their classes,
    those of one class.

    Args:
        first: Of shape (5, M): x1, y1, x2, y2, area.
        second: Of shape (5, N).
        threshold: In IoU.
        offset: As in :func:`nms`.

    Returns:
        Indices into ``first`` and ``second``; if these are one tensor, some pairs come in one order
        only, some in both.
    """
    among = first is second
    a, b = first[0].argsort(), second[0].argsort()
    first, second = first[:, a], second[:, b]
    blocks = first.split(BLOCK, 1)
    if threshold >= 0:
        furthest = second[2].cummax(0)[0]  # no box up to this one reaches further
        low = torch.stack([block[0].min() - offset for block in blocks])
        low = low.nan_to_num(-torch.inf)  # a box that is not a number hides no other one
        high = torch.stack([block[2].max() + offset for block in blocks])
        starts = torch.searchsorted(furthest, low).tolist()
        if among:  # each pair once is enough
            starts = [number * BLOCK for number in range(len(blocks))]
        ends = torch.searchsorted(second[0].contiguous(), high, right=True).tolist()
    else:  # boxes that do not touch exceed it, too
        starts, ends = [0] * len(blocks), [second.shape[1]] * len(blocks)
    pairs = []
    for number, (block, start, end) in enumerate(zip(blocks, starts, ends, strict=True)):
        if start < end:
            over = _overlaps(block, second[:, start:end], offset) > threshold
            i, j = over.nonzero(as_tuple=True)
            pairs.append((a[i + number * BLOCK], b[j + start]))
    if not pairs:
        return a[:0], b[:0]
    firsts, seconds = zip(*pairs, strict=True)
    return torch.cat(firsts), torch.cat(seconds)


def _kept_in_order(count: int, first: Tensor, second: Tensor) -> Tensor:
    """Return which boxes stay, if each that stays suppresses those after it that it overlaps.

    Whether box i stays depends on the boxes before it alone. So if all decisions are made again
    from the previous ones, that of box i is final after i rounds at most, usually after a few.

    Args:
        count: Number of boxes, best first.
        first: Indices of boxes that overlap others.
        second: Indices of those, before or after them.
    """
    first, second = torch.minimum(first, second), torch.maximum(first, second)
    others = first != second
    first, second = first[others], second[others]
    kept = torch.ones(count, dtype=torch.bool, device=first.device)
    while True:
        previous, kept = kept, torch.ones_like(kept)
        kept[second[previous[first]]] = False
        if torch.equal(previous, kept):
            return kept


def _overlaps(first: Tensor, second: Tensor, offset: int) -> Tensor:
    """Return the intersections over unions of all pairs.

    Args:
        first: Of shape (5, M): x1, y1, x2, y2, area.
        second: Of shape (5, N).
        offset: As in :func:`nms`.

    Returns:
        Of shape (M, N); NaN for two boxes without area.
    """
    first = first[:, :, None]
    width = torch.minimum(first[2], second[2]).sub_(torch.maximum(first[0], second[0]))
    height = torch.minimum(first[3], second[3]).sub_(torch.maximum(first[1], second[1]))
    if offset:
        width, height = width.add_(offset), height.add_(offset)
    intersection = width.clamp_(min=0).mul_(height.clamp_(min=0))
    return intersection.div_((first[4] + second[4]).sub_(intersection))


def _areas(sides: Tensor, offset: int) -> Tensor:
    return (sides[2] - sides[0] + offset) * (sides[3] - sides[1] + offset)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of boxes that better ones overlap.

    Args:
        boxes: Of shape (N, 4), on the CPU.
        scores: Of shape (N,).
        dets: Of shape (N, 5), gets boxes and new scores, best first.
        iou_threshold: Boxes that overlap less keep their scores; unused by method 2.
        sigma: Of method 2.
        min_score: Boxes with lower scores are dropped.
        method: 0 drops, 1 multiplies by 1 - IoU, 2 by exp(-IoU ** 2 / sigma).
        offset: As in :func:`nms`.

    Returns:
        The indices of those that stay.
    """
    threshold, sigma, least = map(np.float32, (iou_threshold, sigma, min_score))
    sides = single(boxes).numpy().astype(np.float32)
    areas = _areas(torch.from_numpy(sides.T), offset).numpy()
    # Columns: x1, y1, x2, y2, score, area. `order` moves with the rows.
    rows = np.column_stack([sides, single(scores).numpy(), areas]).astype(np.float32)
    order = np.arange(len(rows))
    first, count = 0, len(rows)
    while first < count:
        best = first + _first_largest(rows[first:count, 4])
        rows[[first, best]], order[[first, best]] = rows[[best, first]], order[[best, first]]
        rest = rows[first + 1 : count]
        iou = _overlaps_of_one(rows[first], rest, offset)
        if method == 2:
            rest[:, 4] *= np.exp(-(iou * iou) / sigma)
        else:
            over = iou >= threshold
            rest[over, 4] *= np.float32(0) if method == 0 else 1 - iou[over]
        stays = ~(rest[:, 4] < least)
        left = int(stays.sum())
        # As the compiled one does it, which decides the order among equals: the last row that
        # stays moves into the first hole.
        holes = np.flatnonzero(~stays[:left])
        moved = left + np.flatnonzero(stays[left:])[::-1]
        rest[holes], order[first + 1 : count][holes] = rest[moved], order[first + 1 : count][moved]
        first += 1
        count = first + left
    dets[:count] = torch.from_numpy(rows[:count, :5])
    return torch.from_numpy(order[:count])


def _first_largest(scores: np.ndarray) -> int:
    """Return the place of the largest score, as comparisons with ``<`` find it among NaNs."""
    return 0 if np.isnan(scores[0]) else int(np.nanargmax(scores))


def _overlaps_of_one(one: np.ndarray, rows: np.ndarray, offset: int) -> np.ndarray:
    """Return the IoUs of a row of x1, y1, x2, y2, score, area with others."""
    size = np.minimum(one[2:4], rows[:, 2:4]) - np.maximum(one[:2], rows[:, :2])
    size = np.maximum(size + np.float32(offset), np.float32(0))
    intersection = size[:, 0] * size[:, 1]
    with np.errstate(divide='ignore', invalid='ignore'):
        return intersection / (one[5] + rows[:, 5] - intersection)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Return, for each box that no better one overlaps, its index and those that it overlaps.

    Args:
        dets: Of shape (N, 5): x1, y1, x2, y2, score; on the CPU.
        iou_threshold: Boxes that overlap as much or more belong to the better one.
    """
    sides = single(dets).T.numpy().astype(np.float32)
    rows = np.concatenate([sides, _areas(torch.from_numpy(sides), 0).numpy()[None]]).T
    left = dets[:, 4].sort(0, descending=True)[1].numpy()
    groups = []
    while len(left):
        best, left = left[0], left[1:]
        over = _overlaps_of_one(rows[best], rows[left], 0) >= np.float32(iou_threshold)
        groups.append([int(best), *left[over].tolist()])
        left = left[~over]
    return groups


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Write the overlaps of boxes into ``ious``.

    Args:
        bboxes1: Of shape (M, 4).
        bboxes2: Of shape (N, 4).
        ious: Of shape (M, N), or (M,) if ``aligned``.
        mode: 0 divides the intersection by the union, 1 by the area of the first box.
        aligned: Compare the i-th with the i-th box, not all with all.
        offset: As in :func:`nms`.
    """
    first, second = (single(boxes).unbind(1) for boxes in (bboxes1, bboxes2))
    if not aligned:
        first = tuple(side[:, None] for side in first)
    width = torch.minimum(first[2], second[2]) - torch.maximum(first[0], second[0]) + offset
    height = torch.minimum(first[3], second[3]) - torch.maximum(first[1], second[1]) + offset
    intersection = width.clamp(min=0) * height.clamp(min=0)
    area = (first[2] - first[0] + offset) * (first[3] - first[1] + offset)
    if mode == 0:
        other = (second[2] - second[0] + offset) * (second[3] - second[1] + offset)
        area = area + other - intersection
    ious.copy_(intersection / area)


OPERATORS = {
    'nms': nms,
    'softnms': softnms,
    'nms_match': nms_match,
    'bbox_overlaps': bbox_overlaps,
}
