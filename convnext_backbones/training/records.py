"""The files that every training leaves in its work dir, so that runs can be compared later.

``tools/train.py`` adds one hook to every config, which writes

- ``config.py``: the config as it ran, with all overrides and changes for the hardware;
- ``environment.json``: versions, machine, command line, seed, commit;
- ``results.csv``: a row for every logged iteration and for every validation;
- ``results.png``: the losses, learning rates and validation metrics of these rows as curves;
- ``report.html``: all of this as one page.

The rows are mmengine's own log entries, the same as in ``vis_data/scalars.json``. mmengine begins
that file anew, in another folder, at every start; ``results.csv`` is the table of all starts,
without the iterations that a resumed training repeats.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

from ..config.walk import annotated_dataset
from ..io.files import write_atomically
from ..reports.curves import draw_results
from ..reports.environment import describe_environment, now
from ..reports.results_table import RESULTS, ResultsTable, Row, training_columns
from ..reports.training_page import REPORT, write_training_page
from ..reports.training_runs import CONFIG, ENVIRONMENT
from .base_config import describe_base
from .custom_imports import set_custom_imports
from .layer_decay import LearningRateRangeHook
from .logged_scalars import LoggedScalarsBackend
from .validation_loss import ValidationLossHook

PICTURE = 'results.png'
ENTRIES = LoggedScalarsBackend.__name__
# After drawing, at least this multiple of the drawing time passes before the next drawing.
DRAWING_SHARE = 100


def set_records(cfg: Config, val_loss: bool = False) -> None:
    """Make a training with ``cfg`` write its records; calling it again changes nothing.

    Args:
        cfg: A config of mmdet or mmseg, changed in place.
        val_loss: Also compute the loss on the validation set.

    Raises:
        ValueError: ``val_loss`` is set, and the validation has no annotations.
    """
    if val_loss:
        annotated_dataset(cfg)  # raises now instead of at the first validation
        _add_hook(cfg, ValidationLossHook)
    _add_hook(cfg, LearningRateRangeHook)
    _add_hook(cfg, RecordsHook)
    set_custom_imports(cfg)
    wanted = [ENTRIES, 'TensorboardVisBackend'] if _tensorboard_works() else [ENTRIES]
    visualizer = cfg.get('visualizer') or dict(type='Visualizer')
    backends = list(visualizer.get('vis_backends') or [dict(type='LocalVisBackend')])
    present = [_type_name(backend) for backend in backends]
    backends += [dict(type=name) for name in wanted if name not in present]
    cfg.visualizer = dict(visualizer, vis_backends=backends)


def _add_hook(cfg: Config, hook: type[Hook]) -> None:
    custom = list(cfg.get('custom_hooks') or [])
    default = [entry for entry in (cfg.get('default_hooks') or {}).values() if entry]
    if hook.__name__ not in map(_type_name, [*custom, *default]):
        cfg.custom_hooks = [*custom, dict(type=hook.__name__)]


def _type_name(entry: dict) -> str:
    """Return the name of the type in an entry of a config: a class, or a name with any scope."""
    kind = entry['type']
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def _tensorboard_works() -> bool:
    """Whether mmengine's TensorBoard backend can import what it needs."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        return False
    return True


@HOOKS.register_module()
class RecordsHook(Hook):
    """Write ``config.py``, ``environment.json``, ``results.csv``, ``results.png``, ``report.html``.

    Only the first process writes. A resumed training keeps the rows up to its checkpoint; any
    other training starts a new table. If the picture or the page fails, the log has a warning.
    """

    # After LoggerHook, whose entries become rows.
    priority = 'LOW'

    def __init__(self) -> None:
        self.table: ResultsTable | None = None
        self.environment: dict[str, Any] = {}
        self.entries: LoggedScalarsBackend | None = None
        self.next_drawing = -math.inf  # on the clock of time.monotonic

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Write config and environment, and open the table."""
        work_dir = Path(runner.work_dir)
        write_atomically(work_dir / CONFIG, _dumped_config(runner).read_bytes())
        self.environment = describe_environment(runner)
        self.environment |= dict(last_step=runner.max_iters, base=describe_base(runner.cfg))
        if runner.iter:
            self.environment['earlier_starts'] = _starts(work_dir / ENVIRONMENT)
        self._write_environment(work_dir)
        self.table = ResultsTable(work_dir / RESULTS, until_step=runner.iter)
        self.entries = runner.visualizer.get_backend(ENTRIES)
        if self.entries is None:
            runner.logger.warning(
                f'{RESULTS} will hold validations only: expected dict(type={ENTRIES!r}) in '
                'visualizer.vis_backends, found none'
            )
        for hook in runner.hooks:
            if isinstance(hook, LoggerHook) and _by_epoch(runner):
                hook.ignore_last = False  # log the end of every epoch as well, which gives a row
        runner.logger.info(
            f'Records of this training: {CONFIG}, {ENVIRONMENT}, {RESULTS}, {PICTURE} and '
            f'{REPORT} in {work_dir}'
        )

    @master_only
    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Add a row if this iteration was logged."""
        entry = self.entries.take() if self.entries else None
        if self.table is None or entry is None:
            return
        row: Row = dict(split='train', step=runner.iter + 1)
        if _by_epoch(runner):
            row['epoch'] = runner.epoch + 1
        row['iter'] = batch_idx + 1
        self.table.add(row | training_columns(entry))

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Add a row with the metrics of a validation within a training, and draw."""
        if self.entries:
            self.entries.take()  # drop the log's entry: its losses are averages of all validations
        if self.table is None:
            return
        place: Row = dict(split='val', step=runner.iter)
        if _by_epoch(runner):
            place['epoch'] = runner.epoch
        if self.table.rows and place.items() <= self.table.rows[-1].items():
            return  # a resumed training has repeated the validation at its start
        scalars: Row = {
            name: float(value) for name, value in (metrics or {}).items() if isinstance(value, Real)
        }
        self.table.add(place | scalars)
        self._draw(runner)

    @master_only
    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Draw the curves up to here."""
        self._draw(runner)

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Note the end, and draw the final curves, even if the last drawing was recent."""
        if self.table is not None and runner.iter >= runner.max_iters:
            self.environment['finished'] = now()
            self._write_environment(Path(runner.work_dir))
        self.next_drawing = -math.inf
        self._draw(runner)

    def _write_environment(self, work_dir: Path) -> None:
        text = json.dumps(self.environment, indent=2) + '\n'
        write_atomically(work_dir / ENVIRONMENT, text)

    def _draw(self, runner: Runner) -> None:
        started = time.monotonic()
        if self.table is None or started < self.next_drawing:
            return
        rows, folder = self.table.rows, self.table.path.parent
        writers: dict[str, Callable[[], None]] = {
            PICTURE: lambda: draw_results(rows, folder / PICTURE),
            REPORT: lambda: write_training_page(folder / REPORT, [folder]),
        }
        for name, write in writers.items():
            try:
                write()
            except Exception as error:  # no failure to draw is worth the end of a training
                # mmengine's logger shows a repeated warning only once.
                runner.logger.warning(
                    f'{name} could not be drawn ({type(error).__name__}: {error}); the training '
                    f'continues, its numbers are in {self.table.path}'
                )
        self.next_drawing = time.monotonic() + DRAWING_SHARE * (time.monotonic() - started)


def _by_epoch(runner: Runner) -> bool:
    """Whether the log counts epochs; mmengine calls a training by iterations one epoch."""
    return not isinstance(runner.train_loop, IterBasedTrainLoop)


def _dumped_config(runner: Runner) -> Path:
    """Return the file into which mmengine's ``Runner.dump_config`` has written the config."""
    name = Path(runner.cfg.filename).name if runner.cfg.filename else f'{runner.timestamp}.py'
    return Path(runner.work_dir, name)


def _starts(path: Path) -> list[dict]:
    """Return all starts recorded in an ``environment.json``, oldest first."""
    if not path.is_file():
        return []
    last = json.loads(path.read_text())
    last.pop('base', None)  # the last start's stands for all
    return [*last.pop('earlier_starts', []), last]
