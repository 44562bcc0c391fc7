"""Resume a training with the same result as if it had never stopped, wherever it stopped.

mmengine restores weights, optimizer, schedule, log and the order of the samples. This module adds:
picking the newest undamaged checkpoint, never deleting the last one before its successor is
written, resuming in mid-epoch, running a validation that was missed, and repeating the random
numbers.
"""

from __future__ import annotations

import logging
import os
import random
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import worker_init_fn
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from ..io.checkpoint import check_sums, read_checkpoint
from ..io.files import remove_leftovers
from .custom_imports import set_custom_imports

# Written when a training is told to end; mmengine's CheckpointHook writes all other checkpoints.
INTERRUPTED = 'interrupted.pth'
NAMES = re.compile(rf'(epoch|iter)_\d+\.pth|{re.escape(INTERRUPTED)}')
POINTER = 'last_checkpoint'  # mmengine's file with the path of CheckpointHook's latest checkpoint


def newest_checkpoint(work_dir: str | os.PathLike) -> str | None:
    """Find the undamaged checkpoint of a training that was written last.

    The time is the one stored in the file, which copying does not change. Damaged files are
    skipped, and the log names each with the reason.

    Args:
        work_dir: The work dir of the training.

    Returns:
        Its path; None if there are no checkpoints, damaged or not.

    Raises:
        FileNotFoundError: mmengine's pointer names a checkpoint in another folder that is missing.
        ValueError: There are checkpoints, and all of them are damaged.
    """
    folder = Path(work_dir)
    paths = [path for path in sorted(folder.glob('*.pth')) if NAMES.fullmatch(path.name)]
    if not paths and (folder / POINTER).is_file():  # in another folder, or under custom names
        paths = [Path((folder / POINTER).read_text().strip())]
    written: dict[Path, tuple[str, int, int]] = {}
    problems: list[ValueError] = []
    for path in paths:
        try:
            meta = read_checkpoint(path, mmap=True).get('meta', {})
            written[path] = meta.get('time', ''), meta.get('epoch', 0), meta.get('iter', 0)
        except ValueError as error:
            problems.append(error)
    newest = None
    for path in sorted(written, key=lambda path: written[path], reverse=True):
        try:
            check_sums(path)
        except ValueError as error:
            problems.append(error)
        else:
            newest = str(path)
            break
    for problem in problems:
        print_log(f'Skipped a damaged checkpoint: {problem}', 'current', logging.WARNING)
    if problems and newest is None:
        raise ValueError(
            f'expected an undamaged checkpoint in {os.fspath(work_dir)!r}, got {len(problems)} '
            f'damaged ones ({problems[-1]}); name another with --resume PATH, or omit --resume to '
            'start from the beginning'
        )
    return newest


def set_resumable(cfg: Config) -> None:
    """Replace mmengine's epoch loop and CheckpointHook by the classes of this module.

    Loops and hooks of other types are kept. The hooks of this module work without these classes;
    a training that stopped in mid-epoch then repeats the epoch.

    Args:
        cfg: Changed in place.
    """
    loop = cfg.get('train_cfg') or {}
    if loop.get('by_epoch') or loop.get('type') in _spellings(EpochBasedTrainLoop):
        kept = {key: value for key, value in loop.items() if key != 'by_epoch'}
        cfg.train_cfg = dict(kept, type=ResumableEpochBasedTrainLoop.__name__)
        set_custom_imports(cfg)
    hooks = cfg.get('default_hooks') or {}
    saving = hooks.get('checkpoint', dict(type=CheckpointHook, interval=1)) or {}
    if saving.get('type') in _spellings(CheckpointHook):
        saving = dict(saving, type=SafeCheckpointHook.__name__)
        cfg.default_hooks = dict(hooks, checkpoint=saving)
        set_custom_imports(cfg)


def _spellings(kind: type) -> tuple[type, str]:
    """Return the ways in which a config may name a class of mmengine."""
    return kind, kind.__name__


@LOOPS.register_module()
class ResumableEpochBasedTrainLoop(EpochBasedTrainLoop):
    """EpochBasedTrainLoop that can resume in the middle of an epoch.

    The batches that were already used are loaded again and skipped, as mmengine does in training
    by iterations, so that the following batches are the same.
    """

    seen_batches = 0  # used batches of the current epoch; stored in checkpoints

    def run_epoch(self) -> None:
        """Train for one epoch, or for the rest of a resumed one."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        resumed_at = self.seen_batches
        if resumed_at:
            self.runner.logger.info(f'Skipping {resumed_at} batches of this epoch that were used.')
        for index, batch in enumerate(self.dataloader):
            if index >= resumed_at:
                self.seen_batches = index + 1
                self.run_iter(index, batch)
        self.seen_batches = 0
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """CheckpointHook that deletes old checkpoints only after the new one is written."""

    file_backend: Any  # set by mmengine before training

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        with self._removing_afterwards():
            super()._save_checkpoint_with_step(runner, step, meta)
        if is_main_process():
            Path(runner.work_dir, INTERRUPTED).unlink(missing_ok=True)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._removing_afterwards():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_afterwards(self) -> Iterator[None]:
        """Postpone the removal of files to the end of the block; keep them if the block fails."""
        backend = self.file_backend
        removed: list[str] = []
        self.file_backend = copy(backend)
        self.file_backend.remove = removed.append
        try:
            yield
        finally:
            self.file_backend = backend
        for path in removed:
            backend.remove(path)


@HOOKS.register_module()
class PositionHook(Hook):
    """Store in checkpoints how far the epoch and its validation have come.

    mmengine stores the epoch and the iteration. This hook adds how many batches of the epoch were
    used, and whether the validation that is due at this place has run, because checkpoints are
    written before it. A run that stopped in between validates first when it is resumed.
    """

    priority = 'LOWEST'  # trains and validates when all other hooks are ready

    def __init__(self) -> None:
        self.validated = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restore the position."""
        if not runner.cfg.get('resume'):
            return
        meta = checkpoint['meta']
        self.validated = meta.get('validated', False)
        if isinstance(runner.train_loop, ResumableEpochBasedTrainLoop):
            runner.train_loop.seen_batches = meta.get('seen_batches', 0)

    def before_train(self, runner: Runner) -> None:
        """Remove half-written files of a killed run, and run a validation that it missed."""
        if is_main_process():
            remove_leftovers(runner.work_dir)
        if not self.validated and validation_is_due(runner):
            runner.logger.info('Starting with the validation that the interrupted run missed.')
            runner.val_loop.run()

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Note that the next validation has not run yet."""
        self.validated = False

    def before_val(self, runner: Runner) -> None:
        """Note that the validation runs: a checkpoint saved during it is one of its results."""
        self.validated = True

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the position to the checkpoint."""
        meta = checkpoint['meta']
        if self.validated:
            # mmengine's FlexibleRunner always adds 1, which is right only within an iteration.
            meta.update(epoch=runner.epoch, iter=runner.iter)
        meta.setdefault('validated', self.validated)
        meta['seen_batches'] = _seen_batches(runner.train_loop)


def _seen_batches(loop: BaseLoop) -> int:
    """Return the number of used batches of the current epoch, if the loop can resume in it."""
    return loop.seen_batches if isinstance(loop, ResumableEpochBasedTrainLoop) else 0


def validation_is_due(runner: Runner) -> bool:
    """Whether mmengine's loops would validate at the position where a resumed training starts."""
    loop: BaseLoop = runner.train_loop
    if isinstance(loop, IterBasedTrainLoop):
        done, end = loop.iter, loop.max_iters
    elif isinstance(loop, EpochBasedTrainLoop):
        done, end = loop.epoch, loop.max_epochs
    else:
        return False
    if runner.val_loop is None or _seen_batches(loop) or not done:
        return False
    loop._decide_current_val_interval()  # the interval may change in the course of a training
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == end)


@HOOKS.register_module()
class ResumableRandomnessHook(Hook):
    """Derive random numbers from the seed, the process, the epoch and the iteration.

    mmengine does not restore the states of the random generators, so augmentation, dropout,
    stochastic depth and the choice of proposals would differ after resuming. Nothing has to be
    stored to repeat them:

    - before every epoch (the only one, in training by iterations) all generators of the process
      are seeded, and with them data workers that start from then on;
    - before every iteration torch's generator, which the model uses, is seeded again.

    A resumed run loads the used batches again, and mmengine's augmentations draw from numpy, so
    the following batches are augmented in the same way. The number of processes and of workers has
    to be that of the first run. On the CPU the resumed run is then equal bit for bit; on GPUs, as
    far as ``randomness.deterministic`` makes their operations repeatable.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed the generators of this process and of the data workers that start from now on."""
        seed = derive_seed(runner.seed, runner.rank, runner.epoch)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        loader = runner.train_dataloader
        # Persistent workers would continue with the generators of the previous epoch.
        loader._iterator = None
        if getattr(loader.worker_init_fn, 'func', None) is worker_init_fn:
            # mmengine's function, which adds the index of the worker to the seed.
            loader.worker_init_fn = partial(loader.worker_init_fn, seed=seed)
        batches = getattr(runner.train_loop, 'dataloader_iterator', None)
        if batches is not None:
            # OneDL's mmengine would skip the used batches without loading them.
            batches.skip_iter = lambda count: deque(islice(batches, count), maxlen=0)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Seed torch's generator."""
        torch.manual_seed(derive_seed(runner.seed, runner.rank, runner.epoch, 1 + runner.iter))


def derive_seed(*numbers: int) -> int:
    """Combine several numbers into one well-mixed seed in [0, 2**31)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) >> 1
