"""Bring segmentations into the form of COCO and into their image; measure masks.

What pycocotools and mmdet take needs no change: an open or a closed polygon, compressed and
uncompressed RLE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import floor, isfinite, nan
from operator import ge, le
from typing import Any

from .coco_annotations import (
    ListedImage,
    adds_up,
    are_finite,
    mask_problems,
    polygon_area,
    polygon_box,
)

NESTED = 'polygons written as [[x1, y1, x2, y2, ...], ...]'
TEXT = 'numbers in polygons written as numbers, not as text'
CLIPPED = 'polygons cut at the edge of their image'
UNREADABLE_POINTS = 'points that are no finite numbers left out of polygons'
HALF_POINT = 'half a point at the end of polygons left out'
DROPPED = 'polygons without area or of less than three points left out'
RLE_FORM = 'RLE written with a size of [height, width] and runs of integers'
LARGEST = 2**16  # sides of images up to which masks are drawn, which takes memory
Point = tuple[float, float]


def repair_segmentation(segmentation: Any, image: ListedImage) -> tuple[Any, str]:
    """Return a segmentation that has no problem, and what was done to it.

    Args:
        segmentation: Of an annotation.
        image: Its image, whose size is right.

    Returns:
        The segmentation, with nothing done to it if it is right or cannot be understood; ``[]`` if
        no polygon of it is left.
    """
    if next(mask_problems(segmentation, image), None) is None and not _has_floats(segmentation):
        return segmentation, ''
    if isinstance(segmentation, list) and len(segmentation) == 1:
        (only,) = segmentation
        segmentation = only if isinstance(only, dict) else segmentation
    if isinstance(segmentation, dict):
        encoded = _repair_rle(segmentation, image)
        return (encoded, RLE_FORM) if encoded else (segmentation, '')
    if isinstance(segmentation, list) and segmentation:
        polygons = _unnested(segmentation)
        if polygons is not None:
            return _repair_polygons(polygons, image, NESTED if polygons != segmentation else '')
    return segmentation, ''


def mask_box(segmentation: Any) -> list[float] | None:
    """Return ``[x, y, width, height]`` around a segmentation without problems; None if empty."""
    if isinstance(segmentation, list):
        return polygon_box(segmentation)
    from pycocotools import mask

    box = mask.toBbox(_encoded(segmentation)).tolist()
    return box if box[2] and box[3] else None


def mask_area(segmentation: Any, image: ListedImage) -> float:
    """Return the area of a segmentation without problems, in pixels."""
    from pycocotools import mask

    if isinstance(segmentation, dict):
        return int(mask.area(_encoded(segmentation)))
    if max(image.width, image.height) > LARGEST:
        return polygon_area(segmentation)
    size = floor(image.height), floor(image.width)
    area = int(mask.area(mask.merge(mask.frPyObjects(segmentation, *size))))
    return area or polygon_area(segmentation)  # thinner than the centers of pixels


def _encoded(rle: dict) -> dict:
    """Return a compressed RLE."""
    from pycocotools import mask

    return mask.frPyObjects(rle, *rle['size']) if isinstance(rle['counts'], list) else rle


# --- run-length encodings -------------------------------------------------------------------


def _has_floats(segmentation: Any) -> bool:
    """Whether runs are floats, at which the fast evaluation fails."""
    counts = segmentation.get('counts') if isinstance(segmentation, dict) else None
    return isinstance(counts, list) and not all(type(run) is int for run in counts)


def _repair_rle(rle: dict, image: ListedImage) -> dict | None:
    """Return an RLE whose runs fill its image; None if they do not."""
    counts, size = rle.get('counts'), rle.get('size', [image.height, image.width])
    if size != [image.height, image.width]:
        return None
    if isinstance(counts, str) and counts[:2] in ("b'", 'b"'):
        counts = counts[2:-1].replace('\\\\', '\\')  # Python's spelling of bytes
    elif isinstance(counts, list):
        if not are_finite(counts) or any(run != floor(run) for run in counts):
            return None
        counts = [int(run) for run in counts]
    repaired = {**rle, 'size': [int(side) for side in size], 'counts': counts}
    return repaired if adds_up(repaired) else None


# --- polygons -------------------------------------------------------------------------------


def _number(value: Any) -> float:
    """Return a number that may be written as text; NaN for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return nan
    return nan if isinstance(value, bool) else value if isinstance(value, (int, float)) else number


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (int, float, str))


def _unnested(segmentation: list) -> list[list] | None:
    """Return polygons as flat lists, whose values may be anything; None if there are none."""
    if all(map(_is_plain, segmentation)):
        return [segmentation]
    if not all(isinstance(part, list) for part in segmentation):
        return None
    if len(segmentation) > 2 and all(map(_is_pair, segmentation)):
        return [[value for pair in segmentation for value in pair]]
    polygons = []
    for part in segmentation:
        if part and all(map(_is_pair, part)):
            part = [value for pair in part for value in pair]
        if not all(map(_is_plain, part)):
            return None
        polygons.append(part)
    return polygons


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_plain, value))


def _repair_polygons(polygons: list[list], image: ListedImage, done: str) -> tuple[list, str]:
    """Return the polygons that have an area in the image, and what was done to them."""
    steps = [done] if done else []
    repaired = []
    for polygon in polygons:
        right, step = _repair_polygon(polygon, image)
        steps += step
        if right:
            repaired.append(right)
    return repaired, '; '.join(dict.fromkeys(steps))


def _repair_polygon(polygon: list, image: ListedImage) -> tuple[list[float], list[str]]:
    """Return a polygon, empty if nothing is left of it, and what was done."""
    steps = []
    values = [_number(value) for value in polygon]
    if len(values) % 2:
        steps.append(HALF_POINT)
        values.pop()
    points = [*zip(values[::2], values[1::2], strict=True)]
    finite = [(x, y) for x, y in points if isfinite(x) and isfinite(y)]
    if len(finite) < len(points):
        steps.append(UNREADABLE_POINTS)
    if any(isinstance(value, str) for value in polygon):
        steps.append(TEXT)
    flat = [value for point in finite for value in point]
    if not _has_area(flat):
        return [], [*steps, DROPPED]
    if next(mask_problems([flat], image), None):
        steps.append(CLIPPED)
        flat = [value for point in clip(finite, image.width, image.height) for value in point]
    right = are_finite(flat) and _has_area(flat)
    return (flat, steps) if right else ([], [*steps, DROPPED])


def _has_area(polygon: Sequence[float]) -> bool:
    """Whether a flat list of points spans both directions."""
    xs, ys = polygon[::2], polygon[1::2]
    return len(polygon) >= 6 and min(xs) < max(xs) and min(ys) < max(ys)


def clip(points: Sequence[Point], width: float, height: float) -> list[Point]:
    """Cut a polygon at the edges of an image.

    Each edge in turn keeps the points on its inner side and adds those where the outline crosses
    it, after Sutherland and Hodgman. Parts of a concave polygon stay joined along the edge.

    Args:
        points: The corners.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
    """
    kept = list(points)
    for axis, limit, inner in ((0, 0, ge), (0, width, le), (1, 0, ge), (1, height, le)):
        kept = list(_clip_at(kept, axis, limit, inner))
    return kept


def _clip_at(
    points: Sequence[Point], axis: int, limit: float, inner: Callable[[float, float], bool]
) -> Iterator[Point]:
    """Yield the corners of a polygon on the inner side of a line."""
    for before, point in zip((*points[-1:], *points[:-1]), points, strict=True):
        inside = inner(point[axis], limit)
        if inside != inner(before[axis], limit):
            share = (limit - before[axis]) / (point[axis] - before[axis])
            other = before[1 - axis] + share * (point[1 - axis] - before[1 - axis])
            other = round(other, 2)
            yield (limit, other) if axis == 0 else (other, limit)
        if inside:
            yield point
