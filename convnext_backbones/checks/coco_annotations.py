"""Check the annotations of a COCO file: boxes, polygons and run-length encoded masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from .findings import ERROR, WARNING, Kind

SLACK = 1  # pixels by which annotators may draw over the edge
NUMBER = (int, float)
ID = (int, str)
IMAGE_KEYS = {'id': ID, 'file_name': str, 'width': NUMBER, 'height': NUMBER}
ANNOTATION_KEYS = {'id': ID, 'image_id': ID, 'category_id': ID, 'area': NUMBER}
CATEGORY_KEYS = {'id': ID, 'name': str}
IN_PIXELS = 'correct or delete them; bbox is [x, y, width, height] in pixels, not two corners'
WITHOUT_KEYS = Kind(
    ERROR,
    'annotations without an id, image_id or category_id, a number as area, or four as bbox',
    'give each of them all five',
)
ID_TWICE = Kind(
    ERROR, 'annotations with the id of another, which mmdet refuses', 'number them anew'
)
UNKNOWN_IMAGE = Kind(ERROR, 'annotations of images that are not listed', 'list them as images')
UNKNOWN_CATEGORY = Kind(
    ERROR, 'annotations of categories that are not listed', 'list them as categories'
)
NO_AREA = Kind(WARNING, 'boxes without area, or below one pixel, which mmdet leaves out', IN_PIXELS)
OUTSIDE = Kind(ERROR, 'boxes outside their image, which mmdet leaves out', IN_PIXELS)
BEYOND = Kind(WARNING, 'boxes that reach beyond their image', IN_PIXELS)
NO_MASK = Kind(
    ERROR,
    'annotations without a segmentation, at which loading masks fails',
    'add it, or train a detector without masks',
)
NOT_A_MASK = Kind(
    ERROR,
    'segmentations that are neither lists of polygons nor RLE',
    'write [[x1, y1, x2, y2, ...], ...] of finite numbers, or dict(size=..., counts=...)',
)
SHORT_POLYGON = Kind(
    WARNING,
    'polygons of less than three points, or with half a point, which mmdet leaves out',
    'correct or delete them',
)
FLAT_POLYGON = Kind(WARNING, 'polygons without area', 'correct or delete them')
FAR_POLYGON = Kind(
    WARNING, 'polygons that reach beyond their image', 'clip them; x comes before y, in pixels'
)
RLE_SIZE = Kind(
    ERROR, 'RLE of another size than its image', 'encode it again; size is [height, width]'
)
BROKEN_RLE = Kind(
    ERROR, 'RLE whose counts do not make up its size', 'encode it again with pycocotools'
)


@dataclass(frozen=True)
class ListedImage:
    """An image of an annotation file.

    Attributes:
        path: As mmdet opens it.
        width: As listed.
        height: As listed.
        there: Whether the file exists, in the data root.
    """

    path: str
    width: float
    height: float
    there: bool


def annotation_problems(
    annotations: Iterable[dict],
    images: Mapping[object, ListedImage],
    categories: Mapping[object, str],
    masks: bool,
) -> Iterator[tuple[Kind, str]]:
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
        problem = _box_problem(annotation, image)
        if problem is not None:
            yield problem, place
        if masks and problem not in (NO_AREA, OUTSIDE):
            for kind in {*_mask_problems(annotation.get('segmentation'), image)}:
                yield kind, place


def has(entry: dict, keys: Mapping[str, type | tuple[type, ...]]) -> bool:
    return all(isinstance(entry.get(key), kind) for key, kind in keys.items())


def is_complete(annotation: dict) -> bool:
    box = annotation.get('bbox')
    four = isinstance(box, list) and len(box) == 4 and _are_finite(box)
    return four and has(annotation, ANNOTATION_KEYS)


def _are_finite(numbers: Iterable) -> bool:
    """Whether all are numbers, none of them NaN or infinite."""
    try:
        return isfinite(sum(numbers))
    except (TypeError, OverflowError):
        return False


def _box_problem(annotation: dict, image: ListedImage) -> Kind | None:
    x, y, width, height = annotation['bbox']
    if width < 1 or height < 1 or annotation['area'] <= 0:
        return NO_AREA
    if x >= image.width or y >= image.height or x + width <= 0 or y + height <= 0:
        return OUTSIDE
    return BEYOND if _reach_beyond((x, x + width), (y, y + height), image) else None


def _reach_beyond(xs: Sequence[float], ys: Sequence[float], image: ListedImage) -> bool:
    return (
        min(xs) < -SLACK
        or min(ys) < -SLACK
        or max(xs) > image.width + SLACK
        or max(ys) > image.height + SLACK
    )


def _mask_problems(segmentation, image: ListedImage) -> Iterator[Kind]:
    if not segmentation:
        yield NO_MASK
    elif isinstance(segmentation, dict):
        if segmentation.get('size') != [image.height, image.width]:
            yield RLE_SIZE
        elif not _makes_up_size(segmentation):
            yield BROKEN_RLE
    elif not isinstance(segmentation, list):
        yield NOT_A_MASK
    else:
        for polygon in segmentation:
            if not isinstance(polygon, list) or not _are_finite(polygon):
                yield NOT_A_MASK
            elif len(polygon) < 6 or len(polygon) % 2:
                yield SHORT_POLYGON
            else:
                xs, ys = polygon[::2], polygon[1::2]
                if min(xs) == max(xs) or min(ys) == max(ys):
                    yield FLAT_POLYGON
                if _reach_beyond(xs, ys, image):
                    yield FAR_POLYGON


def _makes_up_size(rle: dict) -> bool:
    """Whether the counts of an RLE are run lengths whose sum is the number of pixels.

    pycocotools takes others too: it returns what its memory happens to hold, or crashes.
    """
    counts = rle.get('counts')
    if isinstance(counts, str):
        counts = _run_lengths(counts)
    height, width = rle['size']
    return (
        isinstance(counts, list)
        and _are_finite(counts)
        and min(counts, default=-1) >= 0
        and sum(counts) == height * width
    )


def _run_lengths(text: str) -> list[int] | None:
    """The counts of compressed RLE; None if the text is none.

    A character holds five bits, the lowest come first, and a sixth if more follow. The last of
    them is the sign. From the fourth on, numbers are differences to the one before the last.
    """
    counts, number, shift = [], 0, 0
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
