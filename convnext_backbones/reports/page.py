"""Reports as one HTML file that needs no network: facts, tables, charts and pictures.

The functions make blocks of HTML, in which all text is escaped. :func:`write_page` puts blocks into
sections and writes the file. The file's style and script are inside it. Its security policy allows
these two and embedded pictures, nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from ..io.files import write_atomically
from .svg import inline_svg

FOLDER = Path(__file__).parent
MISSING = '–'  # stands for a value that does not exist
TALL_ROWS = 40  # tables with more rows scroll in a box of their own
LONGEST_SIDE = 800  # of an embedded picture, in pixels; larger ones are reduced
JPEG_QUALITY = 85
FACT_DIGITS = 6  # significant digits of numbers in lists of facts


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading and an entry in the table of contents.

    Attributes:
        title: The heading.
        parts: Blocks of HTML, in order.
        note: One plain sentence below the heading.
    """

    title: str
    parts: Sequence[Markup]
    note: str = ''


@dataclass(frozen=True)
class Card:
    """Pictures of one image, with what there is to say about it.

    Attributes:
        title: Such as the file name.
        pictures: Captions and (H, W, 3) uint8 RGB images, shown side by side.
        lines: Short facts, one a line.
        classes: The classes in the image, for the page's class filter.
        group: Such as ``'best'``, for the gallery's group filter; or several names.
    """

    title: str
    pictures: Sequence[tuple[str, np.ndarray]]
    lines: Sequence[str] = ()
    classes: Sequence[str] = ()
    group: str | Sequence[str] = ''

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups."""
        return tuple(filter(None, [self.group] if isinstance(self.group, str) else self.group))


@dataclass(frozen=True)
class _Embedded:
    """A picture as it stands in the page.

    Attributes:
        width: Of the image before it was reduced, in pixels.
        height: Of the image before it was reduced, in pixels.
        address: A data: URI with the JPEG file.
    """

    width: int
    height: int
    address: str


# --- blocks ---------------------------------------------------------------------------------


def text(sentence: str) -> Markup:
    """Return a paragraph."""
    return Markup('<p>{}</p>').format(sentence)


def text_block(lines: str) -> Markup:
    """Return preformatted lines, such as a config."""
    return Markup('<pre tabindex="0">{}</pre>').format(lines)


def diff_block(lines: str) -> Markup:
    """Return a unified diff, preformatted, with added and removed lines in colors."""
    kinds = {'+': 'added', '-': 'removed'}
    marked = (
        Markup('<span class="{}">{}</span>').format(kinds[line[0]], line)
        if line[:1] in kinds
        else line
        for line in lines.splitlines()
    )
    return Markup('<pre tabindex="0">{}</pre>').format(Markup('\n').join(marked))


def facts(pairs: Mapping[str, object]) -> Markup:
    """Return a list of names and values; None becomes a dash."""
    return _part('facts', [(name, _shown(value, None)) for name, value in pairs.items()])


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    digits: int = 1,
    class_column: int | None = None,
) -> Markup:
    """Return a table that a click on a heading sorts.

    Args:
        columns: The headings.
        rows: The cells: text, numbers, blocks of HTML, or None. None and NaN become a dash, and are
            the last rows when the table is sorted by their column.
        digits: Digits after the point of numbers that are not whole by type.
        class_column: The column with the name of a class. The page's class filter hides the rows of
            other classes.
    """
    assert all(len(row) == len(columns) for row in rows)
    numeric = [
        any(_is_number(row[i]) for row in rows)
        and all(_is_number(row[i]) or row[i] is None for row in rows)
        for i in range(len(columns))
    ]
    lines = [
        (
            '' if class_column is None else row[class_column],
            [
                _cell(value, digits, is_number)
                for value, is_number in zip(row, numeric, strict=True)
            ],
        )
        for row in rows
    ]
    headings = list(zip(columns, numeric, strict=True))
    return _part('table', headings, lines, class_column is not None, len(rows) > TALL_ROWS)


def chart(figure: Figure, description: str) -> Markup:
    """Return a figure of matplotlib as SVG, with its description below.

    Args:
        figure: Black becomes the color of the page's text; see :func:`.svg.inline_svg`.
        description: What the chart shows.
    """
    return _part('chart', inline_svg(figure, description), description)


def picture(image: np.ndarray, description: str) -> Markup:
    """Return a picture with its description below.

    Args:
        image: (H, W, 3) uint8, RGB. It is reduced to ``LONGEST_SIDE``.
        description: What the picture shows.
    """
    return _part('picture', _embedded(image), description)


def gallery(cards: Sequence[Card]) -> Markup:
    """Return cards with pictures, and a filter if they have more than one group.

    The page's class filter hides the cards without the class, if any card names classes.
    """
    groups = list(dict.fromkeys(group for card in cards for group in card.groups))
    shown = [
        (
            card,
            [(caption, _embedded(image)) for caption, image in card.pictures],
            json.dumps(list(card.classes)),
        )
        for card in cards
    ]
    filtered = any(card.classes for card in cards)
    return _part('gallery', shown, groups if len(groups) > 1 else [], filtered)


# --- the page -------------------------------------------------------------------------------


def write_page(
    path: Path,
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    classes: Sequence[str] = (),
) -> None:
    """Write a page as one HTML file.

    Args:
        path: The file, in a folder that exists.
        title: The heading of the page.
        subtitle: The line below it.
        sections: The contents.
        classes: The names that the page's class filter offers; with none there is no filter.

    Raises:
        WriteError: The disk is full, or permission is missing.
    """
    style, script = (FOLDER / name for name in ('page.css', 'page.js'))
    page = _templates().get_template('page.html.jinja')
    content = page.render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        classes=classes,
        style=Markup(style.read_text(encoding='utf-8')),
        script=Markup(script.read_text(encoding='utf-8')),
        policy=_policy(style.read_bytes(), script.read_bytes()),
    )
    write_atomically(path, content)


def _policy(style: bytes, script: bytes) -> str:
    """Return a Content-Security-Policy that allows one style, one script and embedded pictures."""

    def source(content: bytes) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {source(style)}; script-src {source(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _part(name: str, *arguments: Any) -> Markup:
    """Return the block that a macro of ``parts.html.jinja`` makes."""
    return getattr(_templates().get_template('parts.html.jinja').module, name)(*arguments)


# --- values ---------------------------------------------------------------------------------


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_))


def _is_missing(value: object) -> bool:
    return value is None or (_is_number(value) and math.isnan(value))  # type: ignore[arg-type]


def _shown(value: Any, digits: int | None) -> str:
    """Return a value as text.

    Args:
        value: Anything; Markup stays as it is.
        digits: Digits after the point; None for ``FACT_DIGITS`` significant ones.
    """
    if _is_missing(value):
        return MISSING
    if isinstance(value, (bool, np.bool_)):
        return 'yes' if value else 'no'
    if isinstance(value, Integral):
        return f'{int(value):,}'
    if isinstance(value, Real):
        number = float(value)
        return f'{number:.{FACT_DIGITS}g}' if digits is None else f'{number:,.{digits}f}'
    return value if isinstance(value, str) else str(value)


def _cell(value: Any, digits: int, is_right: bool) -> dict[str, Any]:
    """Return the classes, the number to sort by if there is one, and the text of a cell."""
    missing = _is_missing(value)
    kinds = ['number'] * is_right + ['missing'] * missing
    number = repr(float(value)) if _is_number(value) and not missing else None
    return dict(
        kind=' '.join(kinds),
        value=number.replace('inf', 'Infinity') if number else None,
        text=_shown(value, digits),
    )


def _embedded(image: np.ndarray) -> _Embedded:
    """Return an (H, W, 3) uint8 RGB image as a JPEG file inside the page."""
    assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    height, width = image.shape[:2]
    reduced = Image.fromarray(np.ascontiguousarray(image))
    reduced.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    file = io.BytesIO()
    # Without subsampling of the colors: thin outlines would lose theirs.
    reduced.save(file, format='JPEG', quality=JPEG_QUALITY, subsampling=0)
    address = f'data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}'
    return _Embedded(width, height, address)
