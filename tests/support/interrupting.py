"""What ends trainings in test_interruption.py, and what starts those that get killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from convnext_backbones.io.files import TEMPORARY
from support.miniatures import leave_configs_unformatted

PLAIN = 'INTERRUPTING_PLAIN'  # in the environment: a training without ornament
SLOW_DISK = 0.1  # seconds that a checkpoint takes to get to it, for kills to meet it


@HOOKS.register_module()
class SignalHook(Hook):
    """Sends signals to its own process, before an iteration of training or of validation.

    Args:
        names: Of the signals, in order.
        at: Iterations of training that are done.
        stage: ``train`` or ``val``.
        rank: The process.
        mark: A file to write before; where torchrun has started again, nothing is sent any more.
    """

    def __init__(
        self, names: list[str], at: int, stage: str = 'train', rank: int = 0, mark: str = ''
    ) -> None:
        self.names, self.place, self.mark = names, (stage, at, rank), mark

    def _before_iter(self, runner, batch_idx, data_batch=None, mode='train') -> None:
        again = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') != '0'
        if (mode, runner.iter, get_rank()) == self.place and not again:
            if self.mark:
                Path(self.mark).touch()
            for name in self.names:
                os.kill(os.getpid(), getattr(signal, name))


@HOOKS.register_module()
class FailHook(Hook):
    """Fails at such a place, by which a process ends as if it was killed."""

    def __init__(self, at: int, stage: str) -> None:
        self.place = stage, at

    def _before_iter(self, runner, batch_idx, data_batch=None, mode='train') -> None:
        if (mode, runner.iter) == self.place:
            raise RuntimeError('a crash')


@HOOKS.register_module()
class DieWritingHook(Hook):
    """Kills the process when half of a file is written."""

    def __init__(self, name: str) -> None:
        self.name = name

    def before_train(self, runner) -> None:
        os.fsync = self._die_at_the_file

    def _die_at_the_file(self, file: int) -> None:
        if os.readlink(f'/proc/self/fd/{file}').endswith(self.name + TEMPORARY):
            os.ftruncate(file, os.fstat(file).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class CountHook(Hook):
    """Adds a line for each iteration of the first process to a file: how many are done."""

    priority = 'HIGHEST'

    def __init__(self, path: str) -> None:
        self.path = path

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if get_rank() == 0:
            with open(self.path, 'a') as file:
                file.write(f'{runner.iter + 1}\n')


def leave_ornament_out(patch: pytest.MonkeyPatch) -> None:
    """No pictures and no formatted configs, which take longer than the steps of these trainings."""
    leave_configs_unformatted(patch)
    patch.setattr('convnext_backbones.training.records.draw_results', lambda rows, path: None)


if PLAIN in os.environ:
    leave_ornament_out(pytest.MonkeyPatch())


def serve() -> None:
    """Train once for each line of input, with the arguments that it holds as JSON.

    Each time in a process of its own, whose number is printed when it has started and whose status
    when it has ended. Importing everything, which takes longer than these trainings, is done once.
    """
    from tools import train

    pytest.MonkeyPatch().setattr(os, 'fsync', lambda file: time.sleep(SLOW_DISK))
    for line in sys.stdin:
        process = os.fork()
        if not process:
            os.dup2(2, 1)
            try:
                train.main(json.loads(line))
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
            os._exit(0)
        print(process, flush=True)
        print(os.waitpid(process, 0)[1], flush=True)
