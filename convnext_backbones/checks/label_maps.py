"""The check of the label maps of a segmentation dataset, and of the images that they belong to.

A label out of range ends a training on a GPU with an assertion that does not name the file, and a
label taken for another by ``reduce_zero_label`` with a class that is never learned.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial

from mmengine.dataset import BaseDataset
from PIL import Image

from ..config.errors import config_errors
from ..config.walk import transform_name
from .findings import ERROR, WARNING, Finding, Kind, group, several, spell
from .sources import (
    LEAVES_ROOT,
    Listing,
    Picture,
    Source,
    choose,
    in_parallel,
    open_image,
    open_label_map,
)

UNLABELLED = 255  # what reduce_zero_label makes of 0, and mmseg of classes that are not wanted
MISSING_MAP = Kind(
    ERROR, 'label maps that are not there', 'check data_prefix.seg_map_path and seg_map_suffix'
)
OTHER_SIZE = Kind(
    ERROR,
    'label maps of another size than their image, as it is loaded',
    'save both at one size, the image without EXIF orientation',
)
IN_COLOR = Kind(
    ERROR,
    'label maps of several channels',
    'save one channel, or a palette, with the number of the class of every pixel',
)
UNREADABLE_MAP = Kind(ERROR, 'label maps that cannot be read', 'save them again')
Pair = tuple[str, str | None]  # the paths of an image and of its label map, if that is loaded


def check_label_maps(
    source: Source, ignored: frozenset[int], thorough: bool
) -> Generator[Finding, None, set[str]]:
    """Check the images and label maps of a dataset.

    Args:
        source: A BaseSegDataset.
        ignored: Labels that the losses leave out.
        thorough: Open all files.

    Returns:
        The absolute paths of the images, for ``yield from``.
    """
    dataset = source.dataset
    where = dataset.ann_file or dataset.data_prefix.get('img_path') or source.place
    try:
        with config_errors():
            entries = dataset.load_data_list()
    except (FileNotFoundError, ValueError) as error:
        yield Finding(
            ERROR,
            f'images that cannot be listed: {error}',
            where,
            f'check data_root, data_prefix and ann_file of {source.place}',
        )
        return set()
    if not entries:
        yield Finding(
            ERROR,
            f'no image whose name ends in {dataset.img_suffix!r}',
            where,
            f'check data_prefix and img_suffix of {source.place}',
        )
        return set()
    yield from _check_suffixes(dataset, where)
    yield from _check_pipeline(source)
    pairs, problems = _list_pairs(entries, source)
    yield from group(problems, where)
    chosen = choose(pairs, thorough)
    read = partial(
        _open_pair,
        loaders=[source.transform(name) for name in ('LoadImageFromFile', 'LoadAnnotations')],
    )
    pictures = [*in_parallel(read, chosen, source.split, thorough)]
    yield from group(_pair_faults(chosen, pictures, source), where)
    if source.classes:
        yield from _check_labels(source, where, chosen, pictures, ignored, thorough)
    return {os.path.abspath(image) for image, _ in pairs}


def _check_suffixes(dataset: BaseDataset, where: str) -> Iterator[Finding]:
    """Images beside those of the dataset that another suffix excludes."""
    if dataset.ann_file:
        return
    own = [dataset.img_suffix]
    if dataset.data_prefix.get('seg_map_path') == where:  # label maps lie beside the images
        own.append(dataset.seg_map_suffix)
    others = sorted(
        name
        for name in os.listdir(where)
        if os.path.splitext(name)[1].lower() in Image.registered_extensions()
        and not name.endswith(tuple(own))
    )
    if others:
        kind = Kind(
            WARNING,
            f'images whose names do not end in {dataset.img_suffix!r}, which are left out',
            'convert or rename them if they are wanted',
        )
        yield several(kind, where, others)


def _check_pipeline(source: Source) -> Iterator[Finding]:
    own = source.dataset.reduce_zero_label
    for transform in source.transforms:
        if transform.get('reduce_zero_label') not in (None, own):
            yield Finding(
                ERROR,
                f'{transform_name(transform)} with reduce_zero_label='
                f'{transform["reduce_zero_label"]} and a dataset with {own}, which mmseg refuses',
                f'{source.place}.pipeline',
                'set it in the dataset alone',
            )


def _list_pairs(
    entries: Iterable[dict], source: Source
) -> tuple[list[Pair], list[tuple[Kind, str]]]:
    """The pairs of which both files are there, and what is wrong with the others."""
    annotated = any('Annotation' in transform_name(transform) for transform in source.transforms)
    prefixes = source.dataset.data_prefix
    missing, _ = source.image_faults
    pairs, problems, listing = [], [], Listing()
    for entry in entries:
        image = entry['img_path']
        label_map = entry.get('seg_map_path') if annotated else None
        problem = None
        if source.leads_out(image, prefixes['img_path']):
            problem = LEAVES_ROOT, image
        elif image not in listing:
            problem = missing, image
        elif label_map and source.leads_out(label_map, prefixes['seg_map_path']):
            problem = LEAVES_ROOT, label_map
        elif label_map and label_map not in listing:
            problem = MISSING_MAP, label_map
        if problem:
            problems.append(problem)
        else:
            pairs.append((image, label_map))
    return pairs, problems


def _open_pair(pair: Pair, loaders: Sequence[Mapping]) -> tuple[Picture, Picture | None]:
    image, label_map = pair
    return (
        open_image(image, loaders[0]),
        open_label_map(label_map, loaders[1]) if label_map else None,
    )


def _pair_faults(
    pairs: Iterable[Pair], pictures: Iterable[tuple[Picture, Picture | None]], source: Source
) -> Iterator[tuple[Kind, str]]:
    _, unreadable = source.image_faults
    for (_, path), (image, label_map) in zip(pairs, pictures, strict=True):
        if image.error:
            yield unreadable, image.error
        if label_map is None:
            continue
        if label_map.error:
            yield UNREADABLE_MAP, label_map.error
        elif label_map.channels > 1:
            yield IN_COLOR, f'{path}: {label_map.channels} channels'
        elif not image.error and image.size != label_map.size:
            sizes = '{} x {}, the image {} x {}'.format(*label_map.size, *image.size)
            yield OTHER_SIZE, f'{path}: {sizes}'


def _check_labels(
    source: Source,
    where: str,
    pairs: Iterable[Pair],
    pictures: Iterable[tuple[Picture, Picture | None]],
    ignored: frozenset[int],
    thorough: bool,
) -> Iterator[Finding]:
    """Labels that are no class; and, where all maps were read, classes that have no pixel."""
    classes, reduced = source.classes, source.dataset.reduce_zero_label
    foreign, seen = [], set()
    for (_, path), (_, label_map) in zip(pairs, pictures, strict=True):
        labels = {value: final_label(value, source.dataset) for value in _values(label_map)}
        seen.update(labels.values())
        wrong = [v for v, label in labels.items() if label not in ignored | {*range(len(classes))}]
        if wrong:
            foreign.append(f'{path}: {spell(wrong)}')
    if foreign:
        takes = 'which makes 0 unlabeled and subtracts 1' if reduced else 'which takes 0 for one'
        kind = Kind(
            ERROR,
            f'label maps with values that are none of {len(classes)} classes, under '
            f'reduce_zero_label={reduced}, {takes}',
            f'correct classes, reduce_zero_label={not reduced} or the files; '
            f'{UNLABELLED} stands for unlabeled',
        )
        yield several(kind, where, foreign)
    absent = [name for label, name in enumerate(classes) if label not in seen]
    if absent and thorough and seen and source.split == 'train':
        kind = Kind(
            WARNING,
            f'classes without a pixel, under reduce_zero_label={reduced}',
            f'check classes and reduce_zero_label; a mask of 0 and {UNLABELLED} has no class but 0',
        )
        yield several(kind, where, absent)


def _values(label_map: Picture | None) -> Sequence[int]:
    return label_map.values if label_map else ()


def final_label(value: int, dataset: BaseDataset) -> int:
    """What mmseg makes of a value of a label map: the number of a class, or an ignored one."""
    if value not in range(256):
        return value  # mmseg would cut it to 8 bits
    if dataset.reduce_zero_label:
        value = UNLABELLED if value in (0, UNLABELLED) else value - 1
    return (dataset.label_map or {}).get(value, value)
