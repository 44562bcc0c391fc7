"""The check of annotation files in COCO's form, and of the images that they name.

mmdet leaves out in silence what it cannot use, numbers the classes in the order of the file, and
fails of the rest when a training comes to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite

from .findings import ERROR, SHOWN, WARNING, Finding, Kind, group, spell
from .preflight_data import (
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
SLACK = 1  # pixels by which annotators may draw over the edge
NUMBER = (int, float)
ID = (int, str)
IMAGE_KEYS = {'id': ID, 'file_name': str, 'width': NUMBER, 'height': NUMBER}
ANNOTATION_KEYS = {'id': ID, 'image_id': ID, 'category_id': ID, 'area': NUMBER}
CATEGORY_KEYS = {'id': ID, 'name': str}
IN_PIXELS = 'correct or delete them; bbox is [x, y, width, height] in pixels, not two corners'

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
WITHOUT_KEYS = Kind(
    ERROR,
    'annotations without an id, image_id or category_id, a number as area, or four as bbox',
    'give each of them all five',
)
ID_TWICE = Kind(
    ERROR, 'annotations with the id of another, which mmdet refuses', 'number them anew'
)
UNKNOWN_IMAGE = Kind(ERROR, 'annotations of images that are not listed', 'list them as images')
UNKNOWN_CATEGORY = Kind(
    ERROR, 'annotations of categories that are not listed', 'list them as categories'
)
NO_AREA = Kind(WARNING, 'boxes without area, or below one pixel, which mmdet leaves out', IN_PIXELS)
OUTSIDE = Kind(ERROR, 'boxes outside their image, which mmdet leaves out', IN_PIXELS)
BEYOND = Kind(WARNING, 'boxes that reach beyond their image', IN_PIXELS)
NO_MASK = Kind(
    ERROR,
    'annotations without a segmentation, at which loading masks fails',
    'add it, or train a detector without masks',
)
NOT_A_MASK = Kind(
    ERROR,
    'segmentations that are neither lists of polygons nor RLE',
    'write [[x1, y1, x2, y2, ...], ...] of finite numbers, or dict(size=..., counts=...)',
)
SHORT_POLYGON = Kind(
    WARNING,
    'polygons of less than three points, or with half a point, which mmdet leaves out',
    'correct or delete them',
)
FLAT_POLYGON = Kind(WARNING, 'polygons without area', 'correct or delete them')
FAR_POLYGON = Kind(
    WARNING, 'polygons that reach beyond their image', 'clip them; x comes before y, in pixels'
)
RLE_SIZE = Kind(
    ERROR, 'RLE of another size than its image', 'encode it again; size is [height, width]'
)
BROKEN_RLE = Kind(
    ERROR, 'RLE whose counts do not make up its size', 'encode it again with pycocotools'
)


@dataclass(frozen=True)
class ListedImage:
    """An image of an annotation file.

    Attributes:
        path: As mmdet opens it.
        width: As listed.
        height: As listed.
        there: Whether the file exists, in the data root.
    """

    path: str
    width: float
    height: float
    there: bool


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
    images, faults = _list_images(content['images'], source, folder)
    yield from group(faults, where)
    masks = any(transform.get('with_mask') for transform in source.transforms)
    faults = _annotation_faults(annotations, images, categories, masks)
    for finding in group(faults, where):
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
    yield from group(_size_faults([there[path] for path in chosen], pictures, source), where)
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
    if not all(_has(category, CATEGORY_KEYS) for category in lists['categories']):
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
    faults, paths, listing = [], set(), Listing()
    for entry in entries:
        place = f'image {entry.get("id")}'
        if not _has(entry, IMAGE_KEYS):
            faults.append((IMAGE_WITHOUT_KEYS, place))
            continue
        path = os.path.join(folder, entry['file_name'])
        place = f'{place}: {path}'
        if entry['id'] in images:
            faults.append((IMAGE_TWICE, place))
        if path in paths:
            faults.append((FILE_TWICE, place))
        leads_out = source.leads_out(path, folder)
        there = not leads_out and path in listing
        if not there:
            faults.append((LEAVES_ROOT if leads_out else missing, place))
        paths.add(path)
        images[entry['id']] = ListedImage(path, entry['width'], entry['height'], there)
    return images, faults


def _size_faults(
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


# --- annotations ------------------------------------------------------------------------------


def _annotation_faults(
    annotations: Iterable[dict],
    images: Mapping[object, ListedImage],
    categories: Mapping[object, str],
    masks: bool,
) -> Iterator[tuple[Kind, str]]:
    ids = set()
    for annotation in annotations:
        number = annotation.get('id')
        place = f'annotation {number}'
        if not _is_complete(annotation):
            yield WITHOUT_KEYS, place
            continue
        if number in ids:
            yield ID_TWICE, place
        ids.add(number)
        if annotation['category_id'] not in categories:
            yield UNKNOWN_CATEGORY, f'{place}: category {annotation["category_id"]}'
        image = images.get(annotation['image_id'])
        if image is None:
            yield UNKNOWN_IMAGE, f'{place}: image {annotation["image_id"]}'
            continue
        fault = _box_fault(annotation, image)
        if fault is not None:
            yield fault, place
        if masks and fault not in (NO_AREA, OUTSIDE):
            for kind in {*_mask_faults(annotation.get('segmentation'), image)}:
                yield kind, place


def _has(entry: dict, keys: Mapping[str, type | tuple[type, ...]]) -> bool:
    return all(isinstance(entry.get(key), kind) for key, kind in keys.items())


def _is_complete(annotation: dict) -> bool:
    box = annotation.get('bbox')
    four = isinstance(box, list) and len(box) == 4 and _are_finite(box)
    return four and _has(annotation, ANNOTATION_KEYS)


def _are_finite(numbers: Iterable) -> bool:
    """Whether all are numbers, none of them NaN or infinite."""
    try:
        return isfinite(sum(numbers))
    except (TypeError, OverflowError):
        return False


def _box_fault(annotation: dict, image: ListedImage) -> Kind | None:
    x, y, width, height = annotation['bbox']
    if width < 1 or height < 1 or annotation['area'] <= 0:
        return NO_AREA
    if x >= image.width or y >= image.height or x + width <= 0 or y + height <= 0:
        return OUTSIDE
    return BEYOND if _reach_beyond((x, x + width), (y, y + height), image) else None


def _reach_beyond(xs: Sequence[float], ys: Sequence[float], image: ListedImage) -> bool:
    return (
        min(xs) < -SLACK
        or min(ys) < -SLACK
        or max(xs) > image.width + SLACK
        or max(ys) > image.height + SLACK
    )


def _mask_faults(segmentation, image: ListedImage) -> Iterator[Kind]:
    if not segmentation:
        yield NO_MASK
    elif isinstance(segmentation, dict):
        if segmentation.get('size') != [image.height, image.width]:
            yield RLE_SIZE
        elif not _makes_up_size(segmentation):
            yield BROKEN_RLE
    elif not isinstance(segmentation, list):
        yield NOT_A_MASK
    else:
        for polygon in segmentation:
            if not isinstance(polygon, list) or not _are_finite(polygon):
                yield NOT_A_MASK
            elif len(polygon) < 6 or len(polygon) % 2:
                yield SHORT_POLYGON
            else:
                xs, ys = polygon[::2], polygon[1::2]
                if min(xs) == max(xs) or min(ys) == max(ys):
                    yield FLAT_POLYGON
                if _reach_beyond(xs, ys, image):
                    yield FAR_POLYGON


def _makes_up_size(rle: dict) -> bool:
    """Whether the counts of an RLE are run lengths whose sum is the number of pixels.

    pycocotools takes others too: it returns what its memory happens to hold, or crashes.
    """
    counts = rle.get('counts')
    if isinstance(counts, str):
        counts = _run_lengths(counts)
    height, width = rle['size']
    return (
        isinstance(counts, list)
        and _are_finite(counts)
        and min(counts, default=-1) >= 0
        and sum(counts) == height * width
    )


def _run_lengths(text: str) -> list[int] | None:
    """The counts of compressed RLE; None if the text is none.

    A character holds five bits, the lowest come first, and a sixth if more follow. The last of
    them is the sign. From the fourth on, numbers are differences to the one before the last.
    """
    counts, number, shift = [], 0, 0
    for character in text:
        bits = ord(character) - ord('0')
        if bits not in range(64):
            return None
        number |= (bits & 31) << shift
        shift += 5
        if bits < 32:
            sign = (bits & 16) << (shift - 4)
            counts.append(number - sign + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    return None if shift else counts


def _is_used(
    annotation: dict,
    images: Mapping[object, ListedImage],
    categories: Mapping[object, str],
    source: Source,
) -> bool:
    """Whether an annotation outlasts what mmdet leaves out and filters."""
    if not _is_complete(annotation) or annotation.get('ignore'):
        return False
    image = images.get(annotation['image_id'])
    if image is None or _box_fault(annotation, image) in (NO_AREA, OUTSIDE):
        return False
    filters = {} if source.dataset.test_mode else source.dataset.filter_cfg or {}
    known = categories.get(annotation['category_id']) in source.classes
    return known and min(image.width, image.height) >= filters.get('min_size', 0)
