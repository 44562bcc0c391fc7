"""Write metrics as JSON and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from ..io.files import write_atomically, write_json

METRICS_FILE = 'metrics.json'
PER_CLASS_FILES = 'per_class'  # .json and .csv


def write_per_class(prefix: str, classes: Sequence[str], columns: Mapping[str, np.ndarray]) -> None:
    """Write a table of classes to ``<prefix>.json`` and ``<prefix>.csv``.

    Args:
        prefix: Path of the files without the suffix.
        classes: Names of the rows.
        columns: Metrics by name: fractions from 0 to 1 of shape (classes,), written in percent.
            NaN, such as the IoU of a class that is in no image, becomes null in JSON and an empty
            cell in CSV.
    """
    rows = [
        dict(zip(['class', *columns], [name, *map(_percent, values)], strict=True))
        for name, *values in zip(classes, *columns.values(), strict=True)
    ]
    write_json(Path(f'{prefix}.json'), rows)
    table = io.StringIO()
    writer = csv.DictWriter(table, ['class', *columns], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(Path(f'{prefix}.csv'), table.getvalue())


def _percent(fraction: float) -> float | None:
    return _number_or_none(round(100 * float(fraction), 4))


def write_metrics(folder: str, metrics: Mapping[str, Any]) -> Path:
    """Write ``metrics.json`` into a folder and return its path; NaN and infinity become null."""
    path = Path(folder) / METRICS_FILE
    write_json(path, {name: _number_or_none(value) for name, value in metrics.items()})
    return path


def _number_or_none(value: Any) -> Any:
    return None if isinstance(value, Real) and not math.isfinite(value) else value
