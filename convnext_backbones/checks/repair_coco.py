"""Repair a file in COCO format, as far as it and the images tell what is right."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Container, Sequence
from math import inf, isfinite
from pathlib import Path
from typing import Any

from .coco_annotations import ListedImage
from .findings import one_line
from .repair_annotations import drop, repair_annotations
from .repair_changes import Log
from .repair_ids import (
    REFERENCE,
    Ids,
    find_reference,
    have_conflicts,
    is_id,
    merge,
    number,
    without_repetitions,
)
from .repair_images import repair_names, repair_sizes
from .sources import Source

ENCODED = 'the file written in UTF-8 without a byte order mark'
NOT_FINITE = 'NaN and Infinity, which are no JSON, replaced by null'
NO_OBJECT = 'entries that are no objects left out'
NO_KEY = 'categories without a name; write it'
ORDERED = 'categories brought into the order of the classes'
ADDED = 'classes without an object listed as categories'
UNKNOWN = 'annotations of images or categories that are not listed left out'
# Longer marks first: that of UTF-16 begins that of UTF-32.
MARKS = (
    (codecs.BOM_UTF8, 'utf-8-sig'),
    (codecs.BOM_UTF32_LE, 'utf-32'),
    (codecs.BOM_UTF32_BE, 'utf-32'),
    (codecs.BOM_UTF16_LE, 'utf-16'),
    (codecs.BOM_UTF16_BE, 'utf-16'),
)
LISTS = ('images', 'annotations', 'categories')


def repair_coco(path: str, source: Source, masks: bool, thorough: bool, log: Log) -> str | None:
    """Return the text of the repaired file; None if nothing is to be repaired, or can be.

    Args:
        path: The file.
        source: A CocoDataset that has the images of the file.
        masks: Whether masks are trained or evaluated.
        thorough: Read the sizes of all images, not only those that are missing or impossible.
        log: Gets the changes.
    """
    try:
        content = _read(path, log)
        _repair(content, source, masks, thorough, log)
        return _encode(content, log) if log.changes else None
    except (OSError, ValueError) as error:
        reason = one_line(error)
    except RecursionError:
        reason = 'its lists are nested too deeply'
    log.changes.clear()
    log.leave(f'a file that cannot be read: {reason}')
    return None


def _repair(content: dict, source: Source, masks: bool, thorough: bool, log: Log) -> None:
    """Repair the content of a file in place."""
    folder = source.dataset.data_prefix.get('img') or ''
    categories = _repair_categories(content, log)
    images = _repair_images(content, source, folder, log)
    if categories is None or images is None:
        return
    annotations = content.get('annotations', [])
    number(annotations, 'annotation', log, lowest=1)
    merged = {new for old, new in images.items() if is_id(old) and new != old}
    _refer(annotations, 'image_id', images, log)
    _refer(annotations, 'category_id', categories, log)
    annotations = without_repetitions(annotations, merged, log)
    repair_sizes(content['images'], annotations, source, folder, thorough, log)
    _order_categories(content, source.classes, log)
    listed = {
        image['id']: ListedImage('', _side(image, 'width'), _side(image, 'height'), True)
        for image in content['images']
    }
    known = {category['id'] for category in content['categories']}
    reasons = [
        '' if _is_of(one, 'image_id', listed) and _is_of(one, 'category_id', known) else UNKNOWN
        for one in annotations
    ]
    annotations = drop(annotations, reasons, log)
    if 'annotations' in content:
        content['annotations'] = repair_annotations(annotations, listed, masks, log)


def _is_of(annotation: dict, key: str, ids: Container[int]) -> bool:
    """Whether a reference is an id that there is."""
    return is_id(annotation.get(key)) and annotation[key] in ids


def _side(image: dict, key: str) -> float:
    """Return the width or height of an image; infinity if it is not known."""
    side = image.get(key)
    return side if isinstance(side, int) and side > 0 else inf


# --- reading and writing --------------------------------------------------------------------


def _read(path: str, log: Log) -> dict[str, Any]:
    """Return the content of a file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not in COCO format.
    """
    text = Path(path).read_bytes()
    encoding = next((name for mark, name in MARKS if text.startswith(mark)), 'utf-8')
    if encoding != 'utf-8':
        log.change(ENCODED, '', encoding, 'utf-8')
    constants: list[str] = []

    def parse_constant(name: str) -> float:
        constants.append(name)
        return float(name)

    content = json.loads(text.decode(encoding), parse_constant=parse_constant)
    del text
    for key in LISTS:
        entries = content.get(key) if isinstance(content, dict) else None
        if entries is None and key == 'annotations' and isinstance(content, dict):
            content.pop(key, None)
            continue
        if not isinstance(entries, list):
            raise ValueError(f'expected a list of objects as {key!r}')
        content[key] = [entry for entry in entries if isinstance(entry, dict)]
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict):
                log.change(NO_OBJECT, f'{key} at index {index}', entry, None)
    if constants:
        _remove_constants(content, log)
    return content


def _encode(content: dict, log: Log) -> str:
    """Return the text of a file."""
    try:
        return json.dumps(content, allow_nan=False)
    except ValueError:  # numbers such as 1e999, which are read as infinite
        _remove_constants(content, log)
        return json.dumps(content, allow_nan=False)


def _remove_constants(content: dict, log: Log) -> None:
    """Replace NaN and infinite numbers by None, wherever they are."""
    for key, value in content.items():
        if key not in LISTS:
            content[key] = _finite(value, key, log)
            continue
        for entry in value:
            place = f'{key.removesuffix("s")} {entry.get("id")}'.replace('categorie ', 'category ')
            entry.update(_finite(entry, place, log))


def _finite(value: Any, place: str, log: Log) -> Any:
    if isinstance(value, float) and not isfinite(value):
        log.change(NOT_FINITE, place, str(value), None)
        return None
    if isinstance(value, dict):
        return {key: _finite(inner, place, log) for key, inner in value.items()}
    return [_finite(inner, place, log) for inner in value] if isinstance(value, list) else value


# --- categories, images and what refers to them ---------------------------------------------


def _repair_categories(content: dict, log: Log) -> Ids | None:
    """Number the categories and merge those of one name; return the new ids, None on conflicts."""
    categories = content['categories']
    for category in categories:
        if not isinstance(category.get('name'), str):
            log.leave(NO_KEY, f'category {category.get("id")}')
    olds = [(category.get('id'), category) for category in categories]
    remaining, merged = merge(categories, _name, 'category', log)
    if have_conflicts(remaining, 'category', log):
        return None
    content['categories'] = remaining
    ids = number(remaining, 'category', log)
    for old, category in olds:
        if id(category) in merged and isinstance(old, (int, float, str)):
            ids.setdefault(old, merged[id(category)]['id'])
    return ids


def _name(category: dict) -> str | None:
    name = category.get('name')
    return name if isinstance(name, str) else None


def _order_categories(content: dict, classes: Sequence[str], log: Log) -> None:
    """Bring the categories that are classes into their order, because mmdet numbers them in it."""
    by_name = {_name(category): category for category in content['categories']}
    known = [name for name in by_name if name in classes]
    if not known:
        return
    for name in classes:
        if name not in by_name:
            new = 1 + max(category['id'] for category in by_name.values())
            by_name[name] = dict(id=new, name=name)
            log.change(ADDED, f'category {new}', None, by_name[name])
    wanted = [name for name in classes if name in known]
    if known != wanted:
        log.change(ORDERED, '', known, wanted)
    if known != [*classes]:
        others = [one for one in content['categories'] if _name(one) not in classes]
        content['categories'] = [*(by_name[name] for name in classes), *others]


def _repair_images(content: dict, source: Source, folder: str, log: Log) -> Ids | None:
    """Number the images, find their files and merge those of one file.

    Returns:
        The new ids by the old ones; None if different images have one id.
    """

    def entry(image: dict) -> Any:
        return json.dumps([image.get('id'), image.get('file_name')])

    def file(image: dict) -> str | None:
        name = image.get('file_name')
        return os.path.normpath(os.path.join(folder, name)) if isinstance(name, str) else None

    remaining, _ = merge(content['images'], entry, 'image', log)
    if have_conflicts(remaining, 'image', log):
        return None
    ids = number(remaining, 'image', log)
    repair_names(remaining, source, folder, log)
    news = [(image['id'], image) for image in remaining]
    content['images'], merged = merge(remaining, file, 'image', log)
    targets = {new: merged[id(image)]['id'] for new, image in news if id(image) in merged}
    return {old: targets.get(new, new) for old, new in ids.items()}


def _refer(annotations: list[dict], key: str, ids: Ids, log: Log) -> None:
    """Write the new ids of images or categories into the annotations."""
    for annotation in annotations:
        old = annotation.get(key)
        new = find_reference(old, ids)
        if new is not None and (new != old or type(new) is not type(old)):
            log.change(REFERENCE.format(key), f'annotation {annotation.get("id")}', old, new)
            annotation[key] = new
