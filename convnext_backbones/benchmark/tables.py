"""Make tables, and turn them into text."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 400  # of the text: wide enough to wrap no cell, which would break Markdown


def make_table(headings: Sequence[str], rows: Iterable[Sequence[str]], style: box.Box) -> Table:
    """Return a table with names on the left and figures on the right."""
    table = Table(box=style)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify='right' if i else 'left', no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    return table


def as_text(table: Table, width: int = WIDTH) -> str:
    """Return a table as lines of text."""
    text = io.StringIO()
    Console(file=text, width=width).print(table)
    return '\n'.join(line.rstrip() for line in text.getvalue().splitlines()).strip('\n')
