"""Repair label maps: colors to labels, void to 255, masks of 0 and 255, and 16 bits to 8."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..config.labels import IGNORE, IGNORING
from ..io.files import write_atomically
from ..io.images import UnreadableFileError, read_image
from ..io.label_maps import UNLABELED
from ..io.wording import first_names
from .findings import one_line
from .label_maps import final_label
from .repair_changes import Log
from .sources import Listing, Source, in_parallel

IN_COLOR = 'colors written as labels, void ones as 255'
ONE_CHANNEL = 'one of several equal channels kept'
BINARY = 'masks of 0 and their highest value written as 0 and 1'
EIGHT_BITS = 'label maps of 16 bits written in 8'
NO_FILE = 'label maps that do not exist'
UNREADABLE = 'label maps that cannot be read'
OTHER_SIZE = 'label maps of another size than their image; save both at one size'
COLORS_OF_NO_CLASS = (
    'colors of no class: {}; write all colors of the classes as palette in metainfo'
)
LABELS_OF_NO_CLASS = f'labels of no class; if they are to be ignored, set {IGNORE} = {{}}'
LOSSY = 'label maps in {} cannot be written without loss; convert them to PNG'
# Colors of pixels without a class in data sets of the PASCAL VOC kind, unless they are of a class.
VOID_COLORS = ((0, 0, 0), (255, 255, 255), (224, 224, 192))
MANY_COLORS = 1024  # in one map: a photograph, or one saved with losses
LOSSLESS = ('.png', '.bmp', '.tif', '.tiff')
HIGHEST = (255, 65535)
Colors = frozenset[int]


class Facts(NamedTuple):
    """What a label map has.

    Attributes:
        size: Width and height.
        values: Its labels; None if it is in color and not gray.
        colors: Its colors, packed as in :func:`pack`; None if it has one channel.
        deep: Whether it has more than 8 bits.
        palette: Labels by the colors of the palette of an indexed image.
        error: Why it cannot be read; empty if it can.
    """

    size: tuple[int, int] = (0, 0)
    values: Colors | None = None
    colors: Colors | None = None
    deep: bool = False
    palette: Mapping[int, int] = {}
    error: str = ''

    @property
    def gray(self) -> Colors:
        """The labels; empty if the map is in color, or cannot be read."""
        return self.values or frozenset()


@dataclass
class MapRepair:
    """How the label maps of a folder are repaired.

    Attributes:
        folder: Their folder.
        facts: By path.
        by_color: Labels by color; empty if the channel of gray maps is the label.
        binary: Whether any value above 0 is the label 1.
        kinds: What is done to each map that changes, by path.
    """

    folder: str
    facts: dict[str, Facts]
    by_color: Mapping[int, int] = field(default_factory=dict)
    binary: bool = False
    kinds: dict[str, list[str]] = field(default_factory=dict)

    def write(self, target: Path) -> None:
        """Write all label maps into a new folder; those without a change are copied.

        Raises:
            OSError: The disk is full, or permission is missing.
        """
        for path in self.facts:
            file = target / os.path.relpath(path, self.folder)
            file.parent.mkdir(parents=True, exist_ok=True)
            if path in self.kinds:
                labels = self._labels(path)
                write_atomically(file, cv2.imencode(file.suffix, labels)[1].tobytes())
            else:
                shutil.copyfile(path, file)

    def label(self, value: int) -> int:
        """Return the label that is written for a value of one channel."""
        if self.binary:
            return int(value > 0)
        return UNLABELED if value == HIGHEST[1] else value

    def _labels(self, path: str) -> np.ndarray:
        """Return the labels of a map as they are written, uint8 of shape (H, W)."""
        pixels = _read(path)
        if pixels.ndim == 3 and self.by_color:
            colors, inverse = np.unique(pack(pixels), return_inverse=True)
            table = [self.by_color.get(color, UNLABELED) for color in colors.tolist()]
        else:
            pixels = pixels if pixels.ndim == 2 else pixels[..., 0]
            colors, inverse = np.unique(pixels, return_inverse=True)
            table = [self.label(value) for value in colors.tolist()]
        return np.array(table, np.uint8)[inverse].reshape(pixels.shape[:2])


def pack(pixels: np.ndarray) -> np.ndarray:
    """Return colors as integers, 65536 * red + 256 * green + blue.

    Args:
        pixels: Of shape (H, W, 3 or 4), BGR.
    """
    blue, green, red = (pixels[..., channel].astype(np.int64) for channel in range(3))
    return (red << 16) + (green << 8) + blue


def examine_maps(sources: Sequence[Source], log: Log) -> dict[str, Facts]:
    """Read the label maps of a folder; return what each has, by path.

    Args:
        sources: The datasets that read the folder, each a BaseSegDataset.
        log: Gets the maps that are missing, cannot be read, or do not fit their image.
    """
    folder = sources[0].dataset.data_prefix['seg_map_path']
    sizes = {path: size for source in sources for path, size in _list_maps(source, log).items()}
    split = sources[0].split
    facts = dict(zip(sizes, in_parallel(_examine, [*sizes], split, True), strict=True))
    for path, fact in facts.items():
        name = os.path.relpath(path, folder)
        if fact.error:
            log.leave(UNREADABLE, name)
        elif sizes[path] and fact.size != sizes[path]:
            log.leave(OTHER_SIZE, name)
    return facts


def plan_maps(
    source: Source, facts: dict[str, Facts], values: Set[int], log: Log
) -> MapRepair | None:
    """Find out how the label maps of a folder are repaired; None if nothing is to be.

    Args:
        source: A dataset that reads the folder.
        facts: What each map has, by path.
        values: The labels of the gray maps of all folders: a folder without objects of the second
            class looks like one of masks of 0 and 255.
        log: Gets the changes, and what cannot be decided.
    """
    folder = source.dataset.data_prefix['seg_map_path']
    repair = MapRepair(folder, facts)
    readable = {path: fact for path, fact in facts.items() if not fact.error}
    in_color = [fact for fact in readable.values() if fact.colors is not None]
    if in_color:
        repair.by_color = _color_table(source, readable.values())
        colors = {color for fact in in_color for color in fact.colors or ()}
        unknown = colors - {*repair.by_color}
        all_gray = all(fact.values is not None for fact in in_color)
        if unknown and not all_gray:
            log.leave(COLORS_OF_NO_CLASS.format(first_names(map(_rgb, sorted(unknown)))))
            return None
        # Black and white alone are labels rather than void.
        if unknown or (all_gray and {repair.by_color[color] for color in colors} == {UNLABELED}):
            repair.by_color = {}
    _decide(repair, readable, values, source, log)
    lossy = sorted({Path(path).suffix.lower() for path in repair.kinds} - {*LOSSLESS})
    if lossy:
        log.leave(LOSSY.format(' and '.join(lossy)))
        return None
    for path, kinds in repair.kinds.items():
        fact = facts[path]
        before = [*map(_rgb, sorted(fact.colors))] if fact.colors else sorted(fact.gray)
        name = os.path.relpath(path, folder)
        log.change('; '.join(kinds), name, before, sorted(_labels_of(repair, fact)))
    return repair if repair.kinds else None


def _decide(
    repair: MapRepair,
    readable: Mapping[str, Facts],
    everywhere: Set[int],
    source: Source,
    log: Log,
) -> None:
    """Note what is done to each map, and the labels that are of no class then."""
    two = len(source.classes) == 2 and not source.dataset.reduce_zero_label
    values = {value for fact in readable.values() for value in fact.gray}
    masks = any(everywhere == {0, top} and top in values for top in HIGHEST)
    repair.binary = two and not repair.by_color and masks
    for path, fact in readable.items():
        kinds = []
        if fact.colors is not None:
            kinds.append(IN_COLOR if repair.by_color else ONE_CHANNEL)
        if repair.binary:
            kinds.append(BINARY)
        if fact.deep and max(_labels_of(repair, fact), default=0) < 256:
            kinds.append(EIGHT_BITS)
        if kinds:
            repair.kinds[path] = kinds
    _leave_foreign(repair, readable, source, log)


def _labels_of(repair: MapRepair, fact: Facts) -> set[int]:
    """Return the labels of a map as they are written."""
    if fact.colors is not None and repair.by_color:
        return {repair.by_color[color] for color in fact.colors}
    return {repair.label(value) for value in fact.gray}


def _leave_foreign(
    repair: MapRepair, readable: Mapping[str, Facts], source: Source, log: Log
) -> None:
    """Note the maps with labels that are no class, and take those back that would lose some."""
    allowed = {*range(len(source.classes)), UNLABELED}
    left_out = {*source.transform(IGNORING).get('labels', ())}
    foreign: dict[str, set[int]] = {}
    for path, fact in readable.items():
        labels = _labels_of(repair, fact) - left_out
        wrong = {one for one in labels if final_label(one, source.dataset) not in allowed}
        if wrong:
            foreign[path] = wrong
        if max(labels, default=0) > 255:
            repair.kinds.pop(path, None)
    everything = sorted({label for labels in foreign.values() for label in labels} | left_out)
    for path in foreign if source.classes else ():
        log.leave(LABELS_OF_NO_CLASS.format(everything), os.path.relpath(path, repair.folder))


# --- reading --------------------------------------------------------------------------------


def _read(path: str) -> np.ndarray:
    """Read a label map as mmseg does: an index of a palette is a label."""
    pixels = read_image(path, 'unchanged', 'pillow').squeeze()
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 2 else pixels  # gray, alpha


def _examine(path: str) -> Facts:
    try:
        pixels = _read(path)
        with Image.open(path) as header:
            palette = _palette_of(header)
    except (UnreadableFileError, OSError) as error:
        return Facts(error=one_line(error))
    if pixels.ndim not in (2, 3):
        return Facts(error='it is no image of pixels')
    size = pixels.shape[1], pixels.shape[0]
    if pixels.ndim == 2:
        values = frozenset(np.unique(pixels).tolist())
        return Facts(size, values, deep=pixels.dtype.itemsize > 1, palette=palette)
    packed = np.unique(pack(pixels))
    colors = frozenset(packed[: MANY_COLORS + 1].tolist())
    gray = all(len({*_rgb(color)}) == 1 for color in colors)
    return Facts(size, frozenset(color & 255 for color in colors) if gray else None, colors)


def _palette_of(image: Image.Image) -> dict[int, int]:
    """Return labels by the colors of an indexed image; empty for others and for gray palettes."""
    if image.mode != 'P':
        return {}
    flat = image.getpalette() or []
    colors = [*zip(flat[::3], flat[1::3], flat[2::3], strict=True)]
    table: dict[int, int] = {}
    for label, (red, green, blue) in enumerate(colors):
        table.setdefault((red << 16) + (green << 8) + blue, label)
    return table


def _rgb(color: int) -> tuple[int, int, int]:
    return color >> 16, color >> 8 & 255, color & 255


def _color_table(source: Source, facts: Iterable[Facts]) -> dict[int, int]:
    """Return the values of label maps by color: those of the metainfo, or of indexed maps."""
    colors = _palette(source)
    first = int(source.dataset.reduce_zero_label)
    table = {
        (red << 16) + (green << 8) + blue: label
        for label, (red, green, blue) in enumerate(colors, first)
    }
    if not table:
        table = dict(next((fact.palette for fact in facts if fact.palette), {}))
    void = [(red << 16) + (green << 8) + blue for red, green, blue in VOID_COLORS]
    return {**dict.fromkeys(void, UNLABELED), **table} if table else {}


def _palette(source: Source) -> Sequence[Sequence[int]]:
    """Return the colors of the labels in the files; mmseg invents some where it has none."""
    own = (source.config.get('metainfo') or {}).get('palette')
    if own is None or source.dataset.label_map:
        own = type(source.dataset).METAINFO.get('palette', ())
    valid = isinstance(own, (list, tuple)) and all(map(_is_color, own))
    return own if valid else ()


def _is_color(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(channel, int) and channel in range(256) for channel in value)
    )


def _list_maps(source: Source, log: Log) -> dict[str, tuple[int, int] | None]:
    """Return the label maps of a dataset, by path: the sizes of their images, if these open."""
    folder = source.dataset.data_prefix['seg_map_path']
    listing = Listing()
    paths, images = [], []
    for entry in source.dataset.load_data_list():
        path = entry.get('seg_map_path')
        if not path or source.leads_out(path, folder):
            continue
        if path in listing:
            paths.append(path)
            images.append(entry['img_path'])
        else:
            log.leave(NO_FILE, os.path.relpath(path, folder))
    read = partial(_image_size, source=source)
    return dict(zip(paths, map(read, images), strict=True))


def _image_size(path: str, source: Source) -> tuple[int, int] | None:
    if source.leads_out(path, source.dataset.data_prefix['img_path']):
        return None
    try:
        with Image.open(path) as header:
            return header.size
    except Exception:  # the check of the images says why
        return None
