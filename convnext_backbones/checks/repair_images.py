"""Find the files of images that a COCO file lists, and read their sizes."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import unquote

from PIL import Image

from ..io.images import PILLOWS_LIMIT_LIFTED
from .coco_annotations import SLACK, are_finite
from .repair_changes import Log
from .repair_ids import is_id
from .sources import (
    ORIENTATION,
    QUARTER_TURNS,
    Listing,
    Picture,
    Source,
    in_parallel,
    is_turned,
    open_image,
)

FOUND = 'files of images found in the folder of the images or elsewhere in the data root'
NOT_FOUND = 'images whose file is not there, or fits several files; copy it, or correct file_name'
NO_NAME = 'images without a file_name; write it'
SIZE = 'width and height of images read from their files'
WHOLE = 'width and height of images written as integers'
NO_SIZE = 'images without a size, whose file cannot be read'
TURNED = (
    'images that EXIF turns by 90 degrees when they are loaded, listed unturned: whether the boxes '
    'are turned is not known; look at them with tools/browse_data.py, or load the images unturned '
    "with color_type='color_ignore_orientation'"
)
SCALED = (
    'images of another size than the listed one, where boxes and masks may be of either; annotate '
    'these files, or scale both to one size'
)
# What Label Studio puts in front of the name of an uploaded file.
UPLOADED = re.compile(r'[0-9a-f]{8}-(?=.)')
Size = tuple[int, int]
Reach = tuple[float, float]  # to the right and down, of all objects of an image


class Finder:
    """Finds files by what other tools wrote as their names.

    Args:
        folder: The folder of the images, to which names are relative.
        root: The data root, searched for what is not in the folder; may be empty.
    """

    def __init__(self, folder: str, root: str) -> None:
        self.folder, self.root = folder, root
        self.listing = Listing()
        self.files: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> str | None:
        """Return the name, relative to the folder, of the only file that fits; or None."""
        for spelled in dict.fromkeys((name, unquote(name))):
            parts = _parts(spelled)
            for start in range(len(parts) - 1):  # a folder besides the name identifies a file
                path = os.path.join(self.folder, *parts[start:])
                if path in self.listing:
                    return '/'.join(parts[start:])
            for place in filter(None, (self.folder, self.root)):
                found = self._only_file(place, parts[-1]) if parts else None
                if found:
                    return os.path.relpath(found, self.folder).replace(os.sep, '/')
        return None

    def _only_file(self, place: str, name: str) -> str | None:
        """Return the file below a folder that has the name, written in whatever way."""
        files = self._index(place)
        exact = files.get(name, [])
        plain = exact or files.get(_plain(name), [])
        return plain[0] if len(plain) == 1 else None

    def _index(self, place: str) -> dict[str, list[str]]:
        """Return all files below a folder, by name and by plain name."""
        if place not in self.files:
            index: dict[str, list[str]] = defaultdict(list)
            for folder, _, names in os.walk(place):
                for name in names:
                    for key in {name, _plain(name)}:
                        index[key].append(os.path.join(folder, name))
            self.files[place] = index
        return self.files[place]


def _parts(name: str) -> tuple[str, ...]:
    """Return the folders and the name of a path of any system, without drives, ``.`` and ``..``."""
    path = PureWindowsPath(name) if '\\' in name else PurePosixPath(name)
    return tuple(part for part in path.parts if part not in (path.anchor, '.', '..'))


def _plain(name: str) -> str:
    return UPLOADED.sub('', name, count=1).lower()


def repair_names(images: Iterable[dict], source: Source, folder: str, log: Log) -> None:
    """Replace the names of images whose files are elsewhere below the data root."""
    finder = Finder(folder, source.dataset.data_root or '')
    listed, missing = set(), []
    for image in images:
        name, place = image.get('file_name'), f'image {image.get("id")}'
        if not isinstance(name, str) or not name:
            log.leave(NO_NAME, place)
            continue
        path = os.path.join(folder, name)
        if path in finder.listing and not source.leads_out(path, folder):
            listed.add(os.path.normpath(path))
        else:
            missing.append((image, finder.find(name)))
    # Two different names that fit one file cannot both mean it.
    pairs = {(found, image['file_name']) for image, found in missing}
    claims = Counter(found for found, _ in pairs)
    for image, found in missing:
        path = os.path.normpath(os.path.join(folder, found or ''))
        usable = found and claims[found] == 1 and path not in listed
        if not found or not usable or source.leads_out(path, folder):
            log.leave(NOT_FOUND, f'image {image.get("id")}')
            continue
        log.change(FOUND, f'image {image.get("id")}', image['file_name'], found)
        image['file_name'] = found


# --- sizes ----------------------------------------------------------------------------------


def repair_sizes(
    images: list[dict],
    annotations: Iterable[dict],
    source: Source,
    folder: str,
    thorough: bool,
    log: Log,
) -> None:
    """Read the sizes of images that have none, and correct wrong ones where objects tell.

    Args:
        images: With integers as ids; changed in place.
        annotations: Whose ``image_id`` are these ids.
        source: The dataset.
        folder: The folder of the images.
        thorough: Read all files, not only those of images without a plausible size.
        log: Gets the changes.
    """
    listed = {image['id']: _listed_size(image) for image in images}
    chosen = [
        image
        for image in images
        if isinstance(image.get('file_name'), str) and (thorough or not listed[image['id']])
    ]
    paths = [os.path.join(folder, image['file_name']) for image in chosen]
    read = partial(_read_size, source=source, folder=folder)
    pictures = in_parallel(read, paths, source.split, thorough)
    sizes = {
        image['id']: picture.size
        for image, picture in zip(chosen, pictures, strict=True)
        if not picture.error
    }
    others = {key for key, size in sizes.items() if listed[key] and size != listed[key]}
    reaches = _reaches(annotations, others)
    for image in images:
        old, new, place = listed[image['id']], sizes.get(image['id']), f'image {image["id"]}'
        path = os.path.join(folder, str(image.get('file_name')))
        if not old and not new:
            log.leave(NO_SIZE, place)
        elif old and new and old != new and new == old[::-1] and is_turned(path):
            log.leave(TURNED, place)
        elif old and new and old != new and not _replaces(new, old, reaches[image['id']]):
            log.leave(SCALED, place)
        else:
            _set_size(image, new or old, old == new or not new, log)


def _set_size(image: dict, size: Any, whole: bool, log: Log) -> None:
    """Write a size if it is not there already."""
    before = [image.get('width'), image.get('height')]
    if before != [*size] or not all(type(side) is int for side in before):
        log.change(WHOLE if whole else SIZE, f'image {image["id"]}', before, [*size])
        image['width'], image['height'] = size


def _listed_size(image: dict) -> Size | None:
    """Return the listed width and height, if they can be those of an image."""
    sides = []
    for key in ('width', 'height'):
        side = image.get(key)
        if isinstance(side, str):
            side = int(side) if side.isdecimal() and len(side) < 10 else None
        if isinstance(side, bool) or not isinstance(side, (int, float)) or not are_finite([side]):
            return None
        if side < 1 or side != int(side):
            return None
        sides.append(int(side))
    return sides[0], sides[1]


def _read_size(path: str, source: Source, folder: str) -> Picture:
    """Return the size that an image has when it is loaded, from its header where that tells."""
    if source.leads_out(path, folder):
        return Picture(error=path)
    loader = source.transform('LoadImageFromFile')
    try:
        with PILLOWS_LIMIT_LIFTED, Image.open(path) as header:
            if header.getexif().get(ORIENTATION) not in QUARTER_TURNS:
                return Picture(header.size)
    except Exception:  # formats that only the decoder knows, and damaged files
        pass
    return open_image(path, loader)


def _reaches(annotations: Iterable[dict], images: set[int]) -> Mapping[int, Reach]:
    """Return how far the objects of some images reach; infinitely for masks tied to their size."""
    reaches: dict[int, Reach] = defaultdict(lambda: (0.0, 0.0))
    for annotation in annotations:
        key = annotation.get('image_id')
        if not is_id(key) or key not in images:
            continue
        right, down = reaches[key]
        box, segmentation = annotation.get('bbox'), annotation.get('segmentation')
        if isinstance(box, list) and len(box) == 4 and are_finite(box):
            right, down = max(right, box[0] + box[2]), max(down, box[1] + box[3])
        if isinstance(segmentation, dict):
            right = down = float('inf')
        for polygon in segmentation if isinstance(segmentation, list) else ():
            if isinstance(polygon, list) and len(polygon) > 5 and are_finite(polygon):
                right, down = max(right, *polygon[::2]), max(down, *polygon[1::2])
        reaches[key] = right, down
    return reaches


def _replaces(new: Size, old: Size, reach: Reach) -> bool:
    """Whether objects are of the new size of an image for certain."""

    def holds(size: Size) -> bool:
        return all(a <= b + SLACK for a, b in zip(reach, size, strict=True))

    factors = [a / b for a, b in zip(new, old, strict=True)]
    scaled = abs(factors[0] / factors[1] - 1) < 0.02 and abs(factors[0] - 1) > 0.05
    return holds(new) and not (scaled and holds(old))
