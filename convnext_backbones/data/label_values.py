"""Decide what the values and colors of label maps mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..io.images import read_image
from ..io.label_maps import UNLABELED
from ..io.wording import first_names
from .class_files import ClassList, Color, is_void
from .tree import Tree, spread

SAMPLE = 200  # label maps whose values are looked at
MOST_COLORS = 64  # of label maps without a file that names them; more are blurred edges or photos
WHITE = 255  # of a mask in black and white


@dataclass(frozen=True)
class Values:
    """What a sample of label maps holds.

    Attributes:
        values: The distinct values, or colors as 0xRRGGBB.
        in_color: Whether they are colors.
        is_gray: Whether colors are gray, so that one channel says all.
        is_odd: Whether the files have a form of numbers that mmseg reads as something else.
        palette: The colors that the files give for their values.
        through_palette: Whether they are read as the colors of their palettes, which differ.
    """

    values: tuple[int, ...]
    in_color: bool = False
    is_gray: bool = False
    is_odd: bool = False
    palette: Mapping[int, Color] = field(default_factory=dict)
    through_palette: bool = False


@dataclass(frozen=True)
class Labels:
    """What values mean.

    Attributes:
        classes: The names.
        palette: The colors of all classes, or none.
        reduce_zero_label: Whether 0 is unlabeled.
        ignore_labels: Values that are no class.
        table: If the files must be written anew: the labels by value or color; others become 255.
        in_color: Whether the table is by color.
        convert: Why the files must be written anew.
        through_palette: Whether the values are the colors of palettes.
    """

    classes: tuple[str, ...]
    palette: tuple[Color, ...] = ()
    reduce_zero_label: bool = False
    ignore_labels: tuple[int, ...] = ()
    table: Mapping[int, int] | None = None
    in_color: bool = False
    convert: str = ''
    through_palette: bool = False


def read_map(path: Path, through_palette: bool = False) -> np.ndarray:
    """Read a label map as mmseg does.

    Args:
        path: The file.
        through_palette: Return the colors of a palette instead of the indices into it.

    Returns:
        Values of shape (H, W), or colors of shape (H, W) as 0xRRGGBB, int64.

    Raises:
        ValueError: It cannot be read.
    """
    return _with_color(path, through_palette)[0]


def _with_color(path: Path, through_palette: bool) -> tuple[np.ndarray, bool, bool]:
    """Return a label map, whether it is in color, and whether it is of an odd type."""
    pixels = read_image(path, 'unchanged', 'pillow')
    odd = pixels.dtype not in (np.uint8, np.uint16, np.int32) or (
        pixels.ndim > 2 and pixels.shape[2] < 3
    )
    if pixels.ndim > 2 and pixels.shape[2] >= 3:
        blue, green, red = (pixels[..., channel].astype(np.int64) for channel in range(3))
        return (red << 16) | (green << 8) | blue, True, False
    if pixels.ndim > 2:
        pixels = pixels[..., 0]
    colors = _palette(path, range(256)) if through_palette else {}
    if colors:
        table = np.array([_code(colors.get(value, (0, 0, 0))) for value in range(256)])
        return table[pixels], True, False
    return pixels.astype(np.int64), False, odd


def look(tree: Tree, names: Sequence[str], notes: list[str]) -> Values | None:
    """Look at the values of at most :data:`SAMPLE` label maps; None if none can be read."""
    sample = spread(names, SAMPLE)
    unreadable: list[str] = []
    seen = _look([tree.path(name) for name in sample], unreadable)
    if unreadable:
        notes.append(
            f'Label maps that cannot be read: {len(unreadable)} of {len(sample)} that were opened, '
            f'{first_names(unreadable, 1)}.'
        )
    if seen is not None and seen.through_palette:
        notes.append(
            'The palettes of the label maps differ, so the same value is another color in another '
            'file: they are read as colors.'
        )
    return seen


def _look(
    paths: Sequence[Path], unreadable: list[str], through_palette: bool = False
) -> Values | None:
    """Look at label maps; as colors if their palettes turn out to differ."""
    values: set[int] = set()
    palette: dict[int, Color] = {}
    colored, is_odd = set(), False
    for path in paths:
        try:
            pixels, in_color, odd = _with_color(path, through_palette)
        except ValueError as error:
            unreadable.append(str(error))
            continue
        colored.add(in_color)
        is_odd |= odd
        own = np.unique(pixels).tolist()
        values |= set(own)
        for value, color in ({} if in_color else _palette(path, own)).items():
            if palette.setdefault(value, color) != color:
                unreadable.clear()
                return _look(paths, unreadable, through_palette=True)
    if not colored:
        return None
    in_color = True in colored
    gray = in_color and all(value % 0x010101 == 0 for value in values)
    return Values(tuple(sorted(values)), in_color, gray, is_odd, palette, through_palette)


def _palette(path: Path, values: Iterable[int]) -> dict[int, Color]:
    """Return the colors that a file has for values; empty if it has no palette."""
    try:
        with Image.open(path) as image:
            numbers = (image.getpalette() or []) if image.mode == 'P' else []
    except Exception:  # what a damaged file makes Pillow raise is open-ended
        return {}
    return {
        value: (numbers[3 * value], numbers[3 * value + 1], numbers[3 * value + 2])
        for value in values
        if 3 * value + 2 < len(numbers)
    }


def decide(
    seen: Values, known: ClassList | None, notes: list[str], zero_is_unlabeled: bool = False
) -> Labels | None:
    """Decide which classes label maps have, and whether they must be written anew.

    Args:
        seen: What the files hold.
        known: Names of the classes, if a file has some.
        notes: Gets sentences; why, if the result is None.
        zero_is_unlabeled: Whether the layout says so; names of as many classes as there are values
            say otherwise.
    """
    labels = _decide(seen, known, notes, zero_is_unlabeled)
    return replace(labels, through_palette=seen.through_palette) if labels else None


def _decide(
    seen: Values, known: ClassList | None, notes: list[str], zero_is_unlabeled: bool
) -> Labels | None:
    colors = {_code(color): value for value, color in known.colors.items()} if known else {}
    by_palette = {value: _code(color) for value, color in seen.palette.items()}
    own = [value for value in seen.values if value in by_palette and value != UNLABELED]
    theirs = [colors.get(by_palette[value]) for value in own]
    if known and own and None not in theirs and theirs != own:
        table = _numbered_anew(known)
        mapped = {value: table[colors[by_palette[value]]] for value in own}
        reason = f'the palette has the colors of {known.source} in another order'
        return _written(known, mapped, reason)
    if seen.in_color and not (seen.is_gray and not set(seen.values) <= set(colors)):
        return _decide_colors(seen, known, colors, notes)
    values = [value & 0xFF if seen.in_color else value for value in seen.values]
    reason = ''
    if seen.in_color:
        reason = 'the label maps have three equal channels'
    elif seen.is_odd:
        reason = 'the label maps have numbers of another type than 8 or 16 bits'
    return _decide_values(sorted(set(values)), seen, known, notes, zero_is_unlabeled, reason)


def _code(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def _numbered_anew(known: ClassList) -> dict[int, int]:
    """Return the labels of the classes of a file, by their number there; those of void are 255."""
    labels, number = {}, 0
    for value, name in sorted(known.names.items()):
        void = is_void(name)
        labels[value] = UNLABELED if void else number
        number += not void
    return labels


def _written(
    known: ClassList, table: Mapping[int, int], reason: str, in_color: bool = False
) -> Labels:
    """Return labels that are written anew, numbered as the classes of a file."""
    kept = [value for value, name in sorted(known.names.items()) if not is_void(name)]
    palette = tuple(known.colors[value] for value in kept if value in known.colors)
    return Labels(
        classes=tuple(known.names[value] for value in kept),
        palette=palette if len(palette) == len(kept) else (),
        table=dict(table),
        in_color=in_color,
        convert=reason,
    )


def _decide_colors(
    seen: Values, known: ClassList | None, colors: Mapping[int, int], notes: list[str]
) -> Labels | None:
    """Decide for label maps in color."""
    if known and colors:
        table = _numbered_anew(known)
        strange = [_spelled(value) for value in seen.values if value not in colors]
        if strange:
            notes.append(
                f'Colors that are not in {known.source} become 255, unlabeled: '
                f'{first_names(strange)}.'
            )
        void = [name for name in known.names.values() if is_void(name)]
        if void:
            notes.append(f'The label {first_names(void)} is no class: its pixels become 255.')
        mapped = {code: table[value] for code, value in colors.items()}
        return _written(known, mapped, 'the label maps are in color', in_color=True)
    if len(seen.values) > MOST_COLORS:
        notes.append(
            f'The label maps have more than {MOST_COLORS} colors, so no file without their names '
            'can tell the classes from blurred edges: save a value or color per class as PNG, or '
            'write a class_dict.csv of name,r,g,b beside them.'
        )
        return None
    names = known.names if known and len(known.names) == len(seen.values) else {}
    listed = [names.get(number, _spelled(code)) for number, code in enumerate(seen.values)]
    notes.append(
        'No file says which color is which class: the classes are the colors found, as RGB. Write '
        'a class_dict.csv of name,r,g,b beside the data to name them.'
    )
    return Labels(
        classes=tuple(listed),
        palette=tuple((code >> 16, code >> 8 & 255, code & 255) for code in seen.values),
        table={code: number for number, code in enumerate(seen.values)},
        in_color=True,
        convert='the label maps are in color',
    )


def _spelled(code: int) -> str:
    return f'rgb {code >> 16} {code >> 8 & 255} {code & 255}'


def _decide_values(
    values: Sequence[int],
    seen: Values,
    known: ClassList | None,
    notes: list[str],
    zero_is_unlabeled: bool,
    reason: str,
) -> Labels | None:
    """Decide for label maps of numbers."""
    own = [value for value in values if value != UNLABELED]
    if len(own) > UNLABELED:
        notes.append(
            f'The label maps have {len(own)} values, as instances or depths have: mmseg reads '
            'numbers of classes from 0 to 254.'
        )
        return None
    if known is not None:
        return _decide_named(own, seen, known, notes, zero_is_unlabeled, reason)
    if values == [0, WHITE]:
        notes.append('The masks are black and white: 0 is background, 255 foreground.')
        table = {0: 0, WHITE: 1}
        why = 'the masks are black and white, and mmseg ignores 255'
        return Labels(('background', 'foreground'), table=table, convert=why)
    most = max(own, default=0)
    if most > UNLABELED or 2 * len(own) <= most:  # such as 0, 50, 100, 150
        notes.append(
            'No file names the classes, and the values in the label maps are far apart: they are '
            f'numbered in order. Values: {first_names(own, 10)}.'
        )
        names = tuple(f'class {value}' for value in own)
        table = {value: number for number, value in enumerate(own)}
        return Labels(names, table=table, convert='the values of the classes are far apart')
    no_zero = bool(own) and own[0] == 1
    reduced = zero_is_unlabeled or no_zero
    start = 1 if reduced else 0
    notes.append(
        f'No file names the classes: they have the numbers that the label maps have, {start} to '
        f'{most}.'
        + (' No label map has a 0, which is left out.' if no_zero and not zero_is_unlabeled else '')
    )
    names = tuple(f'class {value}' for value in range(start, most + 1))
    return _finish(names, seen, start, (), reason, range(start, most + 1))


def _decide_named(
    own: Sequence[int],
    seen: Values,
    known: ClassList,
    notes: list[str],
    zero_is_unlabeled: bool,
    reason: str,
) -> Labels | None:
    """Decide for label maps of numbers whose classes are named."""
    most = max(known.names)
    if most >= UNLABELED:
        notes.append(f'{known.source} names a value above 254, which mmseg ignores.')
        return None
    names = {value: known.names.get(value, f'class {value}') for value in range(most + 1)}
    from_one = own and max(own) == most + 1 and 0 in known.names
    if from_one and not is_void(names[0]):  # one value more than names
        if 0 in own and not zero_is_unlabeled:
            notes.append(
                f'{known.source} has {len(names)} names, and the label maps have the values 0 to '
                f'{max(own)}, of which either 0 or {max(own)} is no class: say which by a line '
                f'"unlabeled" at the beginning of {known.source}, or "void" at its end.'
            )
            return None
        notes.append(
            f'{known.source} has {len(names)} names and the values end at {max(own)}: 0 is taken '
            'for unlabeled, 1 for the first class.'
        )
        names = {value + 1: name for value, name in names.items()}
        most += 1
    elif 0 not in known.names or (zero_is_unlabeled and max(own, default=0) > most):
        names.pop(0)
    start = 1 if 0 not in names or is_void(names[0]) else 0
    kept = [value for value, name in sorted(names.items()) if value >= start and not is_void(name)]
    void = [value for value, name in names.items() if value > 0 and is_void(name)]
    unnamed = [value for value in own if value > most]
    if unnamed:
        notes.append(
            f'Values that {known.source} does not name are ignored: {first_names(unnamed, 10)}.'
        )
    classes = tuple(names[value] for value in kept)
    if not classes:
        notes.append(f'{known.source} names no class.')
        return None
    if kept != list(range(start, start + len(kept))) or max(unnamed, default=0) > UNLABELED:
        table = {value: number for number, value in enumerate(kept)}
        why = f'{known.source} names a label between the classes that is none'
        return Labels(classes, _colors(kept, known, seen), table=table, convert=why)
    if void:
        listed = first_names(names[value] for value in void)
        notes.append(f'The label {listed} is no class: its value {first_names(void)} is ignored.')
    if start:
        notes.append('The value 0 of the label maps is no class: it is unlabeled.')
    return _finish(classes, seen, start, (*void, *unnamed), reason, kept, known)


def _finish(
    classes: tuple[str, ...],
    seen: Values,
    start: int,
    ignored: Iterable[int],
    reason: str,
    kept: Sequence[int],
    known: ClassList | None = None,
) -> Labels:
    palette = _colors(kept, known, seen)
    if reason:  # written anew anyway, so without anything to reduce or ignore
        table = {value: number for number, value in enumerate(kept)}
        return Labels(classes, palette, table=table, convert=reason)
    return Labels(classes, palette, bool(start), tuple(sorted(ignored)))


def _colors(kept: Sequence[int], known: ClassList | None, seen: Values) -> tuple[Color, ...]:
    """Return the colors of all classes, from the file of names or the palette; none if not all."""
    for colors in (known.colors if known else {}, seen.palette):
        if all(value in colors for value in kept):
            return tuple(colors[value] for value in kept)
    return ()
