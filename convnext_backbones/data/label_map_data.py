"""Describe pairs of images and label maps, and write those anew that mmseg cannot read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..io.label_maps import UNLABELED, encode_label_map
from ..io.wording import first_names
from .class_files import find_classes
from .found import Found, Split, in_order
from .label_pairs import Part, endings, is_whole
from .label_values import Labels, decide, look, read_map
from .sizes import measure
from .splitting import write_names
from .tree import Tree, plural


@dataclass(frozen=True)
class Named:
    """What a layout says of its classes.

    Attributes:
        dataset: The dataset of mmseg that has their names, unless a file beside the data has some.
        table: The labels by the values in the files, which must be written anew.
        zero_is_unlabeled: Whether 0 is unlabeled.
    """

    dataset: str | None
    table: Mapping[int, int] | None = None
    zero_is_unlabeled: bool = False


def describe(
    tree: Tree, layout: str, parts: Mapping[str, Part], notes: list[str], named: Named
) -> Found | None:
    """Return the data of pairs; None if the values of the label maps say no classes.

    Args:
        tree: The files.
        layout: Its name.
        parts: The pairs by part of the data.
        notes: Gets sentences, also about why the result is None.
        named: What the layout says of its classes.
    """
    labels = _labels(tree, parts, notes, named)
    if labels is None:
        return None
    suffixes = endings(parts.values())
    if suffixes is None or not suffixes[0].startswith('.'):  # the lists have longer names
        parts = {split: replace(part, list_file=None) for split, part in parts.items()}
    reasons = [labels.convert] if labels.convert else []
    if suffixes is None:
        reasons.append('the names of images and label maps do not end alike')
    unlisted = [
        split
        for split, part in parts.items()
        if part.list_file is None and not (suffixes and is_whole(tree, part, suffixes[0]))
    ]
    if unlisted and suffixes is not None:
        reasons.append('the folders hold other images too, so the names have to be listed')
    image_suffix, label_suffix = suffixes or ('', '.png')
    statistics, unreadable = measure(
        tree, [path for part in parts.values() for path in part.image_paths()]
    )
    found = Found(
        task='segmentation',
        layout=layout,
        root=tree.root,
        splits=in_order({split: _split(tree, part) for split, part in parts.items()}),
        classes=labels.classes,
        statistics=statistics,
        image_suffix=image_suffix,
        label_suffix=label_suffix,
        reduce_zero_label=labels.reduce_zero_label,
        ignore_labels=labels.ignore_labels,
        palette=labels.palette,
        convert='; '.join(reasons),
        notes=(*notes, *unreadable),
    )
    if not reasons:
        return found
    convert = partial(_convert, tree=tree, parts=parts, labels=labels, found=found)
    return replace(found, converter=convert)


def _split(tree: Tree, part: Part) -> Split:
    return Split(
        tree.path(part.images),
        tree.path(part.labels),
        len(part.pairs),
        tree.path(part.list_file) if part.list_file else None,
    )


def _labels(tree: Tree, parts: Mapping[str, Part], notes: list[str], named: Named) -> Labels | None:
    """Return what the values of the label maps mean."""
    folders = [folder for part in parts.values() for folder in (part.labels, part.images)]
    known = find_classes(tree, folders, notes)
    theirs = _names_of(named.dataset) if known is None else None
    if named.table is not None and theirs:
        names, palette = theirs
        return Labels(names, palette, table=named.table, convert='the labels are not those trained')
    seen = look(tree, [path for part in parts.values() for path in part.label_paths()], notes)
    if seen is None:
        return None
    if theirs and not seen.in_color:
        names, palette = theirs
        start = 1 if named.zero_is_unlabeled else 0
        if all(value < len(names) + start or value == UNLABELED for value in seen.values):
            return Labels(names, palette, named.zero_is_unlabeled)
    return decide(seen, known, notes, named.zero_is_unlabeled)


def _names_of(dataset: str | None) -> tuple[tuple[str, ...], tuple] | None:
    """Return the classes and colors of a dataset of mmseg; None if there is none."""
    if dataset is None:
        return None
    try:
        from mmseg import datasets
    except ImportError:
        return None
    known = getattr(datasets, dataset).METAINFO
    return tuple(known['classes']), tuple(tuple(color) for color in known['palette'])


def _convert(
    out: Path, tree: Tree, parts: Mapping[str, Part], labels: Labels, found: Found
) -> Found:
    """Write label maps and lists of names; images, and maps that may stay, stay where they are."""
    written = labels.table is not None or endings(parts.values()) is None
    splits: dict[str, Split] = {}
    strange, unreadable = 0, []
    for split, part in parts.items():
        names = [
            image.removesuffix(found.image_suffix) if found.image_suffix else image
            for image, _ in part.pairs
        ]
        folder, kept = tree.path(part.labels), names
        if written:
            folder, kept = out / 'labels' / (split if len(parts) > 1 else ''), []
            for name, path in zip(names, part.label_paths(), strict=True):
                try:
                    strange += _write(tree.path(path), folder / f'{name}.png', labels)
                except ValueError as error:
                    unreadable.append(str(error))
                else:
                    kept.append(name)
        list_file = tree.path(part.list_file) if part.list_file else out / f'{split}.txt'
        if part.list_file is None or len(kept) < len(names):
            list_file = out / f'{split}.txt'
            write_names(list_file, kept)
        if kept:
            splits[split] = Split(tree.path(part.images), folder, len(kept), list_file)
    notes = [*found.notes]
    if strange:
        where = plural(strange, 'label map')
        notes.append(f'Values that no class has became 255, unlabeled, in {where}.')
    if unreadable:
        where = plural(len(unreadable), 'label map')
        notes.append(f'Left out, as they cannot be read: {where}: {first_names(unreadable, 1)}.')
    suffix = '.png' if written else found.label_suffix
    return replace(found, splits=in_order(splits), label_suffix=suffix, notes=tuple(notes))


def _write(source: Path, target: Path, labels: Labels) -> bool:
    """Write a label map with other values; return whether it had some that no class has."""
    pixels = read_map(source, labels.through_palette)
    strange = False
    if labels.table is not None:
        values, places = np.unique(pixels, return_inverse=True)
        if not labels.in_color and values[-1] > 0xFFFF:
            values = values & 0xFF  # three equal channels
        known = {*labels.table, 0, UNLABELED}
        strange = not known.issuperset(values.tolist())
        written = [labels.table.get(value, UNLABELED) for value in values.tolist()]
        pixels = np.array(written)[places].reshape(pixels.shape)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(encode_label_map(pixels).tobytes())
    return strange
