"""Recognize Pascal VOC's folders: an XML file of boxes for each image."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ..io.images import IMAGE_SUFFIXES
from ..io.wording import first_names
from .class_files import read_text
from .found import SPLITS, Found
from .image_names import Finder
from .objects import Objects, Shape, describe_objects
from .sizes import Header
from .tree import Tree, folder_of, join, plural, split_of, stem, suffix

MOST_BYTES = 10_000_000  # of an XML file
DEEPEST = 20  # elements in elements
MOST_LIST_BYTES = 50_000_000
WHY = 'mmdet reads COCO files; of XML it reads VOC with its own 20 classes only'


@dataclass(frozen=True)
class Box:
    """An object of an XML file: its class and its corners, as they are written."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool = False


def find_voc_xml(tree: Tree, notes: list[str]) -> Found | None:
    """Return the detection data of a folder with VOC's XML files, or None.

    Args:
        tree: The folder.
        notes: Gets sentences about files that were left aside, also if the result is None.
    """
    files = tree.ending('.xml')
    if not files:
        return None
    boxes, unmatched, unreadable = _read_all(tree, files)
    if unreadable:
        notes.append(
            f'Left aside, as they are no annotations of VOC: '
            f'{plural(len(unreadable), "XML file")} of {len(files)}: {first_names(unreadable, 1)}.'
        )
    if unmatched:
        notes.append(
            f'Left aside, without an image in this folder: '
            f'{plural(len(unmatched), "XML file")}: {first_names(unmatched)}.'
        )
    if not boxes:
        return None
    images = _divide(tree, list(boxes), notes)
    used = Counter(box.name for image in boxes for box in boxes[image])
    if not used:
        notes.append('The XML files of VOC have no objects.')
        return None
    classes = tuple(sorted(used))
    difficult = sum(box.difficult for own in boxes.values() for box in own)
    if difficult:
        notes.append(
            f'Marked difficult: {plural(difficult, "object")} of {used.total():,}. As crowds '
            '(iscrowd 1) they are neither trained nor counted as missed, as VOC evaluates them.'
        )
    corners = [box.corners for own in boxes.values() for box in own]
    first = 0 if any(min(corner[:2]) < 1 for corner in corners) else 1
    notes.append(
        'The boxes count pixels from '
        + ('0, as some begin at 0.' if not first else '1 and include the last, as VOC does.')
    )
    labels = {name: label for label, name in enumerate(classes)}
    read = partial(_shapes, boxes=boxes, labels=labels, first=first)
    objects = Objects('VOC XML', classes, images, boxes.__contains__, read, WHY)
    return describe_objects(tree, objects, notes)


def read_xml(path: Path) -> Element:
    """Read an XML file without entities, which could expand to any size or name other files.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not XML, declares a document type, or is too large or too deep.
    """
    with path.open('rb') as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f'it has more than {MOST_BYTES:,} bytes')
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    depth = 0

    def refuse(*_: object) -> None:
        raise ValueError('it declares a document type, which annotations do not need')

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise ValueError('it is nested too deeply')
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError) as error:  # LookupError: of an unknown encoding
        raise ValueError(f'it is no XML ({error})') from None
    return builder.close()


def _read_all(
    tree: Tree, files: Sequence[str]
) -> tuple[dict[str, list[Box]], list[str], list[str]]:
    """Return the boxes by image, the files without an image, and the files that are none of VOC."""
    finder = Finder(tree)
    by_stem: dict[str, list[str]] = defaultdict(list)
    for folder, names in tree.images.items():
        for name in names:
            by_stem[stem(name)].append(join(folder, name))
    boxes: dict[str, list[Box]] = {}
    unmatched, unreadable = [], []
    for name in files:
        try:
            root = read_xml(tree.path(name))
        except (OSError, ValueError) as error:
            unreadable.append(f'{name}: {error}')
            continue
        if root.tag != 'annotation':
            unreadable.append(f'{name}: its element is {root.tag[:40]!r}')
            continue
        image = _image_of(name, by_stem) or finder.find(
            (root.findtext('filename') or '').strip(), split_of(folder_of(name))
        )
        if image is None:
            unmatched.append(name)
            continue
        boxes[image] = [box for node in root.iter('object') if (box := _box(node))]
    return boxes, unmatched, unreadable


def _image_of(name: str, by_stem: Mapping[str, Sequence[str]]) -> str | None:
    """Return the image with the name of an XML file: beside it, or in ``JPEGImages``."""
    candidates = by_stem.get(stem(name), [])
    folder = folder_of(name)
    base = folder_of(folder)
    for place in (folder, join(base, 'JPEGImages'), join(base, 'images')):
        for image in candidates:
            if folder_of(image) == place:
                return image
    split = [image for image in candidates if split_of(folder_of(image)) == split_of(folder)]
    photos = [image for image in split if 'segment' not in image.lower()]
    return photos[0] if len(photos) == 1 else None


def _box(node: Element) -> Box | None:
    """Return an object; None if it has no name or no box."""
    name = (node.findtext('name') or '').strip()
    texts = [node.findtext(f'bndbox/{side}') for side in ('xmin', 'ymin', 'xmax', 'ymax')]
    try:
        left, top, right, bottom = (float(text or '') for text in texts)
    except ValueError:
        return None
    difficult = (node.findtext('difficult') or '').strip() == '1'
    usable = all(abs(number) < 1e6 for number in (left, top, right, bottom))
    return Box(name, (left, top, right, bottom), difficult) if name and usable else None


def _divide(tree: Tree, images: Sequence[str], notes: list[str]) -> dict[str, list[str]]:
    """Return the images by part: by their folders, or by the lists in ``ImageSets/Main``."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for image in sorted(images):
        by_folder[split_of(folder_of(image)) or ''].append(image)
    undivided = by_folder.pop('', [])
    if by_folder:
        if undivided:
            notes.append(
                f'Left aside, as their folder says no part: {plural(len(undivided), "image")}: '
                f'{first_names(undivided)}.'
            )
        return {split: by_folder[split] for split in SPLITS if split in by_folder}
    by_stem = {stem(image): image for image in undivided}
    lists = [
        name
        for name in tree.ending('.txt')
        if folder_of(name).endswith('ImageSets/Main') or folder_of(name) in ('', 'ImageSets')
    ]
    parts: dict[str, list[str]] = {}
    for name in lists:
        known = {'train': 'train', 'val': 'val', 'test': 'test', 'default': 'train'}
        split = known.get(stem(name))
        if split is None or split in parts:
            continue
        try:
            lines = read_text(tree, name, MOST_LIST_BYTES).splitlines()
        except (OSError, ValueError) as error:
            notes.append(f'{name} is left aside: {error}.')
            continue
        listed = [_bare(line) for line in lines if line.strip()]
        found = [by_stem[key] for key in listed if key in by_stem]
        if len(found) < len(listed):
            missing = [key for key in listed if key not in by_stem]
            notes.append(
                f'Without an image and an XML file: {plural(len(missing), "name")} of {name}: '
                f'{first_names(missing)}.'
            )
        if found:
            parts[split] = list(dict.fromkeys(found))
    if 'train' not in parts:
        rest = set(undivided).difference(*parts.values())
        parts['train'] = [image for image in undivided if image in rest]
    return {split: parts[split] for split in SPLITS if parts.get(split)}


def _bare(line: str) -> str:
    """Return the name of an image in a line of a list."""
    name = line.split()[0].split('/')[-1]
    return stem(name) if suffix(name) in IMAGE_SUFFIXES else name


def _shapes(
    image: str,
    header: Header,
    problems: Counter[str],
    boxes: Mapping[str, Sequence[Box]],
    labels: Mapping[str, int],
    first: int,
) -> list[Shape]:
    """Return the objects of an image.

    Args:
        image: The image.
        header: Its size, which boxes are cut to.
        problems: Not used: boxes that cannot be read were left out before.
        boxes: Those of all images.
        labels: The indices of the classes by name.
        first: The number of the first pixel; if it is 1, the last pixel belongs to the box.
    """
    return [
        Shape(
            labels[box.name],
            (
                box.corners[0] - first,
                box.corners[1] - first,
                box.corners[2] - box.corners[0] + first,
                box.corners[3] - box.corners[1] + first,
            ),
            is_crowd=box.difficult,
        )
        for box in boxes.get(image, ())
    ]
