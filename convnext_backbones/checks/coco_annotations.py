"""Check the annotations of a COCO file: boxes, polygons and run-length encoded masks (RLE)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from operator import mul

from .findings import ERROR, WARNING, Kind

SLACK = 1  # pixels by which annotators may draw over the edge
# The overlap (IoU) of a box with that of its mask below which they are of different objects, and
# the ratio of areas. A box around hidden parts too, and an area taken from the box, pass.
SAME_BOX, SAME_AREA = 0.3, 4
Types = type | tuple[type, ...]
NUMBER: Types = (int, float)
ID: Types = (int, str)
IMAGE_KEYS: dict[str, Types] = {'id': ID, 'file_name': str, 'width': NUMBER, 'height': NUMBER}
ANNOTATION_KEYS: dict[str, Types] = {
    'id': ID,
    'image_id': ID,
    'category_id': ID,
    'area': NUMBER,
}
CATEGORY_KEYS: dict[str, Types] = {'id': ID, 'name': str}
IN_PIXELS = 'correct or delete them; bbox is [x, y, width, height] in pixels, not two corners'
WITHOUT_KEYS = Kind(
    ERROR,
    'annotations without an id, image_id or category_id, a number as area, or four as bbox',
    'give each of them all five',
)
ID_TWICE = Kind(
    ERROR, 'annotations with the id of another, which mmdet refuses', 'renumber the annotations'
)
UNKNOWN_IMAGE = Kind(ERROR, 'annotations of images that are not listed', 'list them as images')
UNKNOWN_CATEGORY = Kind(
    ERROR, 'annotations of categories that are not listed', 'list them as categories'
)
NO_AREA = Kind(WARNING, 'boxes without area, or below one pixel, which mmdet skips', IN_PIXELS)
OUTSIDE = Kind(ERROR, 'boxes outside their image, which mmdet skips', IN_PIXELS)
BEYOND = Kind(WARNING, 'boxes that reach beyond their image', IN_PIXELS)
OTHER_BOX = Kind(
    WARNING,
    'boxes that are far from their mask',
    'correct one of the two; bbox is [x, y, width, height] in pixels, not two corners',
)
OTHER_AREA = Kind(
    WARNING,
    'areas that are far from those of the box or the mask, which sort objects by size',
    'count the pixels of the mask, or take width * height of the box',
)
NO_MASK = Kind(
    ERROR,
    'annotations without a segmentation, for which loading masks fails',
    'add it, or train a detector without masks',
)
NOT_A_MASK = Kind(
    ERROR,
    'segmentations that are neither lists of polygons nor RLE',
    'write [[x1, y1, x2, y2, ...], ...] of finite numbers, or dict(size=..., counts=...)',
)
SHORT_POLYGON = Kind(
    WARNING,
    'polygons of less than three points, or with half a point, which mmdet skips',
    'correct or delete them',
)
FLAT_POLYGON = Kind(WARNING, 'polygons without area', 'correct or delete them')
FAR_POLYGON = Kind(
    WARNING, 'polygons that reach beyond their image', 'clip them; x comes before y, in pixels'
)
RLE_SIZE = Kind(
    ERROR, 'RLE whose size is not that of its image', 'encode it again; size is [height, width]'
)
BROKEN_RLE = Kind(
    ERROR, 'RLE whose counts do not add up to its size', 'encode it again with pycocotools'
)


@dataclass(frozen=True)
class ListedImage:
    """An image of an annotation file.

    Attributes:
        path: The path that mmdet opens.
        width: In pixels, as listed.
        height: In pixels, as listed.
        exists: Whether the file exists, in the data root.
    """

    path: str
    width: float
    height: float
    exists: bool


def annotation_problems(
    annotations: Iterable[dict],
    images: Mapping[object, ListedImage],
    categories: Mapping[object, str],
    masks: bool,
) -> Iterator[tuple[Kind, str]]:
    """Yield the problems of annotations and their places.

    Args:
        annotations: Entries of the file.
        images: The images of the file by id.
        categories: The names of the categories by id.
        masks: Check the segmentations too.
    """
    ids = set()
    for annotation in annotations:
        number = annotation.get('id')
        place = f'annotation {number}'
        if not is_complete(annotation):
            yield WITHOUT_KEYS, place
            continue
        if number in ids:
            yield ID_TWICE, place
        ids.add(number)
        if annotation['category_id'] not in categories:
            yield UNKNOWN_CATEGORY, f'{place}: category {annotation["category_id"]}'
        image = images.get(annotation['image_id'])
        if image is None:
            yield UNKNOWN_IMAGE, f'{place}: image {annotation["image_id"]}'
            continue
        problem = box_problem(annotation, image)
        if problem is not None:
            yield problem, place
        if problem in (NO_AREA, OUTSIDE):
            continue
        segmentation, kinds = annotation.get('segmentation'), []
        if masks:
            # Each kind once per annotation, in a fixed order.
            kinds = [*dict.fromkeys(mask_problems(segmentation, image))]
            yield from ((kind, place) for kind in kinds)
        # A broken mask says nothing about the box.
        polygons = segmentation if masks and not kinds else None
        if problem is None and is_far(annotation['bbox'], polygons):
            yield OTHER_BOX, place
        elif problem is None and not is_area(annotation['area'], annotation['bbox'], polygons):
            yield OTHER_AREA, place


def has(entry: dict, keys: Mapping[str, Types]) -> bool:
    """Whether an entry has all keys, with values of the right types."""
    return all(isinstance(entry.get(key), types) for key, types in keys.items())


def is_complete(annotation: dict) -> bool:
    """Whether an annotation has everything that mmdet reads of it."""
    box = annotation.get('bbox')
    four = isinstance(box, list) and len(box) == 4 and are_finite(box)
    return four and has(annotation, ANNOTATION_KEYS) and are_finite([annotation['area']])


def box_problem(annotation: dict, image: ListedImage) -> Kind | None:
    """Return the problem of the box of a complete annotation, if any."""
    x, y, width, height = annotation['bbox']
    if width < 1 or height < 1 or annotation['area'] <= 0:
        return NO_AREA
    if x >= image.width or y >= image.height or x + width <= 0 or y + height <= 0:
        return OUTSIDE
    return BEYOND if _reach_beyond((x, x + width), (y, y + height), image) else None


def is_far(box: Sequence[float], segmentation: object) -> bool:
    """Whether a box is somewhere else than the polygons of its object; no for other masks.

    Args:
        box: ``[x, y, width, height]``, of finite numbers.
        segmentation: Without problems, or None.
    """
    around = polygon_box(segmentation)
    if around is None:
        return False
    if all(abs(a - b) <= 2 * SLACK for a, b in zip(box, around, strict=True)):
        return False  # tiny objects, of which one pixel more is much
    (x, y, width, height), (left, top, wide, high) = map(float, box), map(float, around)
    across = min(x + width, left + wide) - max(x, left)
    down = min(y + height, top + high) - max(y, top)
    common = max(across, 0) * max(down, 0)
    return common < SAME_BOX * (width * height + wide * high - common)


def is_area(area: float, box: Sequence[float], segmentation: object) -> bool:
    """Whether an area above 0 may be that of an object; arguments as for :func:`is_far`."""
    large, small = SAME_AREA * box[2] * box[3], polygon_area(segmentation) / SAME_AREA
    # Between an open polygon and its pixels there is up to a pixel along the outline.
    return area <= large + SAME_AREA and area + SAME_AREA >= small


def polygon_box(segmentation: object) -> list[float] | None:
    """Return ``[x, y, width, height]`` around polygons without problems; None for other masks."""
    if not isinstance(segmentation, list) or not segmentation:
        return None
    left = min(min(polygon[::2]) for polygon in segmentation)
    top = min(min(polygon[1::2]) for polygon in segmentation)
    right = max(max(polygon[::2]) for polygon in segmentation)
    bottom = max(max(polygon[1::2]) for polygon in segmentation)
    return [left, top, right - left, bottom - top]


def polygon_area(segmentation: object) -> float:
    """Return the sum of the areas of polygons without problems; 0 for other masks."""
    area = 0.0
    for polygon in segmentation if isinstance(segmentation, list) else ():
        xs, ys = [*map(float, polygon[::2])], [*map(float, polygon[1::2])]
        forth = sum(map(mul, xs, ys[1:] + ys[:1]))
        back = sum(map(mul, ys, xs[1:] + xs[:1]))
        area += abs(forth - back) / 2
    return area


def are_finite(numbers: Iterable) -> bool:
    """Whether all are numbers, none of them NaN or infinite."""
    try:
        return isfinite(sum(numbers))
    except (TypeError, OverflowError):
        return False


def _reach_beyond(xs: Sequence[float], ys: Sequence[float], image: ListedImage) -> bool:
    """Whether any point is more than the slack outside the image."""
    return (
        min(xs) < -SLACK
        or min(ys) < -SLACK
        or max(xs) > image.width + SLACK
        or max(ys) > image.height + SLACK
    )


def mask_problems(segmentation: object, image: ListedImage) -> Iterator[Kind]:
    """Yield the problems of a segmentation, a kind as often as it occurs."""
    if not segmentation:
        yield NO_MASK
    elif isinstance(segmentation, dict):
        yield from _rle_problems(segmentation, image)
    elif isinstance(segmentation, list):
        for polygon in segmentation:
            yield from _polygon_problems(polygon, image)
    else:
        yield NOT_A_MASK


def _polygon_problems(polygon: object, image: ListedImage) -> Iterator[Kind]:
    """Yield the problems of one polygon, which should be ``[x1, y1, x2, y2, ...]``."""
    if not isinstance(polygon, list) or not are_finite(polygon):
        yield NOT_A_MASK
        return
    if len(polygon) < 6 or len(polygon) % 2:
        yield SHORT_POLYGON
        return
    xs, ys = polygon[::2], polygon[1::2]
    if min(xs) == max(xs) or min(ys) == max(ys):
        yield FLAT_POLYGON
    if _reach_beyond(xs, ys, image):
        yield FAR_POLYGON


def _rle_problems(rle: dict, image: ListedImage) -> Iterator[Kind]:
    if rle.get('size') != [image.height, image.width]:
        yield RLE_SIZE
    elif not adds_up(rle):
        yield BROKEN_RLE


def adds_up(rle: dict) -> bool:
    """Whether the counts of an RLE are run lengths whose sum is the number of pixels.

    pycocotools accepts others too: it returns uninitialized memory, or crashes.
    """
    counts = rle.get('counts')
    if isinstance(counts, str):
        counts = _run_lengths(counts)
    height, width = rle['size']
    return (
        isinstance(counts, list)
        and are_finite(counts)
        and min(counts, default=-1) >= 0
        and sum(counts) == height * width
    )


def _run_lengths(text: str) -> list[int] | None:
    """Return the counts of a compressed RLE, or None if the text is not valid.

    A character holds five bits of a number, the lowest bits first, and a sixth bit that says
    whether more characters follow. The highest of the five bits of the last one is the sign. From
    the fourth number on, each is the difference to the count before the previous one.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - ord('0')
        if bits not in range(64):
            return None
        number |= (bits & 31) << shift
        shift += 5
        if bits < 32:
            sign = (bits & 16) << (shift - 4)
            counts.append(number - sign + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    return None if shift else counts
