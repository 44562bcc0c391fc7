"""Makes a resumed run the run that was never stopped, whenever it was stopped.

mmengine restores weights, optimizer, schedule, log and the order of the samples. What it leaves to
be desired is here: to find a checkpoint that is whole and never to be without one, to go on in the
middle of an epoch, to validate where the end came before a validation, and to draw the same random
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

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import worker_init_fn
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from ..io.checkpoint import check_sums, read_checkpoint
from ..io.files import remove_leftovers

# What a training leaves where it is asked to end; mmengine's CheckpointHook writes the others.
INTERRUPTED = 'interrupted.pth'
NAMES = re.compile(rf'(epoch|iter)_\d+\.pth|{re.escape(INTERRUPTED)}')
POINTER = 'last_checkpoint'  # mmengine's: the path of the last one that CheckpointHook wrote


def newest_checkpoint(work_dir: str | os.PathLike) -> str | None:
    """The checkpoint of a training that was written last, of those that are whole.

    The time is the one in the files, which copying does not change. Damaged files are passed over,
    and the log says which and why.

    Returns:
        Its path; None if there are no checkpoints, damaged or not.

    Raises:
        FileNotFoundError: mmengine names one in another folder, and it is not there.
        ValueError: There are checkpoints, and all of them are damaged.
    """
    folder = Path(work_dir)
    paths = [path for path in sorted(folder.glob('*.pth')) if NAMES.fullmatch(path.name)]
    if not paths and (folder / POINTER).is_file():  # elsewhere, or under names of the user's
        paths = [Path((folder / POINTER).read_text().strip())]
    written, damaged = {}, []
    for path in paths:
        try:
            meta = read_checkpoint(path, mmap=True).get('meta', {})
            written[path] = meta.get('time', ''), meta.get('epoch', 0), meta.get('iter', 0)
        except ValueError as error:
            damaged.append(error)
    newest = None
    for path in sorted(written, key=written.get, reverse=True):
        try:
            check_sums(path)
        except ValueError as error:
            damaged.append(error)
        else:
            newest = str(path)
            break
    for error in damaged:
        print_log(f'Passed over a checkpoint: {error}', 'current', logging.WARNING)
    if damaged and newest is None:
        raise ValueError(
            f'expected a whole checkpoint in {os.fspath(work_dir)!r}, got {len(damaged)} that are '
            f'damaged ({damaged[-1]}); name another with --resume PATH, or leave --resume out to '
            'start anew'
        )
    return newest


def set_resumable(cfg: Config) -> None:
    """Put the loop and the hook of this module in the place of mmengine's; changes ``cfg``.

    Loops and hooks of other kinds stay.
    """
    loop = cfg.get('train_cfg') or {}
    if loop.get('by_epoch') or loop.get('type') in _names(EpochBasedTrainLoop):
        kept = {key: value for key, value in loop.items() if key != 'by_epoch'}
        cfg.train_cfg = dict(kept, type=_path(ResumableEpochBasedTrainLoop))
    hooks = cfg.get('default_hooks') or {}
    saving = hooks.get('checkpoint', dict(type=CheckpointHook, interval=1)) or {}
    if saving.get('type') in _names(CheckpointHook):
        saving = dict(saving, type=_path(ProvidentCheckpointHook))
        cfg.default_hooks = dict(hooks, checkpoint=saving)


def _names(kind: type) -> tuple[type, str]:
    """What a config may say for a class of mmengine."""
    return kind, kind.__name__


def _path(kind: type) -> str:
    """What a config says for a class that mmengine has to import."""
    return f'{kind.__module__}.{kind.__name__}'


class ResumableEpochBasedTrainLoop(EpochBasedTrainLoop):
    """mmengine's loop, which can go on in the middle of an epoch.

    The batches that were seen are loaded again and passed over, as mmengine does in training by
    iterations: those that follow are the same.
    """

    seen_batches = 0  # of the current epoch; a checkpoint holds it

    def run_epoch(self) -> None:
        """Iterate one epoch, or what is left of it."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        resumed_at = self.seen_batches
        if resumed_at:
            self.runner.logger.info(f'Loading {resumed_at} batches of the epoch that were seen.')
        for index, batch in enumerate(self.dataloader):
            if index >= resumed_at:
                self.seen_batches = index + 1
                self.run_iter(index, batch)
        self.seen_batches = 0
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


class ProvidentCheckpointHook(CheckpointHook):
    """mmengine's hook, which removes old checkpoints before it writes new ones, the other way."""

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
        """Let files be removed at the end of the block, and only if it has not failed."""
        backend, removed = self.file_backend, []
        self.file_backend = copy(backend)
        self.file_backend.remove = removed.append
        try:
            yield
        finally:
            self.file_backend = backend
        for path in removed:
            backend.remove(path)


class PositionHook(Hook):
    """Keeps in checkpoints, beside mmengine's epoch and iteration, what these do not say.

    That is how much of the epoch was seen, and whether the validation that comes next at this
    place is in it: checkpoints are written before. A run that ended in between starts with the
    validation.
    """

    priority = 'LOWEST'  # trains and validates when all other hooks are ready

    def __init__(self) -> None:
        self.validated = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the place up."""
        if runner.cfg.get('resume'):
            meta = checkpoint['meta']
            self.validated = meta.get('validated', False)
            runner.train_loop.seen_batches = meta.get('seen_batches', 0)

    def before_train(self, runner: Runner) -> None:
        """Clear up after a run that was killed, and validate where it did not any more."""
        if is_main_process():
            remove_leftovers(runner.work_dir)
        if not self.validated and validation_is_due(runner):
            runner.logger.info('Starting with the validation, which the checkpoint is without.')
            runner.val_loop.run()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """From here on the next validation is another one."""
        self.validated = False

    def before_val(self, runner: Runner) -> None:
        """What is saved in the course of a validation is saved for its result."""
        self.validated = True

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the place."""
        meta = checkpoint['meta']
        if self.validated:
            # mmengine's FlexibleRunner counts on, as it does in the middle of an iteration.
            meta.update(epoch=runner.epoch, iter=runner.iter)
        meta.setdefault('validated', self.validated)
        meta['seen_batches'] = getattr(runner.train_loop, 'seen_batches', 0)


def validation_is_due(runner: Runner) -> bool:
    """Whether mmengine's loops would validate at the place where a resumed training starts."""
    loop: BaseLoop = runner.train_loop
    if isinstance(loop, IterBasedTrainLoop):
        done, end = loop.iter, loop.max_iters
    elif isinstance(loop, EpochBasedTrainLoop):
        done, end = loop.epoch, loop.max_epochs
    else:
        return False
    if runner.val_loop is None or getattr(loop, 'seen_batches', 0) or not done:
        return False
    loop._decide_current_val_interval()  # which may change in the course of a training
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == end)


class ResumableRandomnessHook(Hook):
    """Derives random numbers from the seed, the process, the epoch and the iteration.

    mmengine does not restore the states of the random generators, by which augmentation, dropout,
    stochastic depth and the choice of proposals differ after resuming. Nothing has to be stored
    for them:

    - before every epoch (the only one, in iteration-based training) all generators of the
      process are seeded, and with them data workers that start from then on;
    - before every iteration torch's is seeded again, by which the model draws.

    Batches that were seen are loaded again, and mmengine's augmentations draw from numpy: those of
    the batches that follow are the same. The number of processes and of workers has to be that of
    the first run. On the CPU the resumed run is then equal bit for bit; on GPUs, whose operations
    do not all repeat themselves, as far as ``randomness.deterministic`` makes them.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed the generators of this process and of the data workers that start from now on."""
        seed = derive_seed(runner.seed, runner.rank, runner.epoch)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        loader = runner.train_dataloader
        # Persistent workers would go on with the generators of the epoch before.
        loader._iterator = None
        if getattr(loader.worker_init_fn, 'func', None) is worker_init_fn:
            # mmengine's, which adds the number of the worker.
            loader.worker_init_fn = partial(loader.worker_init_fn, seed=seed)
        batches = getattr(runner.train_loop, 'dataloader_iterator', None)
        if batches is not None:
            # OneDL's mmengine would pass over those that were seen without loading them.
            batches.skip_iter = lambda count: deque(islice(batches, count), maxlen=0)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Seed torch's generator."""
        torch.manual_seed(derive_seed(runner.seed, runner.rank, runner.epoch, 1 + runner.iter))


def derive_seed(*numbers: int) -> int:
    """One well-mixed seed of several numbers, in [0, 2**31)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) >> 1
