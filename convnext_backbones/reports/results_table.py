"""The CSV table of a training's numbers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..io.files import write_atomically

VAL_LOSS_PREFIX = 'val/'  # of the losses on the validation set, among its metrics
RESULTS = 'results.csv'
PLACE = ('split', 'step', 'epoch', 'iter')  # columns with a row's position in the training
LR_COLUMNS = ('highest_lr', 'lowest_lr')
LAST_COLUMNS = (*LR_COLUMNS, 'time', 'data_time', 'memory')
Row = dict[str, float | str]


def training_columns(entry: Mapping[str, float]) -> Row:
    """Return the columns of a training row, in order, from an entry of mmengine's log.

    The loss comes first, then its terms and other scalars, then the highest and the lowest
    learning rate, the seconds per iteration, the seconds of these spent waiting for data, and the
    peak of the GPU memory in MB.

    Args:
        entry: Scalars by name, with or without mmengine's prefix ``train/``.
    """
    scalars = {name.removeprefix('train/'): value for name, value in entry.items()}
    # mmengine's own rates are those of the first group; LR_COLUMNS are the range of all groups.
    unused = {*PLACE, *(name for name in scalars if name.endswith('lr')), *LAST_COLUMNS}
    names = [name for name in scalars if name not in unused]
    names.sort(key=lambda name: (name != 'loss', 'loss' not in name))
    names += [name for name in LAST_COLUMNS if name in scalars]
    return {name: scalars[name] for name in names}


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """Return the columns and the rows of a table in a file.

    A last line that was cut short by the end of a process is ignored, and so are empty cells.

    Raises:
        ValueError: A value is not a number, or a line has more values than there are columns.
    """
    text = path.read_text()
    reader = csv.DictReader(io.StringIO(text[: text.rfind('\n') + 1]), restkey='')
    rows = [{name: _parse(name, row[name]) for name in row if row[name]} for row in reader]
    return list(reader.fieldnames or []), rows


class ResultsTable:
    """A CSV file to which rows are added, and columns when a row needs them.

    A row is appended with a single write; a row with a new column replaces the file.

    Args:
        path: The file. If it exists, its rows are kept up to ``until_step``; a last line that was
            cut short by the end of a process is ignored.
        until_step: Rows of later iterations are dropped; 0 starts a new table.

    Attributes:
        path: The file.
        columns: The names of the columns, in order.
        rows: The rows of the file; empty cells are missing.
    """

    def __init__(self, path: Path, until_step: int = 0) -> None:
        self.path = path
        self.columns: list[str] = []
        self.rows: list[Row] = []
        if until_step and path.is_file():
            self.columns, rows = read_rows(path)
            self.rows = [row for row in rows if float(row.get('step', math.inf)) <= until_step]
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
        header: Row = dict(zip(self.columns, self.columns, strict=True))
        write_atomically(self.path, self._lines([header, *self.rows]) if header else '')

    def _lines(self, rows: Sequence[Row]) -> str:
        text = io.StringIO(newline='')
        writer = csv.DictWriter(text, self.columns, lineterminator='\n')
        for row in rows:
            # Seven digits, the precision of fp32.
            values = {n: v if isinstance(v, str) else f'{v:.7g}' for n, v in row.items()}
            writer.writerow(values)
        return text.getvalue()


def _parse(column: str, value: str) -> float | str:
    if not column:
        raise ValueError(f'expected a value for each column of {RESULTS}, got more: {value!r}')
    return value if column == 'split' else float(value)
