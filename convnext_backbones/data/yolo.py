"""Recognize YOLO's folders: a text file of boxes or polygons for each image."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

import yaml

from .class_files import read_lines, read_text
from .found import SPLITS, Found
from .image_names import Finder
from .objects import Objects, Shape, describe_objects, missing_objects
from .sizes import Header
from .tree import (
    SPLIT_WORDS,
    Tree,
    folder_of,
    join,
    number_of,
    plural,
    split_of,
    spread,
    stem,
    suffix,
)

MOST_YAML_BYTES = 1_000_000
MOST_TEXT_BYTES = 50_000_000
MOST_YAML_FILES = 20
SAMPLE = 20  # text files by which labels are known without data.yaml
LISTS = ('train', 'val', 'valid', 'validation', 'test')  # keys of data.yaml, names of lists
SLACK = 0.01  # by which a coordinate may leave the image
WHY = 'mmdet reads COCO files, not text files of YOLO'
NUMBER = re.compile(r'\d{1,4}(\.0*)?')


@dataclass(frozen=True)
class Description:
    """What ``data.yaml`` says.

    Attributes:
        source: The file.
        names: The classes by number.
        images: The images by part of the data.
        has_keypoints: Whether points follow the boxes.
    """

    source: str
    names: Mapping[int, str]
    images: Mapping[str, Sequence[str]]
    has_keypoints: bool = False


def find_yolo(tree: Tree, notes: list[str]) -> Found | None:
    """Return the detection data of a folder with YOLO's labels, or None.

    Args:
        tree: The folder.
        notes: Gets sentences about what was left aside, also if the result is None.
    """
    finder = Finder(tree)
    described = _described(tree, finder, notes) or _undescribed(tree, finder, notes)
    if described is None:
        return None
    listed = [image for images in described.images.values() for image in images]
    labels = {image: label for image in listed if (label := label_file(tree, image))}
    if not labels:
        notes.append(
            f'{described.source} is left aside: none of its {plural(len(listed), "image")} has a '
            'text file of objects, in labels/ or beside it.'
        )
        return None
    names = described.names or _numbered(tree, list(labels.values()))
    if not described.names:
        notes.append('No file names the classes: they have the numbers of the labels.')
    most = max(names, default=-1)
    classes = tuple(names.get(number, f'class {number}') for number in range(most + 1))
    if len(set(classes)) < len(classes):
        classes = tuple(f'{name} {number}' for number, name in enumerate(classes))
        notes.append('Names of classes are not unique: their numbers follow them.')
    if described.has_keypoints:
        notes.append('The key points are left out: only the boxes are read.')
    read = partial(
        _read, tree=tree, labels=labels, number=len(classes), points=described.has_keypoints
    )
    objects = Objects('YOLO', classes, described.images, labels.__contains__, read, WHY)
    notes += filter(None, [missing_objects(listed, objects)])
    return describe_objects(tree, objects, notes)


def label_file(tree: Tree, image: str) -> str | None:
    """Return the text file of an image: in ``labels`` beside ``images``, or beside the image."""
    bare = image.rpartition('.')[0]
    parts = bare.split('/')
    candidates = []
    if 'images' in parts[:-1]:
        place = len(parts) - 2 - parts[-2::-1].index('images')
        candidates.append('/'.join([*parts[:place], 'labels', *parts[place + 1 :]]))
    candidates += [bare, f'labels/{bare}', join(folder_of(image), f'labels/{parts[-1]}')]
    return next((f'{name}.txt' for name in candidates if f'{name}.txt' in tree.files), None)


# --- where the images are ---------------------------------------------------------------------


def _described(tree: Tree, finder: Finder, notes: list[str]) -> Description | None:
    """Return what the first YAML file says that names images."""
    for source in tree.ending('.yaml', '.yml')[:MOST_YAML_FILES]:
        try:
            content = yaml.safe_load(read_text(tree, source, MOST_YAML_BYTES))
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            reason = ' '.join(str(error).split())[:100]
            notes.append(f'{source} is left aside: it cannot be read ({reason}).')
            continue
        if not isinstance(content, dict) or not {'train', 'val', 'names'} & content.keys():
            continue
        images: dict[str, list[str]] = {}
        for key in LISTS:
            entries = content.get(key)
            for entry in entries if isinstance(entries, list) else [entries]:
                if isinstance(entry, str) and entry.strip():
                    found = _images_of(tree, finder, source, content.get('path'), entry.strip())
                    if not found:
                        notes.append(f'{source}: no images at {key}: {entry!r} in this folder.')
                    images.setdefault(SPLIT_WORDS[key], []).extend(found)
        images = {key: list(dict.fromkeys(images[key])) for key in SPLITS if images.get(key)}
        if images:
            names = _names(content.get('names'))
            return Description(source, names, images, bool(content.get('kpt_shape')))
    return None


def _names(names: Any) -> dict[int, str]:
    """Return the classes by number, from a list or a dict."""
    if isinstance(names, list):
        return {number: _name(name, number) for number, name in enumerate(names)}
    if not isinstance(names, dict):
        return {}
    return {
        int(key): _name(name, int(key))
        for key, name in names.items()
        if str(key).isdecimal() and int(key) < 10_000
    }


def _name(name: Any, number: int) -> str:
    """Return the name of a class; aliases of YAML could make a small list endless as text."""
    return str(name) if isinstance(name, (str, int, float)) else f'class {number}'


def _images_of(tree: Tree, finder: Finder, source: str, path: Any, entry: str) -> list[str]:
    """Return the images of an entry of ``data.yaml``: a folder, or a text file that lists them.

    What leads out of the folder is tried inside of it, by the ends of its path.
    """
    folder = folder_of(source)
    parts = [part for part in re.split(r'[\\/]', entry) if part not in ('', '.', '..')]
    bases = [join(folder, path)] if isinstance(path, str) else []
    places = [posixpath.normpath(join(base, entry)) for base in (*bases, folder)]
    places += [
        join(base, '/'.join(parts[start:]))
        for start in range(len(parts))
        for base in dict.fromkeys([folder, ''])
    ]
    for place in places:
        place = '' if place == '.' else place
        if place in tree.files and suffix(place) == '.txt':
            return _listed(tree, finder, place)
        if place in tree.folders:
            images = _below(tree, place)
            if images:
                return images
    return []


def _below(tree: Tree, folder: str) -> list[str]:
    """Return the images in a folder and below."""
    prefix = join(folder, '') if folder else ''
    return [
        join(own, name)
        for own, names in tree.images.items()
        if own == folder or own.startswith(prefix)
        for name in names
    ]


def _listed(tree: Tree, finder: Finder, source: str) -> list[str]:
    """Return the images that a text file lists."""
    try:
        lines = read_text(tree, source, MOST_TEXT_BYTES).splitlines()
    except (OSError, ValueError):
        return []
    names = [line.strip() for line in lines if line.strip()]
    found = []
    for name in names:
        path = posixpath.normpath(join(folder_of(source), name))
        image = path if path in tree.files else finder.find(name)
        if image:
            found.append(image)
    return found


def _undescribed(tree: Tree, finder: Finder, notes: list[str]) -> Description | None:
    """Return what folders without ``data.yaml`` hold, if their text files are labels."""
    images = [join(folder, name) for folder, names in tree.images.items() for name in names]
    labels = [label for image in images if (label := label_file(tree, image))]
    sample = spread(labels, SAMPLE)
    rows = [row for name in sample for row in _rows(tree, name)]
    if 2 * number_of(row for row in rows if _numbers(row)) <= len(rows):
        return None
    names: dict[int, str] = {}
    for source in tree.ending('.txt', '.names'):
        if re.fullmatch(r'(classes|class_?names|names)\.txt|.*\.names', source.split('/')[-1]):
            known = read_lines(source, read_text(tree, source, MOST_YAML_BYTES))
            names = dict(known.names) if known else {}
            break
    lists = [name for name in tree.ending('.txt') if stem(name) in LISTS and name not in labels]
    parts: dict[str, list[str]] = {}
    for name in lists:
        parts.setdefault(SPLIT_WORDS[stem(name)], _listed(tree, finder, name))
    if not any(parts.values()):
        annotated = {label.rpartition('.')[0].rpartition('/')[2] for label in labels}
        for image in images:
            if stem(image) in annotated or split_of(folder_of(image)):
                parts.setdefault(split_of(folder_of(image)) or 'train', []).append(image)
    notes.append('There is no data.yaml: the text files beside the images are read as YOLO labels.')
    chosen = {split: parts[split] for split in SPLITS if parts.get(split)}
    return Description('the folder', names, chosen) if chosen else None


# --- what a text file says ---------------------------------------------------------------------


def _rows(tree: Tree, name: str) -> list[str]:
    try:
        text = read_text(tree, name, MOST_YAML_BYTES)
    except (OSError, ValueError):
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def _numbers(row: str) -> list[float]:
    """Return the class and the coordinates of a row; empty if it is not one of YOLO."""
    texts = row.split()
    if len(texts) < 5 or not NUMBER.fullmatch(texts[0]):
        return []
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return []
    return numbers if all(map(isfinite, numbers)) else []


def _numbered(tree: Tree, labels: Sequence[str]) -> dict[int, str]:
    """Return names for the numbers of classes in all text files."""
    used = {
        int(numbers[0])
        for label in labels
        for row in _rows(tree, label)
        if (numbers := _numbers(row))
    }
    return {number: f'class {number}' for number in range(max(used, default=-1) + 1)}


def _read(
    image: str,
    header: Header,
    problems: Counter[str],
    tree: Tree,
    labels: Mapping[str, str],
    number: int,
    points: bool,
) -> list[Shape]:
    """Return the objects of an image; an image without a text file has none."""
    rows = _rows(tree, labels[image]) if image in labels else []
    unique = list(dict.fromkeys(rows))
    if len(unique) < len(rows):
        problems['row(s) of labels that are there twice'] += len(rows) - len(unique)
    return [shape for row in unique for shape in _shape(row, header, problems, number, points)]


def _shape(
    row: str, header: Header, problems: Counter[str], number: int, points: bool
) -> Iterator[Shape]:
    """Yield the object of a row, if it is one."""
    numbers = _numbers(row)
    if not numbers:
        problems['row(s) of labels that are no numbers of a class and coordinates'] += 1
        return
    label, places = int(numbers[0]), numbers[1:]
    if label >= number:
        problems[f'object(s) of a class beyond the {number} that are named'] += 1
        return
    if points:
        places = places[:4]
    if not all(-SLACK <= place <= 1 + SLACK for place in places):
        problems['object(s) with coordinates outside of 0 to 1'] += 1
        return
    width, height = header.width, header.height
    if len(places) == 4:
        x, y, w, h = places
        yield Shape(label, ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height))
    elif len(places) >= 6 and len(places) % 2 == 0:
        polygon = [place * (height if index % 2 else width) for index, place in enumerate(places)]
        yield Shape(label, (0, 0, width, height), tuple(polygon))
    else:
        problems['row(s) of labels with half a point, or a score'] += 1
