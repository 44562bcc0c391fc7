"""Check annotation files in COCO format, and the images that they name.

mmdet silently skips unusable annotations, numbers classes in file order, and fails on other errors
only when training reaches them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from .coco_annotations import (
    BEYOND,
    CATEGORY_KEYS,
    ID,
    IMAGE_KEYS,
    NO_AREA,
    OUTSIDE,
    ListedImage,
    annotation_problems,
    box_problem,
    has,
    is_complete,
)
from .findings import ERROR, WARNING, Finding, Kind, group, one_line, several, spell
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

# What tells the category of an annotation.
CATEGORY = {'category_id': ID}
# The share of annotations up to which so few are left that something is probably wrong.
FEW = 0.1
# The message of mmdet that its users ask about most often.
EMPTY = 'the log will say "The testing results of the whole dataset is empty"'
IMAGE_WITHOUT_KEYS = Kind(
    ERROR,
    'images without an id, or whose file_name is no text, or whose width or height is no number',
    'give each of them all four',
)
IMAGE_TWICE = Kind(ERROR, 'images with the id of another', 'renumber the images')
NAME_TWICE = Kind(
    ERROR,
    'names of several categories, which become labels of their own, beyond the classes',
    'make one category of each name',
)
FILE_TWICE = Kind(WARNING, 'images with the file of another', 'list every file once')
OTHER_SIZE = Kind(
    ERROR,
    'images whose size is not the listed one',
    'annotate these files, or scale boxes, masks, width and height to them',
)
TURNED = Kind(
    ERROR,
    'images that loading turns by 90 degrees because of EXIF, but that are listed unturned',
    "load them as they are listed: dict(type='LoadImageFromFile', "
    "color_type='color_ignore_orientation') in every pipeline",
)


def check_coco(source: Source, thorough: bool) -> tuple[list[Finding], set[str]]:
    """Check the annotation file of a dataset and its images.

    Args:
        source: A CocoDataset.
        thorough: Open all images, not just a sample.

    Returns:
        The findings, and the absolute paths of the images that exist.
    """
    path, folder = source.dataset.ann_file, source.dataset.data_prefix.get('img')
    if folder is None:
        what = f'no folder of images in data_prefix={source.dataset.data_prefix}'
        fix = "write data_prefix=dict(img='...')"
        return [Finding(ERROR, what, f'{source.entry}.data_prefix', fix)], set()
    try:
        content = read_lists(path)
    except (OSError, ValueError) as error:
        what = f'annotations that cannot be read: {one_line(error)}'
        fix = f'check data_root and ann_file of {source.entry}'
        return [Finding(ERROR, what, f'{source.entry}.ann_file', fix, path)], set()
    categories = {category['id']: category['name'] for category in content['categories']}
    findings: list[Finding] = []
    if len(categories) < len(content['categories']):
        what = 'categories with the id of another'
        findings.append(Finding(ERROR, what, source.entry, 'renumber the categories', path))
    elif source.classes:
        # Roboflow lists a category without annotations, which groups the others.
        used = {entry['category_id'] for entry in content['annotations'] if has(entry, CATEGORY)}
        wanted = used | {key for key, name in categories.items() if name in source.classes}
        names = [name for key, name in categories.items() if key in wanted or not used]
        findings += compare_names(names, source.classes, path, source.entry)
    images, problems = _list_images(content['images'], source, folder)
    findings += group(problems, path, source.entry)
    findings += _check_annotations(content['annotations'], images, categories, source)
    exist = {image.path: image for image in images.values() if image.exists}
    findings += _check_sizes(exist, source, thorough)
    return findings, {os.path.abspath(image) for image in exist}


def read_lists(path: str) -> dict[str, list[dict]]:
    """Return the images, annotations and categories of a file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not in COCO format.
    """
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except RecursionError:
        raise ValueError('its lists are nested too deeply') from None
    lists: dict[str, list[dict]] = {}
    for key in ('images', 'annotations', 'categories'):
        # Images to predict on, such as those of test-dev, come without annotations.
        default: list | None = [] if key == 'annotations' else None
        entries = content.get(key, default) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f'expected a list of objects as {key!r}')
        lists[key] = entries
    if not all(has(category, CATEGORY_KEYS) for category in lists['categories']):
        raise ValueError('expected an id and a name for every category')
    return lists


def compare_names(
    categories: Sequence[str], classes: Sequence[str], path: str, entry: str
) -> Iterator[Finding]:
    """Compare the categories of a file with the classes of its dataset.

    mmdet numbers the categories that are classes in the order of the file, while the names in
    results have the order of the classes.

    Args:
        categories: Their names, in the order of the file.
        classes: The classes of the metainfo.
        path: The file.
        entry: The entry of the dataset in the config.
    """
    twice = [name for name, count in Counter(categories).items() if count > 1]
    if twice:
        yield several(NAME_TWICE, twice, entry, path)
        return
    known = [name for name in categories if name in classes]
    unknown = [name for name in categories if name not in classes]
    absent = [name for name in classes if name not in categories]
    if not known:
        yield Finding(
            ERROR,
            f'none of the categories ({spell(categories)}) is among the classes '
            f'({spell(classes)}), so every box is skipped, and {EMPTY}',
            entry,
            'set classes to the names of the categories, letter by letter',
            path,
        )
        return
    if unknown:
        kind = Kind(
            WARNING,
            'categories that are no classes; their annotations are skipped',
            'add them to the classes if they are wanted',
        )
        yield several(kind, unknown, entry, path)
    pairs = enumerate(zip(known, classes, strict=False))
    differing = next((pair for pair in pairs if pair[1][0] != pair[1][1]), None)
    if differing:
        label, (category, name) = differing
        yield Finding(
            ERROR,
            f'label {label} is {category!r} in the order of this file, but {name!r} in that of '
            'the classes',
            entry,
            'bring the categories into the order of the classes'
            + (f', including those that are absent: {spell(absent)}' if absent else ''),
            path,
        )
    elif absent:
        kind = Kind(
            WARNING,
            'classes that are no categories; if one is predicted, the evaluation fails',
            'list them as categories, even without annotations',
        )
        yield several(kind, absent, entry, path)


def _list_images(
    entries: Iterable[dict], source: Source, folder: str
) -> tuple[dict[object, ListedImage], list[tuple[Kind, str]]]:
    """Return the images of a file by id, and the problems that their entries alone show."""
    images: dict[object, ListedImage] = {}
    missing, _ = source.image_kinds
    problems: list[tuple[Kind, str]] = []
    paths: set[str] = set()
    listing = Listing()
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
        exists = not leads_out and path in listing
        if not exists:
            problems.append((LEAVES_ROOT if leads_out else missing, place))
        paths.add(path)
        images[entry['id']] = ListedImage(path, entry['width'], entry['height'], exists)
    return images, problems


def _check_annotations(
    annotations: Sequence[dict],
    images: Mapping[object, ListedImage],
    categories: Mapping[object, str],
    source: Source,
) -> Iterator[Finding]:
    """Check each annotation, and whether mmdet uses any of them."""
    path = source.dataset.ann_file
    masks = any(transform.get('with_mask') for transform in source.transforms)
    problems = annotation_problems(annotations, images, categories, masks)
    for finding in group(problems, path, source.entry):
        # Some annotators draw over the edge; if most boxes do, they are in another format.
        systematic = finding.what == BEYOND.what and 2 * finding.count > len(annotations)
        yield replace(finding, level=ERROR) if systematic else finding
    yield from _check_rest(annotations, images, categories, source)


def _check_rest(
    annotations: Sequence[dict],
    images: Mapping[object, ListedImage],
    categories: Mapping[object, str],
    source: Source,
) -> Iterator[Finding]:
    """Check whether enough of the annotations, and some of each class, reaches the model."""
    path, entry = source.dataset.ann_file, source.entry
    fates = [_fate(annotation, images, categories, source) for annotation in annotations]
    used = Counter(
        categories[annotation['category_id']]
        for annotation, fate in zip(annotations, fates, strict=True)
        if fate is None
    )
    if used.total() <= FEW * len(annotations):
        reasons = ', '.join(f'{count} {fate}' for fate, count in Counter(fates).items() if fate)
        how_many = f'only {used.total()}' if used else 'none'
        remains = 'remain' if used.total() > 1 else 'remains'
        yield Finding(
            WARNING if used or source.split == 'test' else ERROR,
            f'{how_many} of {len(annotations)} annotations {remains} for the {source.split} data'
            + (f' ({reasons})' if reasons else '')
            + ('' if used else f'; {EMPTY}'),
            entry,
            f'compare them with the metainfo and the filter_cfg of {entry}',
            path,
        )
    known = set(categories.values())
    empty = [name for name in source.classes if name in known and not used[name]]
    if used and empty:
        kind = Kind(
            WARNING,
            f'classes without a single object in the {source.split} data',
            'add some, or leave the classes out',
        )
        yield several(kind, empty, entry, path)


def _fate(
    annotation: dict,
    images: Mapping[object, ListedImage],
    categories: Mapping[object, str],
    source: Source,
) -> str | None:
    """Return why mmdet neither trains on nor evaluates an annotation; None if it does."""
    if not is_complete(annotation):
        return 'incomplete'
    if annotation.get('ignore') or annotation.get('iscrowd'):
        return 'crowd regions, or to be ignored'
    image = images.get(annotation['image_id'])
    if image is None:
        return 'of images that are not listed'
    if box_problem(annotation, image) in (NO_AREA, OUTSIDE):
        return 'without area in their image'
    if categories.get(annotation['category_id']) not in source.classes:
        return 'of no class'
    filters = {} if source.dataset.test_mode else source.dataset.filter_cfg or {}
    if min(image.width, image.height) < filters.get('min_size', 0):
        return 'in images below the min_size of filter_cfg'
    return None


def _check_sizes(
    images: Mapping[str, ListedImage], source: Source, thorough: bool
) -> list[Finding]:
    """Open images, by path, and compare their sizes with those listed."""
    chosen = choose(list(images), thorough)
    read = partial(open_image, loader=source.transform('LoadImageFromFile'))
    pictures = in_parallel(read, chosen, source.split, thorough)
    problems = _size_problems([images[path] for path in chosen], pictures, source)
    return group(problems, source.dataset.ann_file, source.entry)


def _size_problems(
    images: Iterable[ListedImage], pictures: Iterable[Picture], source: Source
) -> Iterator[tuple[Kind, str]]:
    _, unreadable = source.image_kinds
    for image, picture in zip(images, pictures, strict=True):
        listed = (image.width, image.height)
        if picture.error:
            yield unreadable, picture.error
        elif picture.size == listed[::-1] != listed and is_turned(image.path):
            yield TURNED, image.path
        elif picture.size != listed:
            sizes = '{} x {}, listed as {} x {}'.format(*picture.size, *listed)
            yield OTHER_SIZE, f'{image.path}: {sizes}'
