"""What a training run leaves behind without being asked.

A run without its config, its versions and its curves cannot be compared with the next one. So
``tools/train.py`` adds one hook to every config, and each work dir gets

- ``config.py``: the config as it ran, with overrides and with what the hardware changed;
- ``environment.json``: versions, machine, command line, seed, commit;
- ``results.csv``: a row for every logged iteration and for every validation;
- ``results.png``: the losses, learning rates and validation metrics of those rows, drawn.

The numbers are those that mmengine logs: they are read from its message hub.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from numbers import Real
from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

from .files import write_atomically
from .validation_loss import PREFIX, ValidationLossHook, annotated_dataset
from .version import __version__

CONFIG, ENVIRONMENT = 'config.py', 'environment.json'
RESULTS, PICTURE = 'results.csv', 'results.png'
PLACE = ('split', 'step', 'epoch', 'iter')  # the columns that say where in the training a row is
LR_COLUMNS = ('highest_lr', 'lowest_lr')
DEFAULT_INTERVAL = 10  # mmengine's, where a config has no LoggerHook
GIT_SECONDS = 30  # a checkout on a slow disk must not hold up a training
# Drawing waits until it has taken at most one part in so many of the training's time.
DRAWING_SHARE = 100

Row = dict[str, float | str]


def keep_records(cfg: Config, val_loss: bool = False) -> None:
    """Make a training with ``cfg`` leave its records; changes ``cfg`` in place, once.

    Args:
        cfg: A config of mmdet or mmseg.
        val_loss: Whether to compute the loss on the validation set as well.

    Raises:
        ValueError: ``val_loss`` with a config whose validation has no annotations.
    """
    if val_loss:
        annotated_dataset(cfg)  # fails now and not at the first validation
        _add_hook(cfg, ValidationLossHook)
    _add_hook(cfg, RecordsHook)
    if _tensorboard_works():
        visualizer = cfg.setdefault('visualizer', dict(type='Visualizer'))
        backends = list(visualizer.get('vis_backends') or [dict(type='LocalVisBackend')])
        if not any(backend['type'] == 'TensorboardVisBackend' for backend in backends):
            backends.append(dict(type='TensorboardVisBackend'))
        visualizer['vis_backends'] = backends


def _add_hook(cfg: Config, hook: type[Hook]) -> None:
    hooks = list(cfg.get('custom_hooks') or [])
    if not any(entry['type'] in (hook, hook.__name__) for entry in hooks):
        cfg.custom_hooks = [*hooks, dict(type=hook.__name__)]
    # The config that the run leaves has to find the hook in a process without this package.
    imports = cfg.get('custom_imports') or dict(imports=[], allow_failed_imports=False)
    names = imports['imports']
    names = [names] if isinstance(names, str) else list(names)
    if hook.__module__ not in names:
        cfg.custom_imports = dict(imports, imports=[*names, hook.__module__])


def _tensorboard_works() -> bool:
    """Whether mmengine's TensorBoard backend would find what it imports."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        return False
    return True


@HOOKS.register_module()
class RecordsHook(Hook):
    """Writes the files that this module is about into the work dir, on the first process.

    A resumed training goes on with the rows up to its checkpoint; any other training starts anew.
    A failure to draw is a warning.
    """

    # After IterTimerHook, and before LoggerHook resets the peak of the memory.
    priority = 'NORMAL'

    def __init__(self) -> None:
        self.table: ResultsTable | None = None
        self.interval = DEFAULT_INTERVAL
        self.next_drawing = -math.inf  # on the clock of time.monotonic

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Write config and environment, and open the table."""
        work_dir = Path(runner.work_dir)
        write_atomically(work_dir / CONFIG, runner.cfg.pretty_text)
        environment = describe_environment(runner)
        if runner.iter:
            environment['earlier_starts'] = _starts(work_dir / ENVIRONMENT)
        write_atomically(work_dir / ENVIRONMENT, json.dumps(environment, indent=2) + '\n')
        self.table = ResultsTable(work_dir / RESULTS, until_step=runner.iter)
        for hook in runner.hooks:
            if isinstance(hook, LoggerHook):
                self.interval = hook.interval
        runner.logger.info(
            f'Records of this training: {CONFIG}, {ENVIRONMENT}, {RESULTS} and {PICTURE} in '
            f'{work_dir}'
        )

    @master_only
    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Add a row where the log has a line, and at the end of an epoch."""
        place = dict(split='train', step=runner.iter + 1)
        row_is_due = self.every_n_inner_iters(batch_idx, self.interval)
        if _by_epoch(runner):
            place['epoch'] = runner.epoch + 1
            row_is_due |= self.end_of_epoch(runner.train_dataloader, batch_idx)
        if row_is_due:
            self.table.add(dict(place, iter=batch_idx + 1, **training_scalars(runner)))

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Add a row with the metrics of a validation within a training, and draw."""
        if self.table is None:
            return
        place = dict(split='val', step=runner.iter)
        if _by_epoch(runner):
            place['epoch'] = runner.epoch
        if self.table.rows and place.items() <= self.table.rows[-1].items():
            return  # a resumed training repeats the validation at its start
        scalars = {
            name: float(value) for name, value in (metrics or {}).items() if isinstance(value, Real)
        }
        self.table.add(place | scalars)
        self._draw(runner)

    @master_only
    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Draw."""
        self._draw(runner)

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Draw, however recent the last picture is."""
        self.next_drawing = -math.inf
        self._draw(runner)

    def _draw(self, runner: Runner) -> None:
        started = time.monotonic()
        if self.table is None or started < self.next_drawing:
            return
        try:
            draw_results(self.table.rows, self.table.path.with_name(PICTURE))
        except Exception as error:  # whatever it is, it is not worth a training
            # mmengine's logger gives the same warning once.
            runner.logger.warning(
                f'{PICTURE} could not be drawn ({type(error).__name__}: {error}); the training '
                f'goes on, its numbers are in {self.table.path}'
            )
        self.next_drawing = time.monotonic() + DRAWING_SHARE * (time.monotonic() - started)


def _by_epoch(runner: Runner) -> bool:
    """Whether the log counts epochs; mmengine calls a training by iterations one epoch."""
    return not isinstance(runner.train_loop, IterBasedTrainLoop)


def _starts(path: Path) -> list[dict]:
    """The records that an ``environment.json`` holds, oldest first."""
    if not path.is_file():
        return []
    last = json.loads(path.read_text())
    return [*last.pop('earlier_starts', []), last]


def training_scalars(runner: Runner) -> dict[str, float]:
    """What the log says of the current iteration, smoothed as in the log.

    The loss, its terms and what else is logged come first, then the highest and the lowest
    learning rate, seconds per iteration and of them for data, and the peak of the GPU's memory in
    MB.
    """
    window, smoothed = runner.log_processor.window_size, runner.log_processor.mean_pattern
    scalars = {}
    for name, history in runner.message_hub.log_scalars.items():
        prefix, _, name = name.partition('/')
        # mmengine logs the rate of the first group alone; the range of all stands below.
        if prefix == 'train' and not name.endswith('lr'):
            scalars[name] = history.mean(window) if smoothed.search(name) else history.current()
    times = {name: scalars.pop(name) for name in ('time', 'data_time') if name in scalars}
    rates = [
        rate
        for name, group_rates in runner.optim_wrapper.get_lr().items()
        if not name.endswith('base_lr')  # the one that the groups' rates derive from
        for rate in group_rates
    ]
    losses_first = sorted(scalars, key=lambda name: (name != 'loss', 'loss' not in name))
    scalars = {name: scalars[name] for name in losses_first}
    scalars |= dict(zip(LR_COLUMNS, (max(rates), min(rates)), strict=True)) | times
    if torch.cuda.is_available():
        scalars['memory'] = torch.cuda.max_memory_allocated() // 2**20
    return scalars


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


# --- environment ----------------------------------------------------------------------------


def describe_environment(runner: Runner) -> dict:
    """What a training depends on beside its config, for JSON."""
    modules = ('numpy', 'torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg')
    versions = {name: getattr(sys.modules.get(name), '__version__', None) for name in modules}
    devices = range(torch.cuda.device_count())
    return dict(
        started=datetime.now().astimezone().isoformat(timespec='seconds'),
        command=shlex.join(sys.argv),
        seed=runner.seed,
        first_step=runner.iter,
        versions=dict(python=platform.python_version(), convnext_backbones=__version__, **versions),
        hardware=dict(
            gpus=[torch.cuda.get_device_name(device) for device in devices],
            cpu=_cpu_name(),
            cpus=os.cpu_count(),
            threads=torch.get_num_threads(),
            processes=runner.world_size,
        ),
        git=dict(
            package=git_state(Path(__file__)),
            config=git_state(Path(runner.cfg.filename)) if runner.cfg.filename else None,
        ),
    )


def _cpu_name() -> str:
    with suppress(OSError):  # Linux only
        found = re.search(r'^model name\s*:\s*(.+)$', Path('/proc/cpuinfo').read_text(), re.M)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def git_state(path: Path) -> dict | None:
    """The commit of the checkout that holds a file, and whether anything in it has changed.

    None where there is no git or no checkout, and for a file that git ignores: an environment
    inside a checkout is not of its commit.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess:
        command = ['git', '-C', str(path.resolve().parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS)

    try:
        head = git('rev-parse', 'HEAD')
        ignored = git('check-ignore', '--quiet', path.name)
        changes = git('status', '--porcelain')
    except (OSError, subprocess.SubprocessError):
        return None
    if head.returncode or changes.returncode or ignored.returncode == 0:
        return None
    return dict(commit=head.stdout.strip(), dirty=bool(changes.stdout))


# --- picture --------------------------------------------------------------------------------

WIDTH, PANEL_HEIGHT, DPI = 9.0, 2.2, 110  # inches, inches, dots per inch
MOST_CURVES = 12  # in one panel
# The ten strong colours, then their pale companions.
COLOURS = [colormaps['tab20'](i) for i in (*range(0, 20, 2), *range(1, 20, 2))]
FEW_POINTS = 50  # a curve of at most so many has them marked
LOG_RANGE = 10  # losses and rates whose extremes have a higher ratio get a logarithmic axis
NOT_MEASURED = -1  # pycocotools' AP where there is nothing to find, such as no large objects


@dataclass(frozen=True)
class Curve:
    """A column of the table: the steps and the values of the rows that have it."""

    label: str
    steps: list[float]
    values: list[float]


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        title: What the vertical axis shows.
        curves: Each in a colour of its own.
        companions: Those of the validation, dashed in the colour of the curve of the same label.
        metrics: Whether these are metrics of the validation: linear, last values in the legend.
    """

    title: str
    curves: Sequence[Curve]
    companions: Sequence[Curve] = ()
    metrics: bool = False


def draw_results(rows: Sequence[Row], path: Path) -> None:
    """Draw the rows of a results table over the iterations, into a PNG file.

    Without a row that has something to draw there is no file.
    """
    panels = plan_panels(rows)
    if not panels:
        return
    # Without pyplot a figure needs no display, and the process's own figures are left alone.
    size = (WIDTH, PANEL_HEIGHT * len(panels))
    figure = Figure(size, dpi=DPI, layout='constrained')
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for panel, ax in zip(panels, axes, strict=True):
        _draw_panel(panel, ax)
    axes[0].set_title(path.resolve().parent.name)
    axes[-1].set_xlabel('iteration')
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1].xaxis.set_major_formatter(EngFormatter(sep=''))
    figure.align_ylabels()
    image = io.BytesIO()
    figure.savefig(image, format='png')
    write_atomically(path, image.getvalue())


def plan_panels(rows: Sequence[Row]) -> list[Panel]:
    """The panels for the rows of a table, from the top; those without a curve are left out."""
    train = _curves(row for row in rows if row['split'] == 'train')
    losses = [curve for curve in train if 'loss' in curve.label]
    rates = [replace(c, label=c.label.removesuffix('_lr')) for c in train if c.label in LR_COLUMNS]
    if len(rates) == 2 and rates[0].values == rates[1].values:
        rates = [replace(rates[0], label='all groups')]
    val_losses, metrics = [], {}
    for curve in _curves(row for row in rows if row['split'] == 'val'):
        if curve.label.startswith(PREFIX):
            val_losses.append(replace(curve, label=curve.label.removeprefix(PREFIX)))
            continue
        # Of COCO's twelve numbers six are for boxes and six for masks.
        group, found, number = curve.label.partition('_mAP')
        if found:
            curve = replace(curve, label=f'mAP{number}')
        metrics.setdefault(group if found else 'validation', []).append(curve)
    panels = [
        Panel('loss', [c for c in losses if c.label == 'loss'], val_losses),
        Panel('terms of the loss', [c for c in losses if c.label != 'loss'], val_losses),
        Panel('learning rate', rates),
        *(Panel(title, curves, metrics=True) for title, curves in metrics.items()),
    ]
    return [panel for panel in panels if panel.curves]


def _curves(rows: Iterable[Row]) -> list[Curve]:
    """The columns in which ``rows`` have numbers to draw, in order of appearance."""
    curves: dict[str, Curve] = {}
    for row in rows:
        for name, value in row.items():
            if name not in PLACE and math.isfinite(value) and value != NOT_MEASURED:
                curve = curves.setdefault(name, Curve(name, [], []))
                curve.steps.append(row['step'])
                curve.values.append(value)
    return list(curves.values())


def _draw_panel(panel: Panel, ax: Axes) -> None:
    shown = panel.curves[:MOST_CURVES]
    validation = {curve.label: curve for curve in panel.companions}
    for curve, colour in zip(shown, COLOURS, strict=False):
        label = f'{curve.label}  {curve.values[-1]:.4g}' if panel.metrics else curve.label
        marker = '.' if len(curve.steps) <= FEW_POINTS else None
        ax.plot(curve.steps, curve.values, color=colour, lw=1, marker=marker, label=label)
        if curve.label in validation:
            companion = validation[curve.label]
            ax.plot(companion.steps, companion.values, '--.', color=colour, lw=1)
    if any(curve.label in validation for curve in shown):
        ax.plot([], [], '--.', color='gray', lw=1, label='validation')
    if len(panel.curves) > len(shown):
        ax.plot([], [], ' ', label=f'and {len(panel.curves) - len(shown)} more in {RESULTS}')
    values = [value for curve in shown for value in curve.values]
    lowest, highest = min(values), max(values)
    if not panel.metrics and lowest > 0 and highest > LOG_RANGE * lowest:
        ax.set_yscale('log')
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest < 1e3 * lowest else (1,)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter('{x:g}')
    ax.set_ylabel(panel.title)
    ax.grid(alpha=0.3)
    ax.legend(
        loc='upper left',
        bbox_to_anchor=(1.0, 1.03),
        fontsize='small',
        labelspacing=0.2,
        frameon=False,
    )
