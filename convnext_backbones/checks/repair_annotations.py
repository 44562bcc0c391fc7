"""Repair the objects of a COCO file: crowds, masks, boxes and areas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from typing import Any

from .coco_annotations import (
    BEYOND,
    NO_AREA,
    OUTSIDE,
    SLACK,
    ListedImage,
    are_finite,
    box_problem,
    is_area,
    is_far,
    mask_problems,
)
from .repair_changes import Log
from .repair_ids import is_id
from .repair_polygons import HALF_POINT, mask_area, mask_box, repair_segmentation

NO_CROWD = 'iscrowd written as 0 where it was missing, or 0 or 1 where it was text'
ODD_CROWD = 'iscrowd that is neither 0 nor 1; write one of them'
ALL_CROWD = (
    'iscrowd of 1 in all annotations, which are neither trained nor evaluated; write 0 if they are '
    'single objects'
)
GARBLED = 'polygons with half a point, far from their box, left out'
NO_POLYGON = 'segmentations of which nothing is left removed; the boxes remain'
CORNERS = 'boxes of two corners, as all boxes of the file are, written as [x, y, width, height]'
BOX_OF_MASK = 'boxes taken from the mask: they were missing, beyond their image or far from it'
BOX_OF_TEXT = 'numbers in boxes written as numbers, not as text'
BOX_TURNED = 'boxes of negative width or height written from their upper left corner'
BOX_CUT = 'boxes cut at the edge of their image'
AREA = 'areas computed from the mask, or without one from the box'
BROKEN_RLE = (
    'RLE whose size is not that of the image, or whose counts do not add up to it; encode it again'
)
DROP_EMPTY = 'objects without a box and without a mask left out'
DROP_FLAT = 'objects whose box has less than one pixel in their image left out'
DROP_NO_MASK = 'objects without a usable mask left out, because masks are trained or evaluated'
KEPT = 'left in although {}: more than half of all objects would go'
# Boxes from which on a single one that leaves its image tells that all are of two corners; and the
# number, and the share that has to leave, below that.
MANY_BOXES, SOME_BOXES, SHARE = 20, 5, 0.25
Box = list[float]


def repair_annotations(
    annotations: list[dict], images: Mapping[int, ListedImage], masks: bool, log: Log
) -> list[dict]:
    """Repair objects, and leave out those of which nothing can be trained.

    Args:
        annotations: With an integer as id, and ``image_id`` of one of the images; changed in place.
        images: By id, with their right sizes.
        masks: Whether masks are trained or evaluated.
        log: Gets the changes.

    Returns:
        The annotations that remain.
    """
    pictures = [
        images.get(annotation['image_id']) if is_id(annotation.get('image_id')) else None
        for annotation in annotations
    ]
    for annotation in annotations:
        _repair_crowd(annotation, log)
    if annotations and all(annotation['iscrowd'] == 1 for annotation in annotations):
        log.leave(ALL_CROWD)
    usable = [
        image is not None and _repair_mask(annotation, image, masks, log)
        for annotation, image in zip(annotations, pictures, strict=True)
    ]
    if _are_corners(annotations, pictures, usable):
        for annotation in annotations:
            box = _numbers(annotation.get('bbox'))
            if box:
                _set(annotation, 'bbox', _from_corners(box), CORNERS, log)
    reasons = [
        _repair_box_and_area(annotation, image, has_mask, masks, log) if image else ''
        for annotation, image, has_mask in zip(annotations, pictures, usable, strict=True)
    ]
    return drop(annotations, reasons, log)


def drop(annotations: list[dict], reasons: Sequence[str], log: Log) -> list[dict]:
    """Leave out annotations for a reason, unless it would take more than half of all.

    Args:
        annotations: All of the file.
        reasons: Why each goes; empty for those that stay.
        log: Gets the changes.

    Returns:
        The annotations that remain.
    """
    counts = Counter(filter(None, reasons))
    too_many = {reason for reason, count in counts.items() if 2 * count > len(annotations)}
    remaining = []
    for annotation, reason in zip(annotations, reasons, strict=True):
        place = f'annotation {annotation.get("id")}'
        if reason and reason not in too_many:
            log.change(reason, place, annotation, None)
            continue
        if reason:
            log.leave(KEPT.format(reason.removesuffix(' left out')), place)
        remaining.append(annotation)
    return remaining


def _set(annotation: dict, key: str, value: Any, kind: str, log: Log) -> None:
    log.change(kind, f'annotation {annotation["id"]}', annotation.get(key), value)
    annotation[key] = value


def _repair_crowd(annotation: dict, log: Log) -> None:
    crowd = annotation.get('iscrowd')
    if isinstance(crowd, (int, float)) and crowd in (0, 1):
        return
    if crowd is None or (isinstance(crowd, float) and isnan(crowd)):
        _set(annotation, 'iscrowd', 0, NO_CROWD, log)
    elif crowd in ('0', '1'):
        _set(annotation, 'iscrowd', int(crowd), NO_CROWD, log)
    else:
        log.leave(ODD_CROWD, f'annotation {annotation["id"]}')


def _repair_mask(annotation: dict, image: ListedImage, masks: bool, log: Log) -> bool:
    """Repair a segmentation; return whether it can be used."""
    before, box = annotation.get('segmentation'), _numbers(annotation.get('bbox'))
    after, done = repair_segmentation(before, image)
    if HALF_POINT in done and box and is_far(box, after):
        after, done = [], GARBLED  # the number that is missing is another one
    if done and not after and not masks:
        log.change(NO_POLYGON, f'annotation {annotation["id"]}', before, None)
        del annotation['segmentation']
    elif done:
        _set(annotation, 'segmentation', after, done, log)
    right = next(mask_problems(after, image), None) is None
    if isinstance(after, dict) and masks and not right:
        log.leave(BROKEN_RLE, f'annotation {annotation["id"]}')
    return right


# --- boxes and areas ------------------------------------------------------------------------


def _repair_box_and_area(
    annotation: dict, image: ListedImage, has_mask: bool, masks: bool, log: Log
) -> str:
    """Repair the box and the area of an object; return why it has to go, if it has."""
    segmentation = annotation.get('segmentation') if has_mask else None
    if masks and not has_mask and not isinstance(annotation.get('segmentation'), dict):
        return DROP_NO_MASK
    given = _numbers(annotation.get('bbox'))
    box, done = _repaired_box(given, image, segmentation)
    if box is None:
        return DROP_EMPTY
    if done:
        _set(annotation, 'bbox', box, done, log)
    elif annotation.get('bbox') != box:
        _set(annotation, 'bbox', box, BOX_OF_TEXT, log)
    if _problem(box, image) in (NO_AREA, OUTSIDE):
        return DROP_FLAT
    (area,) = _numbers([annotation.get('area')], 1) or (0,)
    if area <= 0 or not is_area(area, box, segmentation):
        area = mask_area(segmentation, image) if segmentation else box[2] * box[3]
    if annotation.get('area') != area:
        _set(annotation, 'area', area, AREA, log)
    return ''


def _repaired_box(
    given: Box | None, image: ListedImage, segmentation: Any
) -> tuple[Box | None, str]:
    """Return the box of an object, None if nothing tells it, and what was done to the given one."""
    problem = _problem(given, image) if given else NO_AREA
    if segmentation and (given is None or problem or is_far(given, segmentation)):
        around = mask_box(segmentation)
        return (given, '') if around == given else (around, BOX_OF_MASK)
    if given is None:
        return None, ''
    if given[2] < 0 or given[3] < 0:
        x, y, width, height = given
        turned = [x + min(width, 0), y + min(height, 0), abs(width), abs(height)]
        if _problem(turned, image) is None:
            return turned, BOX_TURNED
    if problem is BEYOND:
        return _cut(given, image), BOX_CUT
    return given, ''


def _cut(box: Box, image: ListedImage) -> Box:
    x, y, width, height = box
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, image.width), min(y + height, image.height)
    return [left, top, right - left, bottom - top]


def _problem(box: Box, image: ListedImage) -> Any:
    return box_problem(dict(bbox=box, area=1), image)


def _numbers(value: Any, count: int = 4) -> Box | None:
    """Return finite numbers, which may be written as text; None if there are not as many."""
    if not isinstance(value, list) or len(value) != count:
        return None
    if all(type(number) in (int, float) for number in value):
        return value if are_finite(value) else None
    try:
        numbers = [float(number) for number in value if not isinstance(number, bool)]
    except (TypeError, ValueError, OverflowError):
        return None
    whole = [int(number) if number.is_integer() else number for number in numbers]
    return whole if are_finite(numbers) and len(whole) == count else None


# --- boxes of two corners -------------------------------------------------------------------


def _from_corners(box: Box) -> Box:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]


def _are_corners(
    annotations: Sequence[dict], images: Sequence[ListedImage | None], usable: Sequence[bool]
) -> bool:
    """Whether the boxes of a file are ``[left, top, right, bottom]``, and all of them say so.

    Each has to be one within its image, and to fit its mask. And read as
    ``[x, y, width, height]``, some have to be far from their mask, or enough to leave their image.
    """
    count = beyond = 0
    by_masks = False
    for box, image, segmentation in _boxes(annotations, images, usable):
        left, top, right, bottom = box
        in_image = -SLACK <= left < right <= image.width + SLACK
        if not in_image or not -SLACK <= top < bottom <= image.height + SLACK:
            return False
        if is_far(_from_corners(box), segmentation):
            return False
        by_masks = by_masks or is_far(box, segmentation)
        beyond += left + right > image.width + SLACK or top + bottom > image.height + SLACK
        count += 1
    many = count >= MANY_BOXES or (count >= SOME_BOXES and beyond >= SHARE * count)
    return by_masks or (beyond > 0 and many)


def _boxes(
    annotations: Sequence[dict], images: Sequence[ListedImage | None], usable: Sequence[bool]
) -> Iterator[tuple[Box, ListedImage, Any]]:
    """Iterate over the boxes that are four numbers, their images, and their masks or None."""
    for annotation, image, has_mask in zip(annotations, images, usable, strict=True):
        box = _numbers(annotation.get('bbox'))
        if box and image:
            yield box, image, annotation.get('segmentation') if has_mask else None
