"""Number the images, categories and annotations of a COCO file, and merge what is twice."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeGuard

from .coco_evaluation import HIGHEST_ID
from .repair_changes import Log

NUMBERED = '{} renumbered: their ids were missing, not above 0, no integers, or twice'
ID_KINDS = {'image': 'images', 'category': 'categories', 'annotation': 'annotations'}
IDS_CONFLICT = 'different {} have one id, so what belongs to which is not known; renumber them'
MERGED = '{} listed twice merged into the first'
OBJECT_TWICE = 'objects of a merged image that were there already left out'
REFERENCE = '{} followed the new ids'
Ids = dict[Any, int]  # new ids by old ones


def is_id(value: Any, lowest: int = 0) -> TypeGuard[int]:
    """Whether a value is an integer that every evaluator takes as an id."""
    return type(value) is int and lowest <= value <= HIGHEST_ID


def read_id(value: Any, lowest: int = 0) -> int | None:
    """Return the number that an id stands for, such as ``'7'`` or 7.0; None for anything else."""
    digits = isinstance(value, str) and value.isdecimal() and len(value) <= len(str(HIGHEST_ID))
    if digits or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    return value if is_id(value, lowest) else None


def number(entries: Sequence[dict], what: str, log: Log, lowest: int = 0) -> Ids:
    """Give every entry an integer as id, which no other has; what has one keeps it.

    Args:
        entries: Images, categories or annotations; changed in place.
        what: Their name, a key of ``ID_KINDS``.
        log: Gets the changes.
        lowest: The lowest allowed id.

    Returns:
        The new ids by the old ones, for references.
    """
    taken: set[int] = set()
    others = []
    ids: Ids = {}
    for entry in entries:
        old = entry.get('id')
        if is_id(old, lowest) and old not in taken:
            taken.add(old)
            ids[old] = old
        else:
            others.append(entry)
    following = max(taken, default=0) + 1
    for entry in others:
        old = entry.get('id')
        new = read_id(old, lowest)
        if new is None or new in taken:
            while following in taken:
                following += 1
            new = following
        taken.add(new)
        if isinstance(old, (str, float, int)) and not isinstance(old, bool):
            ids.setdefault(old, new)
        entry['id'] = new
        log.change(NUMBERED.format(ID_KINDS[what]), f'{what} {old}', old, new)
    return ids


def find_reference(value: Any, ids: Ids) -> int | None:
    """Return the new id of the entry that a reference means; None if there is none."""
    if isinstance(value, bool) or not isinstance(value, (str, float, int)):
        return None
    for key in (value, read_id(value), str(value)):
        if key is not None and key in ids:
            return ids[key]
    return None


def merge(
    entries: list[dict], key: Callable[[dict], Any], what: str, log: Log
) -> tuple[list[dict], dict[int, dict]]:
    """Leave out entries that are listed before.

    Args:
        entries: Images or categories.
        key: What is equal of entries that are the same; None is equal to nothing.
        what: Their name, a key of ``ID_KINDS``.
        log: Gets the changes.

    Returns:
        The entries that remain, and those that stand for the others by the ``id()`` of the latter.
    """
    first: dict[Any, dict] = {}
    remaining = []
    merged = {}
    for entry in entries:
        same = key(entry)
        if same is None or first.setdefault(same, entry) is entry:
            remaining.append(entry)
            continue
        merged[id(entry)] = first[same]
        place = f'{what} {entry.get("id")}'
        log.change(MERGED.format(ID_KINDS[what]), place, entry, first[same].get('id'))
    return remaining, merged


def have_conflicts(entries: Iterable[dict], what: str, log: Log) -> bool:
    """Note ids that several entries have, to which references may belong."""
    seen: dict[str, int] = defaultdict(int)
    for entry in entries:
        if entry.get('id') is not None:
            seen[str(entry['id'])] += 1
    twice = [name for name, count in seen.items() if count > 1]
    for name in twice:
        log.leave(IDS_CONFLICT.format(ID_KINDS[what]), f'{what} {name}')
    return bool(twice)


def without_repetitions(annotations: list[dict], images: set[int], log: Log) -> list[dict]:
    """Leave out objects that equal another one of their image.

    Args:
        annotations: All of the file.
        images: The ids of images into which others were merged.
        log: Gets the changes.
    """
    seen = set()
    remaining = []
    for annotation in annotations:
        if is_id(annotation.get('image_id')) and annotation['image_id'] in images:
            content = [annotation.get(key) for key in ('category_id', 'bbox', 'segmentation')]
            text = f'{annotation["image_id"]} {json.dumps(content)}'
            if text in seen:
                place = f'annotation {annotation.get("id")}'
                log.change(OBJECT_TWICE, place, annotation, None)
                continue
            seen.add(text)
        remaining.append(annotation)
    return remaining
