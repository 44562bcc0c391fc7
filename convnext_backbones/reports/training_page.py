"""The report of one training, or of several side by side, from the records in their work dirs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from .config_entries import differing_lines
from .curves import METRICS, RATES, Curve, Panel, compare_panels, panel_figure, plan_panels
from .page import (
    Section,
    chart,
    diff_block,
    facts,
    table,
    text,
    text_block,
    write_page,
)
from .results_table import VAL_LOSS_PREFIX
from .training_runs import (
    CONFIG,
    ENVIRONMENT,
    TrainingRun,
    entry,
    images_per_iteration,
    progress,
    read_runs,
    speed,
    speed_panels,
    training_rows,
)

REPORT = 'report.html'
OWN_ENTRIES = ('work_dir', 'experiment_name')  # of a config, which differ between any two runs


def write_training_page(path: Path, folders: Sequence[Path]) -> None:
    """Write the report of trainings from the records in their work dirs.

    Nothing of the records is executed, not even the config, which is Python.

    Args:
        path: The HTML file.
        folders: The work dirs. One gives the report of a training; several give a comparison, with
            all curves of a number in the same axes and a column of the tables for each training.

    Raises:
        ValueError: A folder is no work dir of a training, or a record in it is damaged.
        WriteError: The disk is full, or permission is missing.
    """
    runs = read_runs(folders)
    if len(runs) == 1:
        panels = plan_panels(runs[0].rows)
        title, subtitle = f'Training {runs[0].name}', progress(runs[0]).capitalize()
    else:
        panels = compare_panels({run.name: run.rows for run in runs})
        title, subtitle = f'{len(runs)} trainings', ', '.join(run.name for run in runs)
    rates = [panel for panel in panels if panel.title.startswith(RATES)]
    metrics = [panel for panel in panels if panel.metrics]
    losses = [panel for panel in panels if panel not in (*rates, *metrics)]
    sections = [
        _overview(runs),
        _curve_section('Losses', losses, runs, 'lowest', 'No loss is logged yet.'),
        Section('Learning rates', _charts(rates) or [text('No learning rate is logged yet.')]),
        _curve_section('Validation', metrics, runs, 'highest', _no_validation(runs)),
        _speed(runs),
        *([_environment(runs[0])] if len(runs) == 1 else []),
        *([_config(runs[0])] if len(runs) == 1 else [_config_differences(runs)]),
    ]
    write_page(path, title, subtitle, sections)


# --- numbers --------------------------------------------------------------------------------


def _overview(runs: Sequence[TrainingRun]) -> Section:
    columns = [_overview_of(run) for run in runs]
    if len(runs) == 1:
        return Section('Overview', [facts(columns[0])])
    return Section('Overview', [_side_by_side(runs, columns)])


def _overview_of(run: TrainingRun) -> dict[str, object]:
    seen = entry(run.environment, 'hardware', 'gpus')
    cpu = entry(run.environment, 'hardware', 'cpu')
    return {
        'Progress': progress(run),
        'Started': entry(run.environment, 'started'),
        'Finished': entry(run.environment, 'finished'),
        'Seed': _plain(entry(run.environment, 'seed')),
        'Images per iteration': images_per_iteration(run),
        'Processes': entry(run.environment, 'hardware', 'processes'),
        'GPUs': _counted(seen) if isinstance(seen, list) and seen else 'none',
        'CPU': cpu,
        'Command': entry(run.environment, 'command'),
    }


def _side_by_side(runs: Sequence[TrainingRun], columns: Sequence[Mapping[str, object]]) -> Markup:
    """Return a table with a row for each name and a column for each training."""
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(column.get(name) for column in columns)] for name in names]
    return table(['name', *(run.name for run in runs)], rows)


def _counted(names: Sequence[object]) -> str:
    counts = Counter(map(str, names))
    return ', '.join(f'{count} x {name}' for name, count in counts.items())


def _plain(number: Any) -> str | None:
    """Return a number that is a name, such as a seed, without separators of thousands."""
    return None if number is None else str(number)


def _charts(panels: Sequence[Panel]) -> list[Markup]:
    return [chart(panel_figure(panel), f'{panel.title} over the iterations') for panel in panels]


def _no_validation(runs: Sequence[TrainingRun]) -> str:
    planned = any(run.config.get('val_dataloader') for run in runs)
    return 'No validation is logged yet.' if planned else 'No validation is planned in the config.'


def _curve_section(
    title: str, panels: Sequence[Panel], runs: Sequence[TrainingRun], best: str, nothing: str
) -> Section:
    """Return the curves of some panels, and a table of their last and best values.

    Args:
        title: The heading.
        panels: Panels of one training, or of several as :func:`.compare_panels` makes them.
        runs: The trainings.
        best: ``'lowest'`` or ``'highest'``, the better values.
        nothing: What to say when there are no panels.
    """
    if not panels:
        return Section(title, [text(nothing)])
    choose = min if best == 'lowest' else max
    numbers = list(_numbers(panels, single=len(runs) == 1))
    if len(runs) == 1:
        columns = ['name', 'last', 'last at', best, f'{best} at']
        rows = [[name, *_last_and_best(curve, choose)] for name, _, curve in numbers]
        return Section(title, [*_charts(panels), table(columns, rows, digits=4)])
    parts = _charts(panels)
    for which in ('last', best):
        columns_of_runs: list[dict[str, object]] = [{} for _ in runs]
        for name, owner, curve in numbers:
            index = [run.name for run in runs].index(owner)
            last, last_step, value, step = _last_and_best(curve, choose)
            shown = (last, last_step) if which == 'last' else (value, step)
            columns_of_runs[index][name] = f'{shown[0]:.4g} at {shown[1]:,}'
        parts += [text(f'The {which} values, and their iterations:')]
        parts += [_side_by_side(runs, columns_of_runs)]
    return Section(title, parts)


def _numbers(panels: Sequence[Panel], single: bool) -> Iterator[tuple[str, str, Curve]]:
    """Yield name, training (for several) and curve of each number in the panels."""
    seen: set[tuple[str, str]] = set()
    for panel in panels:
        for prefix, curves in (('', panel.curves), (VAL_LOSS_PREFIX, panel.companions)):
            for curve in curves:
                name = f'{prefix}{curve.label if single else panel.title}'
                if single and panel.metrics and panel.title != METRICS:
                    name = f'{panel.title}_{curve.label}'
                owner = '' if single else curve.label
                if (name, owner) not in seen:  # panels share the losses of the validation
                    seen.add((name, owner))
                    yield name, owner, curve


def _last_and_best(
    curve: Curve, choose: Callable[[Iterable[float]], float]
) -> tuple[float, int, float, int]:
    best = choose(curve.values)
    step = curve.steps[curve.values.index(best)]
    return curve.values[-1], int(curve.steps[-1]), best, int(step)


def _speed(runs: Sequence[TrainingRun]) -> Section:
    columns = []
    for run in runs:
        found = speed(run)
        columns.append(
            {
                'Images per second': _rounded(found.images_per_second),
                'Seconds per iteration': _rounded(found.seconds_per_iteration),
                'Waiting for data (%)': _rounded(found.waiting, 100),
                'Hours of iterations': _rounded(found.hours),
                'Peak GPU memory (MB)': _rounded(found.memory),
            }
        )
    if not any(map(training_rows, runs)):
        return Section('Speed and memory', [text('No iteration is logged yet.')])
    body = facts(columns[0]) if len(runs) == 1 else _side_by_side(runs, columns)
    note = (
        'Speed is the median of the logged iterations, of all processes together. The hours are '
        'extrapolated from them, without validations. Only GPU memory is recorded.'
    )
    return Section('Speed and memory', [body, *_charts(speed_panels(runs))], note)


def _rounded(number: float | None, scale: float = 1) -> str | None:
    return None if number is None or math.isnan(number) else f'{scale * number:.4g}'


# --- environment and config -----------------------------------------------------------------


def _environment(run: TrainingRun) -> Section:
    if not run.environment:
        return Section('Environment', [text(f'The work dir has no {ENVIRONMENT}.')])
    versions = entry(run.environment, 'versions')
    pairs: dict[str, object] = dict(versions) if isinstance(versions, Mapping) else {}
    pairs['operators of mmcv'] = entry(run.environment, 'operators')
    for name in ('cpus', 'threads'):
        pairs[name] = entry(run.environment, 'hardware', name)
    for name in ('package', 'config'):
        state = entry(run.environment, 'git', name)
        dirty = ', with local changes' if entry(state, 'dirty') else ''
        commit = entry(state, 'commit')
        pairs[f'commit of the {name}'] = f'{commit}{dirty}' if commit else None
    parts = [facts(pairs)]
    earlier = entry(run.environment, 'earlier_starts')
    if isinstance(earlier, list) and earlier:
        starts = [*earlier, run.environment]
        rows = [[_plain(entry(start, name)) for name in _START_COLUMNS] for start in starts]
        parts += [
            text(f'The training was resumed; it has {len(starts)} starts.'),
            table(['started', 'first iteration', 'seed', 'command'], rows),
        ]
    return Section('Environment', parts)


_START_COLUMNS = ('started', 'first_step', 'seed', 'command')


def _config(run: TrainingRun) -> Section:
    if run.config_text is None:
        return Section('Config', [text(f'The work dir has no {CONFIG}.')])
    base = entry(run.environment, 'base')
    files, diff = entry(base, 'files'), entry(base, 'diff')
    if isinstance(diff, str) and isinstance(files, list):
        names = ', '.join(map(str, files))
        changed = [
            text(f'What the config, its overrides and the tools change in {names}:'),
            diff_block(diff or 'nothing'),
        ]
    else:
        reason = entry(base, 'missing') or f'{ENVIRONMENT} says nothing about its base'
        changed = [text(f'What the config changes in its base is not known: {reason}.')]
    if not run.config:
        changed.append(text(f'{CONFIG} is not Python that can be read.'))
    return Section('Config', [*changed, text('All of it:'), text_block(run.config_text)])


def _config_differences(runs: Sequence[TrainingRun]) -> Section:
    configs = [
        {name: value for name, value in run.config.items() if name not in OWN_ENTRIES}
        for run in runs
    ]
    unread = ', '.join(run.name for run in runs if not run.config)
    parts = [text(f'Not read, as {CONFIG} is missing or no Python: {unread}.')] if unread else []
    rows = differing_lines(configs)
    if not rows:
        return Section('Config', [*parts, text('The configs are the same.')])
    columns = ['entry', *(run.name for run in runs)]
    return Section(
        'Config',
        [*parts, table(columns, [[name, *values] for name, values in rows])],
        'The entries that differ.',
    )
