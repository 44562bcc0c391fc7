"""Sizes, channels and depth of images, from their headers."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import median
from typing import BinaryIO

from PIL import Image

from ..io.images import ORIENTATION, PILLOWS_LIMIT_LIFTED, QUARTER_TURNS
from .found import Statistics
from .tree import Tree, spread

SAMPLE = 200  # images whose headers are read
CHANNELS = {'1': 1, 'L': 1, 'I': 1, 'F': 1, 'LA': 1, 'La': 1}
DTYPES = {'I': 'uint16', 'F': 'float32'}
# Of a PNG: where its bit depth stands.
PNG, PNG_DEPTH = b'\x89PNG\r\n\x1a\n', 24
# Tags of a TIFF: what they hold, and the sizes of the numbers that they may be written in.
TIFF_WIDTH, TIFF_HEIGHT, TIFF_BITS, TIFF_CHANNELS, TIFF_FORMAT, TIFF_TURN = (
    256,
    257,
    258,
    277,
    339,
    274,
)
TIFF_NUMBERS = {1: 'B', 3: 'H', 4: 'I', 16: 'Q'}
MOST_TAGS = 1000


@dataclass(frozen=True)
class Header:
    """What the header of an image says.

    Attributes:
        width: As training loads it: turned by the EXIF orientation.
        height: Likewise.
        channels: An alpha channel counts in a TIFF only, where it may be anything.
        dtype: ``uint8``, ``uint16`` or ``float32``.
    """

    width: int
    height: int
    channels: int = 3
    dtype: str = 'uint8'


def read_header(path: Path) -> Header:
    """Read the header of an image.

    Raises:
        ValueError: The file cannot be read, or is not an image.
    """
    try:
        with path.open('rb') as file:
            start = file.read(PNG_DEPTH + 1)
            if start[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'):
                return _read_tiff(file, start)
        with PILLOWS_LIMIT_LIFTED, Image.open(path) as image:
            width, height = image.size
            # Pillow decodes a whole PNG to look for what is behind its pixels.
            turn = image.format != 'PNG' and image.getexif().get(ORIENTATION) in QUARTER_TURNS
            mode = image.mode
    except Exception as error:  # what a damaged file makes Pillow raise is open-ended
        raise ValueError(f'cannot read the image {str(path)!r}') from error
    if turn:
        width, height = height, width
    deep = start.startswith(PNG) and start[PNG_DEPTH] == 16
    dtype = 'uint16' if deep else DTYPES.get(mode[:1], 'uint8')
    return Header(width, height, CHANNELS.get(mode.split(';')[0], 3), dtype)


def _read_tiff(file: BinaryIO, start: bytes) -> Header:
    """Read the first directory of a TIFF; Pillow does not know all numbers of channels.

    Raises:
        ValueError: Something is missing or cannot be.
    """
    order = '<' if start[:2] == b'II' else '>'
    big = start[2:4] in (b'+\0', b'\0+')
    length, entry = ('Q', 'HHQ8s') if big else ('H', 'HHI4s')
    file.seek(8 if big else 4)
    (place,) = _unpack(file, order + ('Q' if big else 'I'))
    file.seek(place)
    (number,) = _unpack(file, order + length)
    tags: dict[int, tuple[int, int, bytes]] = {}
    for _ in range(min(number, MOST_TAGS)):
        tag, kind, count, value = _unpack(file, order + entry)
        tags[tag] = kind, count, value

    def first(tag: int, default: int | None = None) -> int:
        """Return the first number of a tag."""
        kind, count, value = tags.get(tag, (0, 0, b''))
        code = TIFF_NUMBERS.get(kind)
        if code is None or not count:
            if default is None:
                raise ValueError(f'tag {tag} is missing')
            return default
        if count * struct.calcsize(order + code) > len(value):  # it stands elsewhere in the file
            file.seek(struct.unpack(order + ('Q' if big else 'I'), value)[0])
            return int(_unpack(file, order + code)[0])
        return int(struct.unpack_from(order + code, value)[0])

    width, height = first(TIFF_WIDTH), first(TIFF_HEIGHT)
    if first(TIFF_TURN, 1) in QUARTER_TURNS:
        width, height = height, width
    floats = first(TIFF_FORMAT, 1) == 3
    dtype = 'float32' if floats else 'uint16' if first(TIFF_BITS, 1) > 8 else 'uint8'
    return Header(width, height, first(TIFF_CHANNELS, 1), dtype)


def _unpack(file: BinaryIO, code: str) -> tuple:
    return struct.unpack(code, file.read(struct.calcsize(code)))


def measure(tree: Tree, names: Sequence[str]) -> tuple[Statistics, list[str]]:
    """Measure images by the headers of at most :data:`SAMPLE` of them.

    Args:
        tree: The files.
        names: The images.

    Returns:
        The statistics, without objects, and sentences about images that cannot be read, and that
        are not all alike.

    Raises:
        ValueError: Not one can be read.
    """
    headers, unreadable = [], []
    for name in spread(names, SAMPLE):
        try:
            headers.append(read_header(tree.path(name)))
        except ValueError as error:
            unreadable.append(str(error))
    if not headers:
        raise ValueError(
            f'expected images, but none of {len(unreadable)} that were tried can be read '
            f'({unreadable[0] if unreadable else "there is none"}); save them as PNG or JPEG'
        )
    notes = []
    if unreadable:
        notes.append(
            f'{len(unreadable)} of {len(unreadable) + len(headers)} images that were opened cannot '
            f'be read, the first: {unreadable[0]}.'
        )
    widths, heights = ([getattr(h, side) for h in headers] for side in ('width', 'height'))
    kinds = Counter((header.channels, header.dtype) for header in headers)
    if {channels for channels, _ in kinds} <= {1, 3} and len({dtype for _, dtype in kinds}) == 1:
        channels, dtype = max(kinds)  # a few gray images among colored ones are loaded as color
    else:
        channels, dtype = kinds.most_common(1)[0][0]
        if len(kinds) > 1:
            listed = ', '.join(f'{n} of {c} channels and {d}' for (c, d), n in kinds.items())
            notes.append(f'The images are of several kinds: {listed}.')
    size = round(median(widths)), round(median(heights)), max(widths), max(heights)
    return Statistics(*size, channels=channels, dtype=dtype), notes


def with_objects(
    statistics: Statistics, areas: Sequence[float], per_image: Iterable[int]
) -> Statistics:
    """Add the sizes of objects.

    Args:
        statistics: Those of the images.
        areas: The areas of the boxes, in square pixels.
        per_image: The number of objects of each image.
    """
    sizes = sorted(sqrt(area) for area in areas)
    if not sizes:
        return statistics
    return replace(
        statistics,
        object_size=round(median(sizes), 1),
        small_object_size=round(sizes[len(sizes) // 10], 1),
        objects_per_image=max(per_image, default=0),
    )
