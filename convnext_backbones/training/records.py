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

import json
import math
import time
from numbers import Real
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

from ..config.walk import annotated_dataset
from ..io.files import write_atomically
from ..reports.curves import draw_results
from ..reports.environment import describe_environment
from ..reports.results_table import LR_COLUMNS, RESULTS, ResultsTable
from .validation_loss import ValidationLossHook

CONFIG, ENVIRONMENT = 'config.py', 'environment.json'
PICTURE = 'results.png'
DEFAULT_INTERVAL = 10  # mmengine's, where a config has no LoggerHook
# Drawing waits until it has taken at most one part in so many of the training's time.
DRAWING_SHARE = 100


def set_records(cfg: Config, val_loss: bool = False) -> None:
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
