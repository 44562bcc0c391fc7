"""Describe objects that are not in a COCO file, and write them as one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..io.wording import first_names
from .coco_files import collect, write_coco
from .found import Found, Split, in_order
from .sizes import SAMPLE, Header, measure, read_header, with_objects
from .tree import Tree, folder_of, join, number_of, spread

LEAST_SIDE = 1  # pixels; mmdet skips smaller boxes
TOO_SMALL = 'object(s) below one pixel, or outside of the image'


@dataclass(frozen=True)
class Shape:
    """An object in an image, in pixels.

    Attributes:
        label: The index of its class.
        box: Left, top, width and height.
        polygon: ``x1, y1, x2, y2, ...``; empty if only the box is known.
        is_crowd: Whether it is neither to be found nor wrong to be found.
    """

    label: int
    box: tuple[float, float, float, float]
    polygon: tuple[float, ...] = ()
    is_crowd: bool = False


# Returns the objects of an image by its path in the tree and its size, and counts what is wrong.
Read = Callable[[str, Header, Counter[str]], Sequence[Shape]]


@dataclass(frozen=True)
class Objects:
    """Objects that can be read.

    Attributes:
        layout: Its name.
        classes: Their names.
        images: The images by part of the data, in the tree.
        is_annotated: Whether an image has a file of objects.
        read: Reads it.
        convert: Why mmdet cannot.
    """

    layout: str
    classes: tuple[str, ...]
    images: Mapping[str, Sequence[str]]
    is_annotated: Callable[[str], bool]
    read: Read
    convert: str


def describe_objects(tree: Tree, objects: Objects, notes: list[str]) -> Found:
    """Return detection data; sizes are those of a sample.

    Args:
        tree: The files.
        objects: What can be read.
        notes: Sentences so far.
    """
    listed = [image for images in objects.images.values() for image in images]
    statistics, unreadable = measure(tree, listed)
    shapes: list[list[Shape]] = []
    annotated = [image for image in listed if objects.is_annotated(image)]
    for image in spread(annotated, SAMPLE):
        try:
            header = read_header(tree.path(image))
        except ValueError:  # it is in the notes of the conversion
            continue
        shapes.append(_within(objects.read(image, header, Counter()), header, Counter()))
    flat = [shape for own in shapes for shape in own if not shape.is_crowd]
    found = Found(
        task='detection',
        layout=objects.layout,
        root=tree.root,
        splits=in_order(
            {
                split: Split(
                    tree.path(_common(images)),
                    tree.path(_common(images)),
                    number_of(image for image in images if objects.is_annotated(image)),
                )
                for split, images in objects.images.items()
            }
        ),
        classes=objects.classes,
        statistics=with_objects(
            statistics, [shape.box[2] * shape.box[3] for shape in flat], map(len, shapes)
        ),
        has_masks=bool(flat) and all(shape.polygon for shape in flat),
        convert=objects.convert,
        notes=(*notes, *unreadable),
    )
    return replace(found, converter=partial(_convert, tree=tree, objects=objects, found=found))


def _common(images: Sequence[str]) -> str:
    """Return the folder that holds all images, in it or below."""
    return os.path.commonpath([folder_of(image) for image in images]) if images else ''


def _convert(out: Path, tree: Tree, objects: Objects, found: Found) -> Found:
    """Write COCO files; images stay where they are."""
    problems: Counter[str] = Counter()
    splits, masks = {}, []
    for split, images in objects.images.items():
        folder = _common(images)
        entries: list[dict] = []
        annotations: list[dict] = []
        for image in images:
            try:
                header = read_header(tree.path(image))
            except ValueError:
                problems['image(s) that cannot be read'] += 1
                continue
            number = len(entries) + 1
            name = image[len(join(folder, '')) :]
            entries.append(
                dict(id=number, file_name=name, width=header.width, height=header.height)
            )
            for shape in _within(objects.read(image, header, problems), header, problems):
                masks.append(bool(shape.polygon) or shape.is_crowd)
                annotations.append(_annotation(shape, len(annotations) + 1, number))
        categories = [dict(id=n, name=name) for n, name in enumerate(objects.classes, 1)]
        path = out / f'{split}.json'
        file = collect(entries, annotations, categories)
        write_coco(path, file)
        annotated = number_of(own for own in file.by_image.values() if own)
        splits[split] = Split(tree.path(folder), path, annotated)
    notes = [f'Left out: {count:,} {what}.' for what, count in problems.items()]
    return replace(
        found,
        splits=in_order(splits),
        has_masks=bool(masks) and all(masks) and found.has_masks,
        notes=(*found.notes, *notes),
    )


def _within(shapes: Sequence[Shape], header: Header, problems: Counter[str]) -> list[Shape]:
    """Return the objects, cut to their image; those without area are counted and left out."""
    kept = []
    for shape in shapes:
        x, y, width, height = shape.box
        polygon = tuple(
            min(max(number, 0), header.height if place % 2 else header.width)
            for place, number in enumerate(shape.polygon)
        )
        if polygon:
            left, top, right, bottom = *map(min, _sides(polygon)), *map(max, _sides(polygon))
        else:
            left, top = max(x, 0), max(y, 0)
            right, bottom = min(x + width, header.width), min(y + height, header.height)
        if right - left < LEAST_SIDE or bottom - top < LEAST_SIDE:
            problems[TOO_SMALL] += 1
            continue
        box = left, top, right - left, bottom - top
        if polygon and polygon_area(polygon) <= 0:
            problems[TOO_SMALL] += 1
            continue
        kept.append(replace(shape, box=box, polygon=polygon))
    return kept


def _sides(polygon: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """Return the x and the y of a polygon."""
    return polygon[::2], polygon[1::2]


def polygon_area(polygon: Sequence[float]) -> float:
    """Return the area of a polygon ``x1, y1, x2, y2, ...``."""
    xs, ys = _sides(polygon)
    twice = sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))
    return abs(twice) / 2


def _annotation(shape: Shape, number: int, image: int) -> dict:
    """Return an object as COCO has it."""
    area = polygon_area(shape.polygon) if shape.polygon else shape.box[2] * shape.box[3]
    annotation = dict(
        id=number,
        image_id=image,
        category_id=shape.label + 1,
        bbox=[round(side, 2) for side in shape.box],
        area=round(area, 2),
        iscrowd=int(shape.is_crowd),
    )
    if shape.polygon:
        annotation['segmentation'] = [[round(side, 2) for side in shape.polygon]]
    return annotation


def missing_objects(images: Sequence[str], objects: Objects) -> str:
    """Return a sentence about images without a file of objects; empty if all have one."""
    empty = [image for image in images if not objects.is_annotated(image)]
    if not empty:
        return ''
    return (
        f'Images without a file of objects count as images without objects: {len(empty)} of '
        f'{len(images)}, {first_names(empty)}.'
    )
