"""The CSV table of a training's numbers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from ..io.files import write_atomically

PREFIX = 'val/'
RESULTS = 'results.csv'
PLACE = ('split', 'step', 'epoch', 'iter')  # the columns that say where in the training a row is
LR_COLUMNS = ('highest_lr', 'lowest_lr')
Row = dict[str, float | str]


class ResultsTable:
    """The rows of a CSV file, to which rows and columns are added.

    A row is appended with a single write. One that brings a new column replaces the file.

    Args:
        path: The file. What is in it goes on up to ``until_step``; a line cut short by the end of
            a process does not count.
        until_step: Rows of later iterations are dropped; 0 begins anew.
    """

    def __init__(self, path: Path, until_step: int = 0) -> None:
        self.path = path
        self.columns: list[str] = []
        self.rows: list[Row] = []
        if until_step and path.is_file():
            text = path.read_text()
            reader = csv.DictReader(io.StringIO(text[: text.rfind('\n') + 1]))
            rows = [{name: _parse(name, row[name]) for name in row if row[name]} for row in reader]
            self.columns = list(reader.fieldnames or [])
            self.rows = [row for row in rows if row.get('step', math.inf) <= until_step]
        self._replace()

    def add(self, row: Row) -> None:
        """Add a row to the file; values are text or numbers."""
        self.rows.append(row)
        new = [name for name in row if name not in self.columns]
        if new:
            self.columns += new
            self._replace()
        else:
            with self.path.open('a', newline='') as file:
                file.write(self._lines([row]))

    def _replace(self) -> None:
        header = dict(zip(self.columns, self.columns, strict=True))
        write_atomically(self.path, self._lines([header, *self.rows]) if header else '')

    def _lines(self, rows: Sequence[Row]) -> str:
        text = io.StringIO(newline='')
        writer = csv.DictWriter(text, self.columns, lineterminator='\n')
        for row in rows:
            # Single precision has seven digits.
            values = {n: v if isinstance(v, str) else f'{v:.7g}' for n, v in row.items()}
            writer.writerow(values)
        return text.getvalue()


def _parse(column: str, value: str) -> float | str:
    return value if column == 'split' else float(value)
