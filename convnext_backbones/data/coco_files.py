"""Read, tidy and write annotation files in COCO format."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from ..io.files import write_atomically

ID = (int, str)
# How a file begins that is no plain UTF-8, which mmdet expects.
MARKS = (b'\xef\xbb\xbf', b'\xff\xfe', b'\xfe\xff')


@dataclass(frozen=True)
class CocoFile:
    """The usable entries of an annotation file.

    Attributes:
        images: Entries with an id and a file name.
        annotations: Entries of objects in a listed image and category.
        categories: Entries with an id and a name.
        is_plain: Whether mmdet can decode the text of the file.
    """

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    is_plain: bool = True
    by_image: dict[Any, list[dict[str, Any]]] = field(default_factory=dict)

    @cached_property
    def names(self) -> dict[Any, str]:
        """The names of the categories by id, in the order of the file."""
        return {category['id']: category['name'] for category in self.categories}

    @cached_property
    def used(self) -> Counter:
        """The number of annotations by the name of their category."""
        return Counter(self.names[entry['category_id']] for entry in self.annotations)


def read_coco(path: Path) -> CocoFile:
    """Read an annotation file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It has no objects in COCO format; the message ends the sentence "it ...".
    """
    raw = path.read_bytes()
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        reason = ' '.join(str(error).split())[:80]
        raise ValueError(f'cannot be read as JSON ({reason})') from None
    if not isinstance(content, dict):
        raise ValueError('has no object at its top')
    lists = {
        key: [entry for entry in value if isinstance(entry, dict)]
        for key in ('images', 'annotations', 'categories')
        if isinstance(value := content.get(key), list)
    }
    if not lists.get('images') or not lists.get('categories'):
        raise ValueError('lists no images and categories, as COCO does')
    images = [
        entry
        for entry in lists['images']
        if isinstance(entry.get('id'), ID) and isinstance(entry.get('file_name'), str)
    ]
    categories = [
        entry
        for entry in lists['categories']
        if isinstance(entry.get('id'), ID) and isinstance(entry.get('name'), str)
    ]
    listed = lists.get('annotations', [])
    if not listed:
        raise ValueError('has no annotations')
    if any('segments_info' in entry for entry in listed[:10]):
        raise ValueError('is panoptic')
    if any('caption' in entry for entry in listed[:10]):
        raise ValueError('has captions instead of objects')
    return collect(images, listed, categories, not raw.startswith(MARKS))


def collect(
    images: Sequence[dict],
    annotations: Sequence[dict],
    categories: Sequence[dict],
    is_plain: bool = True,
) -> CocoFile:
    """Return the entries of a file, with the annotations that belong to a category, by image."""
    known = {category['id'] for category in categories}
    by_image: dict[Any, list[dict]] = {entry['id']: [] for entry in images}
    kept = []
    for entry in annotations:
        image, category = entry.get('image_id'), entry.get('category_id')
        if not isinstance(image, ID) or not isinstance(category, ID):
            continue
        if image in by_image and category in known:
            by_image[image].append(entry)
            kept.append(entry)
    return CocoFile(list(images), kept, list(categories), is_plain, by_image)


def box_area(annotation: Mapping[str, Any]) -> float | None:
    """Return the area of the box of an object in square pixels; None if there is no such box."""
    box = annotation.get('bbox')
    if not isinstance(box, list) or len(box) != 4 or annotation.get('iscrowd'):
        return None
    try:
        area = float(box[2]) * float(box[3])
    except (TypeError, ValueError, OverflowError):
        return None
    return area if isfinite(area) and area > 0 else None


def tidy(file: CocoFile, classes: Sequence[str], names: Mapping[str, str]) -> CocoFile:
    """Return a file with the same images and objects that mmdet reads.

    Args:
        file: The file; its entries are not changed.
        classes: The names of the categories to keep; they are numbered from 1 in this order.
        names: The file names to write, by those of the file; other images are left out.
    """
    ids = {name: number for number, name in enumerate(classes, 1)}
    images = [
        entry | dict(file_name=names[entry['file_name']])
        for entry in file.images
        if entry['file_name'] in names
    ]
    kept = {entry['id'] for entry in images}
    annotations = [
        entry | dict(category_id=ids[file.names[entry['category_id']]])
        for entry in file.annotations
        if entry['image_id'] in kept and file.names[entry['category_id']] in ids
    ]
    # The evaluation takes an object of number 0 for a missing one, and numbers twice for the same.
    numbers = [entry.get('id') for entry in annotations]
    whole = all(type(number) is int and number > 0 for number in numbers)
    if not whole or len(set(numbers)) < len(numbers):
        annotations = [entry | dict(id=number) for number, entry in enumerate(annotations, 1)]
    categories = [dict(id=number, name=name) for name, number in ids.items()]
    return collect(images, annotations, categories)


def write_coco(path: Path, file: CocoFile) -> None:
    """Write an annotation file; a folder that is missing is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = dict(images=file.images, annotations=file.annotations, categories=file.categories)
    write_atomically(path, json.dumps(content, separators=(',', ':')))
