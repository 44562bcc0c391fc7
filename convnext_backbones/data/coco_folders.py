"""Recognize folders with annotation files in COCO format, wherever tools put them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..io.wording import first_names
from .coco_files import CocoFile, box_area, read_coco, tidy, write_coco
from .found import SPLITS, Found, Split, in_order
from .image_names import Finder, best_folder, find_names
from .sizes import measure, with_objects
from .tree import Tree, folder_of, join, number_of, plural, split_of, stem

# JSON files that are read; a folder with more of them has one per image.
MOST_FILES = 40
# Names of files that hold something else about the images that `instances_...` annotate.
OTHER_KINDS = re.compile('^(captions|panoptic|stuff|person_keypoints|image_info)_')


@dataclass(frozen=True)
class Source:
    """An annotation file whose images were found.

    Attributes:
        name: The file in the tree.
        split: The part of the data that it is.
        file: Its content.
        folder: The folder of its images.
        paths: The paths of its images in the tree, by their names in the file.
        is_literal: Whether all names are paths below ``folder``.
        is_told: Whether its own name says the part.
    """

    name: str
    split: str | None
    file: CocoFile
    folder: str
    paths: Mapping[str, str]
    is_literal: bool
    is_told: bool

    @property
    def number(self) -> int:
        """How many images that exist have annotations."""
        return number_of(
            entry
            for entry in self.file.images
            if entry['file_name'] in self.paths and self.file.by_image[entry['id']]
        )


def find_coco(tree: Tree, notes: list[str]) -> Found | None:
    """Return the detection data of a folder with COCO JSONs, or None.

    Args:
        tree: The folder.
        notes: Gets sentences about files that were left aside, also if the result is None.
    """
    # labelme writes a file beside each image.
    images = {join(folder, stem(name)) for folder, names in tree.images.items() for name in names}
    names = [name for name in tree.ending('.json') if name.removesuffix('.json') not in images]
    if any(stem(name).startswith('instances_') for name in names):
        other = [name for name in names if OTHER_KINDS.match(stem(name))]
        names = [name for name in names if name not in other]
        if other:
            notes.append(f'Left aside, beside instances_*.json: {first_names(other)}.')
    if len(names) > MOST_FILES:
        notes.append(f'{len(names)} JSON files are too many to be one per part: not read.')
        return None
    sources = list(_read_sources(tree, names, notes))
    chosen = _choose(sources, notes)
    return _describe(tree, chosen, notes) if chosen else None


def _read_sources(tree: Tree, names: Iterable[str], notes: list[str]) -> Iterable[Source]:
    """Read the files that are in COCO format, and find their images."""
    finder = Finder(tree)
    for name in names:
        try:
            file = read_coco(tree.path(name))
        except (OSError, ValueError) as error:
            notes.append(f'{name} is left aside: it {error}.')
            continue
        listed = list(dict.fromkeys(entry['file_name'] for entry in file.images))
        split = split_of(name)
        folder, others = best_folder(tree, listed, split, name)
        paths, literal = find_names(tree, finder, listed, folder, split)
        if not paths:
            notes.append(
                f'{name} is left aside: none of its {plural(len(listed), "image")} is in this '
                f'folder, the first is {listed[0] if listed else "missing"!r}.'
            )
            continue
        if others and literal:
            notes.append(
                f'{name} may mean the images of {first_names([folder, *others], quoted=True)}: the '
                'first are taken.'
            )
        is_told = split is not None
        if not is_told and literal and not others:
            split = split_of(folder)
        yield Source(name, split, file, folder, paths, literal, is_told)


def _choose(sources: Sequence[Source], notes: list[str]) -> dict[str, Source]:
    """Return one file per part of the data; what is left aside is noted."""
    chosen: dict[str, Source] = {}
    named = {source.split for source in sources}
    for source in sorted(sources, key=lambda source: (not source.is_told, -source.number)):
        split = source.split
        if split is None:
            if 'train' in named:
                notes.append(f'{source.name} is left aside: its name says no part of the data.')
                continue
            split = 'train'
        if split in chosen:
            notes.append(
                f'{source.name} is left aside: {chosen[split].name} with '
                f'{plural(chosen[split].number, "annotated image")} is the {split} part; point to '
                'a sub-folder to use the other.'
            )
            continue
        chosen[split] = replace(source, split=split)
    return {split: chosen[split] for split in SPLITS if split in chosen}


def _describe(tree: Tree, sources: Mapping[str, Source], notes: list[str]) -> Found:
    first = next(iter(sources.values()))
    classes, unused = _classes(list(sources.values()))
    if unused:
        notes.append(
            f'The category {first_names(unused, quoted=True)} is left out of the classes: it is '
            'the group of the others, and no object has it.'
        )
    reason = _reason(sources, classes, unused, notes)
    annotated = [
        entry
        for source in sources.values()
        for entry in source.file.annotations
        if source.file.names[entry['category_id']] in classes
    ]
    objects = [entry for entry in annotated if not entry.get('iscrowd')]
    images = [path for source in sources.values() for path in source.paths.values()]
    statistics, unreadable = measure(tree, images)
    notes += unreadable
    counts = (
        len(entries) for source in sources.values() for entries in source.file.by_image.values()
    )
    splits = {
        split: Split(tree.path(source.folder), tree.path(source.name), source.number)
        for split, source in sources.items()
    }
    found = Found(
        task='detection',
        layout=_layout(first, tree),
        root=tree.root,
        splits=in_order(splits),
        classes=classes,
        statistics=with_objects(
            statistics, [area for area in map(box_area, objects) if area is not None], counts
        ),
        has_masks=bool(objects) and all(entry.get('segmentation') for entry in objects),
        convert=reason,
        notes=tuple(notes),
    )
    convert = partial(_convert, tree=tree, sources=sources, found=found)
    return replace(found, converter=convert) if reason else found


def _classes(sources: Sequence[Source]) -> tuple[tuple[str, ...], list[str]]:
    """Return the classes of files, in the order of the first, and names that only group others."""
    files = [source.file for source in sources]
    used: Counter = sum((file.used for file in files), Counter())
    groups = {
        category['supercategory']
        for file in files
        for category in file.categories
        if isinstance(category.get('supercategory'), str)
        and category['supercategory'] != category['name']
    }
    names = dict.fromkeys(name for file in files for name in file.names.values())
    unused = [name for name in names if not used[name] and name in groups]
    return tuple(name for name in names if name not in unused), unused


def _reason(
    sources: Mapping[str, Source],
    classes: Sequence[str],
    unused: Sequence[str],
    notes: list[str],
) -> str:
    """Return why mmdet cannot read the files as they are; empty if it can."""
    reasons: dict[str, None] = {}
    for source in sources.values():
        file = source.file
        missing = [
            entry['file_name'] for entry in file.images if entry['file_name'] not in source.paths
        ]
        if missing:
            notes.append(
                f'Left out, as they are not in this folder: {plural(len(missing), "image")} of '
                f'{len(file.images)} in {source.name}: {first_names(missing)}.'
            )
            reasons['images are listed that are not there'] = None
        elif not source.is_literal:
            reasons['file names have to be changed'] = None
        names = [category['name'] for category in file.categories]
        if len(set(names)) < len(names):
            reasons['categories have the name of another'] = None
        elif [name for name in names if name not in unused] != list(classes):
            reasons['the parts have other categories, or in another order'] = None
        if not file.is_plain:
            reasons['a file begins with a byte order mark'] = None
    return '; '.join(reasons)


def _layout(source: Source, tree: Tree) -> str:
    """Return whose layout it is, by the name of an annotation file."""
    name, folder = stem(source.name), folder_of(source.name)
    if name == '_annotations.coco':
        return 'Roboflow'
    if name == 'result' and any(path.startswith('images') for path in tree.folders):
        return 'Label Studio'
    if name == 'labels' and source.folder.rpartition('/')[2] == 'data':
        return 'FiftyOne'
    is_own = re.fullmatch('instances_(train|val|minival|test)(-dev)?(20[0-9]{2})?', name)
    if name.startswith('instances_') and folder.endswith('annotations') and not is_own:
        return 'CVAT'
    return 'COCO'


def _convert(out: Path, tree: Tree, sources: Mapping[str, Source], found: Found) -> Found:
    """Write annotation files that mmdet reads; images stay where they are."""
    splits = {}
    for split, source in sources.items():
        prefix = f'{source.folder}/' if source.folder else ''
        inside = all(path.startswith(prefix) for path in source.paths.values())
        names = {
            name: path[len(prefix) :] if inside else path for name, path in source.paths.items()
        }
        path = out / f'{split}.json'
        write_coco(path, tidy(source.file, found.classes, names))
        folder = tree.path(source.folder) if inside else tree.root
        splits[split] = replace(found.splits[split], images=folder, annotations=path)
    return replace(found, splits=splits)
