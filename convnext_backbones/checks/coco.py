"""The check of annotation files in COCO's form, and of the images that they name.

mmdet leaves out in silence what it cannot use, numbers the classes in the order of the file, and
fails of the rest when a training comes to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from .coco_annotations import (
    BEYOND,
    CATEGORY_KEYS,
    IMAGE_KEYS,
    NO_AREA,
    OUTSIDE,
    ListedImage,
    _box_problem,
    annotation_problems,
    has,
    is_complete,
)
from .findings import ERROR, SHOWN, WARNING, Finding, Kind, group, spell
from .sources import (
    LEAVES_ROOT,
    Listing,
    Picture,
    Source,
    choose,
    in_parallel,
    is_turned,
    open_image,
)

# What of mmdet's users ask about most, in its own words.
EMPTY = 'the log will say "The testing results of the whole dataset is empty"'
IMAGE_WITHOUT_KEYS = Kind(
    ERROR,
    'images without an id, or with no text as file_name, or no numbers as width and height',
    'give each of them all four',
)
IMAGE_TWICE = Kind(ERROR, 'images with the id of another', 'number the images anew')
FILE_TWICE = Kind(WARNING, 'images with the file of another', 'list every file once')
OTHER_SIZE = Kind(
    ERROR,
    'images of another size than listed',
    'annotate these files, or scale boxes, masks, width and height to them',
)
TURNED = Kind(
    ERROR,
    'images that EXIF turns by a quarter when they are loaded, and that are listed unturned',
    "load them as they are listed: dict(type='LoadImageFromFile', "
    "color_type='color_ignore_orientation') in every pipeline",
)


def check_coco(source: Source, thorough: bool) -> Generator[Finding, None, set[str]]:
    """Check the annotation file of a dataset and its images.

    Args:
        source: A CocoDataset.
        thorough: Open all images.

    Returns:
        The absolute paths of the images, for ``yield from``.
    """
    where, folder = source.dataset.ann_file, source.dataset.data_prefix.get('img')
    if folder is None:
        yield Finding(
            ERROR,
            f'no folder of images in data_prefix={source.dataset.data_prefix}',
            source.place,
            "write data_prefix=dict(img='...')",
        )
        return set()
    try:
        content = _read_lists(where)
    except (OSError, ValueError) as error:
        yield Finding(
            ERROR,
            f'annotations that cannot be read: {error}',
            where,
            f'check data_root and ann_file of {source.place}',
        )
        return set()
    annotations = content['annotations']
    categories = {category['id']: category['name'] for category in content['categories']}
    if len(categories) < len(content['categories']):
        yield Finding(ERROR, 'categories with the id of another', where, 'number them anew')
    elif source.classes:
        yield from compare_names([*categories.values()], source.classes, where)
    images, problems = _list_images(content['images'], source, folder)
    yield from group(problems, where)
    masks = any(transform.get('with_mask') for transform in source.transforms)
    problems = annotation_problems(annotations, images, categories, masks)
    for finding in group(problems, where):
        # Some annotators draw over the edge; if most boxes are there, they are of another form.
        systematic = finding.what == BEYOND.what and 2 * finding.count > len(annotations)
        yield replace(finding, level=ERROR) if systematic else finding
    if not any(_is_used(annotation, images, categories, source) for annotation in annotations):
        yield Finding(
            WARNING if source.split == 'test' else ERROR,
            f'none of {len(annotations)} annotations is left to the {source.split} data; {EMPTY}',
            where,
            f'compare them with the metainfo and the filter_cfg of {source.place}',
        )
    there = {image.path: image for image in images.values() if image.there}
    chosen = choose([*there], thorough)
    read = partial(open_image, loader=source.transform('LoadImageFromFile'))
    pictures = in_parallel(read, chosen, source.split, thorough)
    yield from group(_size_problems([there[path] for path in chosen], pictures, source), where)
    return {os.path.abspath(path) for path in there}


def _read_lists(path: str) -> dict[str, list[dict]]:
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except RecursionError:
        raise ValueError('its lists are nested too deeply') from None
    lists = {}
    for key in ('images', 'annotations', 'categories'):
        # Images to predict on, such as of test-dev, come without annotations.
        absent = [] if key == 'annotations' else None
        entries = content.get(key, absent) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f'expected a list of objects as {key!r}')
        lists[key] = entries
    if not all(has(category, CATEGORY_KEYS) for category in lists['categories']):
        raise ValueError('expected an id and a name of every category')
    return lists


def compare_names(
    categories: Sequence[str], classes: Sequence[str], where: str
) -> Iterator[Finding]:
    """Compare the categories of a file with the classes of its dataset.

    mmdet numbers the categories that are classes in the order of the file, while the names in
    results have the order of the classes.

    Args:
        categories: Their names, in the order of the file.
        classes: Of the metainfo.
        where: The file.
    """
    known = [name for name in categories if name in classes]
    unknown = [name for name in categories if name not in classes]
    absent = [name for name in classes if name not in categories]
    if not known:
        yield Finding(
            ERROR,
            f'none of the categories {spell(categories)} is among the classes {spell(classes)}, so '
            f'every box is left out, and {EMPTY}',
            where,
            'set classes to the names of the categories, letter by letter',
        )
        return
    if unknown:
        yield Finding(
            WARNING,
            'categories that are no classes, whose annotations are left out',
            where,
            'add them to the classes if they are wanted',
            tuple(unknown[:SHOWN]),
            len(unknown),
        )
    pairs = enumerate(zip(known, classes, strict=False))
    differing = next((place for place in pairs if len({*place[1]}) > 1), None)
    if differing:
        label, (category, name) = differing
        yield Finding(
            ERROR,
            f'label {label} is {category!r} in the order of this file, and {name!r} in that of the '
            'classes',
            where,
            'bring the categories into the order of the classes'
            + (f', with those that are absent: {spell(absent)}' if absent else ''),
        )
    elif absent:
        yield Finding(
            WARNING,
            'classes that are no categories; where one is predicted, the evaluation fails',
            where,
            'list them as categories, even without annotations',
            tuple(absent[:SHOWN]),
            len(absent),
        )


def _list_images(
    entries: Iterable[dict], source: Source, folder: str
) -> tuple[dict[object, ListedImage], list[tuple[Kind, str]]]:
    """The images of a file by id, and what is wrong with them as far as names tell."""
    images: dict[object, ListedImage] = {}
    missing, _ = source.image_faults
    problems, paths, listing = [], set(), Listing()
    for entry in entries:
        place = f'image {entry.get("id")}'
        if not has(entry, IMAGE_KEYS):
            problems.append((IMAGE_WITHOUT_KEYS, place))
            continue
        path = os.path.join(folder, entry['file_name'])
        place = f'{place}: {path}'
        if entry['id'] in images:
            problems.append((IMAGE_TWICE, place))
        if path in paths:
            problems.append((FILE_TWICE, place))
        leads_out = source.leads_out(path, folder)
        there = not leads_out and path in listing
        if not there:
            problems.append((LEAVES_ROOT if leads_out else missing, place))
        paths.add(path)
        images[entry['id']] = ListedImage(path, entry['width'], entry['height'], there)
    return images, problems


def _size_problems(
    images: Iterable[ListedImage], pictures: Iterable[Picture], source: Source
) -> Iterator[tuple[Kind, str]]:
    _, unreadable = source.image_faults
    for image, picture in zip(images, pictures, strict=True):
        listed = (image.width, image.height)
        if picture.error:
            yield unreadable, picture.error
        elif picture.size == listed[::-1] != listed and is_turned(image.path):
            yield TURNED, image.path
        elif picture.size != listed:
            sizes = '{} x {}, listed as {} x {}'.format(*picture.size, *listed)
            yield OTHER_SIZE, f'{image.path}: {sizes}'


def _is_used(
    annotation: dict,
    images: Mapping[object, ListedImage],
    categories: Mapping[object, str],
    source: Source,
) -> bool:
    """Whether an annotation outlasts what mmdet leaves out and filters."""
    if not is_complete(annotation) or annotation.get('ignore'):
        return False
    image = images.get(annotation['image_id'])
    if image is None or _box_problem(annotation, image) in (NO_AREA, OUTSIDE):
        return False
    filters = {} if source.dataset.test_mode else source.dataset.filter_cfg or {}
    known = categories.get(annotation['category_id']) in source.classes
    return known and min(image.width, image.height) >= filters.get('min_size', 0)
