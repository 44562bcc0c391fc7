"""The records that a training leaves in its work dir, and the numbers in them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config_entries import read_config_text
from .curves import Curve, Panel
from .results_table import RESULTS, Row, read_rows

CONFIG, ENVIRONMENT = 'config.py', 'environment.json'


@dataclass(frozen=True)
class TrainingRun:
    """The records of one training.

    Attributes:
        name: The name in tables and curves.
        folder: The work dir.
        rows: The rows of ``results.csv``; none if the training has only begun.
        environment: The contents of ``environment.json``; empty if the file does not exist.
        config_text: The source of the config as it ran; None if the file does not exist.
        config: Its values, read without executing it; empty if the text is not Python.
    """

    name: str
    folder: Path
    rows: Sequence[Row]
    environment: Mapping[str, Any]
    config_text: str | None
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Speed:
    """How a training spent its time; None where the records do not say.

    Attributes:
        seconds_per_iteration: Median of the logged iterations.
        images_per_second: Of all processes together, at this time.
        waiting: Share of all the time in which the network waited for data, from 0 to 1.
        hours: All iterations together, extrapolated from the logged ones.
        memory: Peak of the GPU memory of one process, in MB.
    """

    seconds_per_iteration: float | None
    images_per_second: float | None
    waiting: float | None
    hours: float | None
    memory: float | None


def read_runs(folders: Sequence[Path]) -> list[TrainingRun]:
    """Read the records of trainings.

    The runs are named after their folders; where two have the same name, after the paths.

    Raises:
        ValueError: A folder is no work dir of a training, or a record in it is damaged.
    """
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [_read_run(*pair) for pair in zip(folders, names, strict=True)]


def _read_run(folder: Path, name: str) -> TrainingRun:
    results, environment, config = (folder / file for file in (RESULTS, ENVIRONMENT, CONFIG))
    if not results.is_file() and not environment.is_file():
        raise ValueError(
            f'expected the work dir of a training, with {RESULTS} and {ENVIRONMENT}, got '
            f'{str(folder)!r}, which has neither; tools/train.py --work-dir makes one'
        )
    try:
        rows = read_rows(results)[1] if results.is_file() else []
        facts = json.loads(environment.read_text()) if environment.is_file() else {}
    except ValueError as error:
        raise ValueError(
            f'expected the records that a training writes in {str(folder)!r}, cannot read them: '
            f'{error}'
        ) from error
    for row in rows:
        if 'split' not in row or not math.isfinite(float(row.get('step', math.nan))):
            raise ValueError(f'expected a split and a step in each row of {results}, got {row}')
    if not isinstance(facts, dict):
        raise ValueError(f'expected named entries in {environment}, got {facts!r:.200}')
    text = config.read_text(encoding='utf-8', errors='replace') if config.is_file() else None
    try:
        values = read_config_text(text or '')
    except ValueError:
        values = {}  # the page says so, and shows the text
    return TrainingRun(name, folder, rows, facts, text, values)


# --- numbers --------------------------------------------------------------------------------


def entry(contents: Any, *path: str) -> Any:
    """Return an entry of nested dicts, None where there is none."""
    for name in path:
        contents = contents.get(name) if isinstance(contents, Mapping) else None
    return contents


def training_rows(run: TrainingRun) -> list[Row]:
    """Return the rows of logged iterations."""
    return [row for row in run.rows if row['split'] == 'train']


def images_per_iteration(run: TrainingRun) -> int | None:
    """Return the images of one iteration of all processes; None if the records do not say."""
    batch = entry(run.config, 'train_dataloader', 'batch_size')
    processes = entry(run.environment, 'hardware', 'processes')
    return batch * processes if isinstance(batch, int) and isinstance(processes, int) else None


def speed(run: TrainingRun) -> Speed:
    """Return how a training spent its time."""
    rows = [row for row in training_rows(run) if 'time' in row]
    times = [float(row['time']) for row in rows]
    if not times or sum(times) <= 0:
        return Speed(None, None, None, None, _memory(run))
    steps = [float(row['step']) for row in rows]
    # Each row speaks for the iterations since the row before.
    lengths = [step - before for step, before in zip(steps, [0.0, *steps], strict=False)]
    total = sum(length * time for length, time in zip(lengths, times, strict=True))
    waits = [float(row.get('data_time', 0)) for row in rows]
    waited = sum(length * wait for length, wait in zip(lengths, waits, strict=True))
    images, median = images_per_iteration(run), statistics.median(times)
    return Speed(
        seconds_per_iteration=median,
        images_per_second=images / median if images else None,
        waiting=waited / total if 'data_time' in rows[0] and total > 0 else None,
        hours=total / 3600,
        memory=_memory(run),
    )


def _memory(run: TrainingRun) -> float | None:
    return max((float(row['memory']) for row in run.rows if 'memory' in row), default=None)


def speed_panels(runs: Sequence[TrainingRun]) -> list[Panel]:
    """Return panels of images per second, and of the share of time spent waiting for data."""
    speeds, waits = [], []
    for run in runs:
        images = images_per_iteration(run)
        rows = [row for row in training_rows(run) if float(row.get('time', 0)) > 0]
        steps = [float(row['step']) for row in rows]
        if images and rows:
            values = [images / float(row['time']) for row in rows]
            speeds.append(Curve(run.name, steps, values))
        shares = [100 * float(row.get('data_time', 0)) / float(row['time']) for row in rows]
        if any(shares):
            waits.append(Curve(run.name, steps, shares))
    panels = [
        Panel('images per second', speeds, metrics=True),
        Panel('waiting for data (%)', waits, metrics=True),
    ]
    return [panel for panel in panels if panel.curves]


def progress(run: TrainingRun) -> str:
    """Return how far a training has come, in words."""
    if not run.rows:
        return 'has begun; no iteration is logged yet'
    last = run.rows[-1]
    step = max(int(row['step']) for row in run.rows)
    place = f'iteration {step:,}'
    planned = entry(run.environment, 'last_step')
    if isinstance(planned, int):
        place += f' of {planned:,}'
    if 'epoch' in last:
        place += f', epoch {int(last["epoch"])}'
        epochs = entry(run.config, 'train_cfg', 'max_epochs')
        place += f' of {epochs}' if isinstance(epochs, int) else ''
    if entry(run.environment, 'finished'):
        return f'finished at {place}'
    if isinstance(planned, int):
        return f'{place}; it is running, or was interrupted'
    return place
