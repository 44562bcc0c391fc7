"""Check the label maps of a segmentation dataset, and the images that they belong to.

An out-of-range label stops GPU training without naming the file; a wrong ``reduce_zero_label``
leaves a class unlearned.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from mmengine.dataset import BaseDataset
from PIL import Image

from ..config.errors import config_errors
from ..config.labels import IGNORING
from ..config.walk import transform_name
from ..io.label_maps import UNLABELED
from ..io.wording import first_names
from .findings import ERROR, WARNING, Finding, Kind, group, one_line, several
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

MISSING_MAP = Kind(
    ERROR, 'label maps that do not exist', 'check data_prefix.seg_map_path and seg_map_suffix'
)
OTHER_SIZE = Kind(
    ERROR,
    'label maps whose size is not that of their image, as it is loaded',
    'save both at the same size, the image without EXIF orientation',
)
IN_COLOR = Kind(
    ERROR,
    'label maps with several channels',
    'save one channel, or a palette, with the class number of every pixel',
)
UNREADABLE_MAP = Kind(ERROR, 'label maps that cannot be read', 'save them again')
Pair = tuple[str, str | None]  # the paths of an image and of its label map, if that is loaded
LabelMap = tuple[str, Picture]  # its path and content


def check_label_maps(
    source: Source, ignored: frozenset[int], thorough: bool
) -> tuple[list[Finding], set[str]]:
    """Check the images and label maps of a dataset.

    Args:
        source: A BaseSegDataset.
        ignored: Labels that the losses ignore.
        thorough: Open all files, not just a sample.

    Returns:
        The findings, and the absolute paths of the images whose files exist.
    """
    dataset = source.dataset
    path = dataset.ann_file or dataset.data_prefix.get('img_path') or ''
    try:
        with config_errors():
            entries = dataset.load_data_list()
    except (FileNotFoundError, ValueError) as error:
        what = f'images that cannot be listed: {one_line(error)}'
        fix = f'check data_root, data_prefix and ann_file of {source.entry}'
        return [Finding(ERROR, what, source.entry, fix, path)], set()
    if not entries:
        what = f'no image whose name ends in {dataset.img_suffix!r}'
        fix = f'check data_prefix and img_suffix of {source.entry}'
        return [Finding(ERROR, what, source.entry, fix, path)], set()
    findings = [*_check_suffixes(source, path), *_check_pipeline(source)]
    pairs, problems = _list_pairs(entries, source)
    findings += group(problems, path, source.entry)
    chosen = choose(pairs, thorough)
    read = partial(
        _open_pair,
        loaders=[source.transform(name) for name in ('LoadImageFromFile', 'LoadAnnotations')],
    )
    pictures = list(in_parallel(read, chosen, source.split, thorough))
    findings += group(_pair_problems(chosen, pictures, source), path, source.entry)
    if source.classes:
        maps = [
            (str(pair[1]), label_map)
            for pair, (_, label_map) in zip(chosen, pictures, strict=True)
            if label_map
        ]
        findings += _check_labels(maps, source, path, ignored)
        findings += _check_absent(maps, source, path) if thorough else ()
    return findings, {os.path.abspath(image) for image, _ in pairs}


def _check_suffixes(source: Source, path: str) -> Iterator[Finding]:
    """Find images beside those of the dataset that its suffix excludes.

    Args:
        source: The dataset.
        path: Its annotation file, or its folder of images.
    """
    dataset = source.dataset
    if dataset.ann_file:
        return
    own = [dataset.img_suffix]
    if dataset.data_prefix.get('seg_map_path') == path:  # label maps lie beside the images
        own.append(dataset.seg_map_suffix)
    others = sorted(
        name
        for name in os.listdir(path or '.')
        if os.path.splitext(name)[1].lower() in Image.registered_extensions()
        and not name.endswith(tuple(own))
    )
    if others:
        kind = Kind(
            WARNING,
            f'images whose names do not end in {dataset.img_suffix!r}, which are skipped',
            'convert or rename them if they are wanted',
        )
        yield several(kind, others, source.entry, path)


def _check_pipeline(source: Source) -> Iterator[Finding]:
    """Find transforms whose ``reduce_zero_label`` is not that of the dataset."""
    own = source.dataset.reduce_zero_label
    for transform in source.transforms:
        if transform.get('reduce_zero_label') not in (None, own):
            yield Finding(
                ERROR,
                f'{transform_name(transform)} with reduce_zero_label='
                f'{transform["reduce_zero_label"]} but a dataset with {own}, which mmseg refuses',
                f'{source.entry}.pipeline',
                'set reduce_zero_label at the top level of the config',
            )


def _list_pairs(
    entries: Iterable[dict], source: Source
) -> tuple[list[Pair], list[tuple[Kind, str]]]:
    """Return the pairs whose files both exist, and the problems of the others."""
    annotated = any('Annotation' in transform_name(transform) for transform in source.transforms)
    prefixes = source.dataset.data_prefix
    missing, _ = source.image_kinds
    pairs: list[Pair] = []
    problems: list[tuple[Kind, str]] = []
    listing = Listing()
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


def _pair_problems(
    pairs: Iterable[Pair], pictures: Iterable[tuple[Picture, Picture | None]], source: Source
) -> Iterator[tuple[Kind, str]]:
    _, unreadable = source.image_kinds
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
    maps: Iterable[LabelMap], source: Source, path: str, ignored: frozenset[int]
) -> Iterator[Finding]:
    """Find labels that are neither a class nor ignored.

    Args:
        maps: The label maps.
        source: Their dataset.
        path: Its annotation file, or its folder of images.
        ignored: Labels that the losses ignore.
    """
    number, reduced = len(source.classes), source.dataset.reduce_zero_label
    left_out = source.transform(IGNORING).get('labels', ())
    allowed = ignored.union(range(number))
    foreign = []
    for name, label_map in maps:
        wrong = [
            value
            for value in label_map.values
            if value not in left_out and final_label(value, source.dataset) not in allowed
        ]
        if wrong:
            foreign.append(f'{name}: {first_names(wrong)}')
    if foreign:
        takes = 'makes 0 unlabeled and subtracts 1' if reduced else 'keeps 0 as a class'
        kind = Kind(
            ERROR,
            f'label maps with values that are none of {number} classes under '
            f'reduce_zero_label={reduced}, which {takes}',
            f'correct the classes, set reduce_zero_label={not reduced} or ignore_labels, or '
            f'correct the files; {UNLABELED} stands for unlabeled',
        )
        yield several(kind, foreign, source.entry, path)


def _check_absent(maps: Iterable[LabelMap], source: Source, path: str) -> Iterator[Finding]:
    """Find classes that have no pixel in all label maps of the training data."""
    values = {value for _, label_map in maps for value in label_map.values}
    values -= {*source.transform(IGNORING).get('labels', ())}
    seen = {final_label(value, source.dataset) for value in values}
    absent = [name for label, name in enumerate(source.classes) if label not in seen]
    if absent and seen and source.split == 'train':
        kind = Kind(
            WARNING,
            f'classes without a pixel under reduce_zero_label={source.dataset.reduce_zero_label}',
            f'check classes and reduce_zero_label; a mask of 0 and {UNLABELED} has no class but 0',
        )
        yield several(kind, absent, source.entry, path)


def final_label(value: int, dataset: BaseDataset) -> int:
    """Return the label that mmseg makes of a value: the number of a class, or an ignored one."""
    if value not in range(256):
        return value  # mmseg would truncate it to 8 bits
    if dataset.reduce_zero_label:
        value = UNLABELED if value in (0, UNLABELED) else value - 1
    return (dataset.label_map or {}).get(value, value)
