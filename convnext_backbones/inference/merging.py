"""Detections of overlapping tiles become detections of the image.

What is cut by the border of a tile, and lies whole or at least less cut in another tile, is left
to that tile. Of the rest, two detections of a class from different tiles are the same object if
they agree on the part of the image that both tiles show. The same object is taken from the tile
that shows it whole; if none does, because it is larger than the overlap, its parts are joined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .cropped_masks import CroppedMask, union
from .tiles import Tile

# Intersection over union, in the part that two tiles show, from which on two are one object.
AGREEMENT = 0.5
# A box that ends so close to the border of its tile counts as cut by it: pixels, or a share of the
# side of the box, because the sides of large boxes are less exact.
CUT_PIXELS, CUT_SHARE = 4.0, 0.05


@dataclass(frozen=True)
class Detection:
    """An object that a detector found.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the image, float64.
        score: Of the detector.
        label: Index of the class.
        mask: None for detectors without masks, and for empty masks.
    """

    box: np.ndarray
    score: float
    label: int
    mask: CroppedMask | None = None


def merge(tiles: Sequence[Tile], found: Sequence[Sequence[Detection]]) -> list[Detection]:
    """Return the objects of an image, those with the highest scores first.

    Args:
        tiles: Of the image.
        found: The detections of each tile, in coordinates of the image.

    Returns:
        Each object once.
    """
    pairs = list(_overlapping(tiles))
    neighbours: list[list[Tile]] = [[] for _ in tiles]
    for i, j in pairs:
        neighbours[i].append(tiles[j])
        neighbours[j].append(tiles[i])
    kept = [
        [one for one in detections if not _is_seen_better(one.box, tiles[i], neighbours[i])]
        for i, detections in enumerate(found)
    ]
    # Of each detection: the tile, and the place in its list.
    places = [(i, j) for i, detections in enumerate(kept) for j in range(len(detections))]
    first = np.cumsum([0, *map(len, kept)])
    parents = list(range(len(places)))
    for i, j in pairs:
        for a, b in _same_objects(kept[i], kept[j], tiles[i], tiles[j]):
            _join(parents, int(first[i]) + a, int(first[j]) + b)
    groups: dict[int, list[int]] = {}
    for index in range(len(places)):
        groups.setdefault(_root(parents, index), []).append(index)
    objects = []
    for members in groups.values():
        parts = [(kept[i][j], tiles[i]) for i, j in (places[index] for index in members)]
        whole = [one for one, tile in parts if not _cut_sides(one.box, tile).any()]
        objects.append(_best(whole) if whole else _joined([one for one, _ in parts]))
    return sorted(objects, key=lambda one: (-one.score, one.label, *one.box))


def _cut_sides(box: np.ndarray, tile: Tile) -> np.ndarray:
    """Return whether each side of a box (x1, y1, x2, y2) lies at an inner border of the tile."""
    width, height = box[2:] - box[:2]
    reach = np.maximum(CUT_PIXELS, CUT_SHARE * np.array([width, height, width, height]))
    return np.array(tile.inner) & (np.abs(box - tile.box) <= reach)


def _is_seen_better(box: np.ndarray, tile: Tile, neighbours: Sequence[Tile]) -> bool:
    """Whether a neighbour shows all that this one shows of a box, and more of its object."""
    cut = _cut_sides(box, tile)
    if not cut.any():
        return False
    for other in neighbours:
        if (box[:2] >= other.box[:2]).all() and (box[2:] <= other.box[2:]).all():
            others = _cut_sides(box, other)
            if (others <= cut).all() and (others < cut).any():
                return True
    return False


def _overlapping(tiles: Sequence[Tile]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of tiles that share pixels."""
    boxes = np.array([tile.box for tile in tiles])
    for i, box in enumerate(boxes):
        later = boxes[i + 1 :]
        shares = (np.minimum(later[:, 2:], box[2:]) > np.maximum(later[:, :2], box[:2])).all(1)
        yield from ((i, i + 1 + int(j)) for j in shares.nonzero()[0])


def _same_objects(
    one: Sequence[Detection], other: Sequence[Detection], tile: Tile, other_tile: Tile
) -> Iterator[tuple[int, int]]:
    """Yield the pairs of detections of two tiles that are the same object."""
    shared = np.concatenate(
        [np.maximum(tile.box[:2], other_tile.box[:2]), np.minimum(tile.box[2:], other_tile.box[2:])]
    )
    ours, theirs = _clipped(one, shared), _clipped(other, shared)
    if not ours.any() or not theirs.any():
        return
    corners = (
        np.minimum(ours[:, None, 2:], theirs[None, :, 2:]),
        np.maximum(ours[:, None, :2], theirs[None, :, :2]),
    )
    overlaps = (corners[0] - corners[1]).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (ours, theirs)]
    for a, b in zip(*overlaps.nonzero(), strict=True):
        first, second = one[a], other[b]
        if first.label != second.label:
            continue
        if first.mask and second.mask:
            agreement = _agreement_of_masks(first.mask, second.mask, shared)
        else:
            smaller = min(areas[0][a], areas[1][b])
            both_cut = (
                _cut_sides(first.box, tile).any() and _cut_sides(second.box, other_tile).any()
            )
            # The boxes of two parts need not end at the same height, but one contains the other.
            whole = smaller if both_cut else areas[0][a] + areas[1][b] - overlaps[a, b]
            agreement = overlaps[a, b] / whole
        if agreement >= AGREEMENT:
            yield int(a), int(b)


def _clipped(detections: Sequence[Detection], window: np.ndarray) -> np.ndarray:
    """Return the boxes of detections within a window, (n, 4); empty ones are zero."""
    boxes = np.array([one.box for one in detections]).reshape(-1, 4)
    low, high = np.maximum(boxes[:, :2], window[:2]), np.minimum(boxes[:, 2:], window[2:])
    return np.where((high > low).all(1)[:, None], np.concatenate([low, high], 1), 0)


def _agreement_of_masks(one: CroppedMask, other: CroppedMask, window: np.ndarray) -> float:
    """Return the intersection over union of two masks within a window (x1, y1, x2, y2)."""
    left, top, right, bottom = window.astype(int).tolist()
    top, left = max(top, min(one.top, other.top)), max(left, min(one.left, other.left))
    bottom = min(bottom, max(one.top + one.height, other.top + other.height))
    right = min(right, max(one.left + one.width, other.left + other.width))
    if top >= bottom or left >= right:
        return 0.0
    first, second = (mask.within(top, left, bottom, right) for mask in (one, other))
    either = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / either if either else 0.0


def _best(detections: Sequence[Detection]) -> Detection:
    return max(detections, key=lambda one: one.score)


def _joined(detections: Sequence[Detection]) -> Detection:
    """Return the object that detections show parts of."""
    best = _best(detections)
    if len(detections) == 1:
        return best
    boxes = np.array([one.box for one in detections])
    masks = [one.mask for one in detections if one.mask]
    box = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    return Detection(box, best.score, best.label, union(masks) if masks else None)


def _root(parents: list[int], index: int) -> int:
    """Return the first member of the group of ``index``, and shorten the way to it."""
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _join(parents: list[int], one: int, other: int) -> None:
    """Make two groups one."""
    roots = sorted((_root(parents, one), _root(parents, other)))
    parents[roots[1]] = roots[0]
