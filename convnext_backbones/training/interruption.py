"""End a training cleanly when it gets a signal or cannot write its files.

Slurm and spot machines send SIGTERM some time before they end a job; a terminal sends SIGINT at
Ctrl-C. In both cases the training saves its state, and ``--resume`` continues from there with the
same result as an uninterrupted run. After ``kill -9`` it continues from the last checkpoint.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from multiprocessing.util import register_after_fork
from types import FrameType, TracebackType
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.distributed import is_torchelastic_launched

from ..engine.processes import leave_process_group
from ..io.files import WriteError
from .resume import INTERRUPTED, newest_checkpoint

SIGNALS = (signal.SIGTERM, signal.SIGINT)
INTERRUPTED_STATUS = 130  # exit status that shells use for a command ended by SIGINT
# Error numbers of the system for a file that cannot be written though its permissions allow it.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@HOOKS.register_module()
class InterruptionHook(Hook):
    """End a training on SIGTERM or SIGINT, with a checkpoint.

    The hook is also a context manager: signals are handled within its block. When any process has
    received one, all processes finish the current iteration (of training or of validation), save,
    and exit: after SIGTERM with status 0, so that the job may be queued again; after SIGINT with
    130. A second SIGINT has its usual effect and ends the process at once.

    The processes compare notes after every iteration. That costs the reduction of a single number,
    at a point where mmengine has already synchronized with the GPU to log the loss.
    """

    priority = 'LOWEST'  # after all other hooks have finished the iteration

    def __init__(self) -> None:
        self.received = 0  # number of the signal; 0 while there is none
        self.val_batches = 0
        self.earlier: dict[int, Any] = {}  # signal handlers to restore
        self.fork_key: _ForkKey | None = None

    def __enter__(self) -> InterruptionHook:
        """Install handlers, except for signals that are being ignored.

        A shell ignores SIGINT for commands in the background. Only the main thread may install
        handlers. Processes that are forked within the block, such as data workers, are shielded
        from the signals.
        """
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self.earlier[number] = signal.signal(number, self._handle)
        if hasattr(signal, 'sigwaitinfo'):  # macOS lacks it: data workers get signals there
            self.fork_key = _ForkKey()
            register_after_fork(self.fork_key, _obey_parent_only)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore the earlier handlers."""
        self.fork_key = None
        for number, handler in self.earlier.items():
            signal.signal(number, handler)
        self.earlier.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = max(self.received, number)
        again = ''
        if number == signal.SIGINT:
            signal.signal(number, self.earlier[number])
            again = '; a second one ends it now'
        if is_main_process():
            name = signal.Signals(number).name
            # No print and no log: the signal may have interrupted either.
            os.write(2, f'{name}: ending after this iteration, with a checkpoint{again}\n'.encode())

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """End the training if a signal came, but not before accumulated gradients are applied."""
        if getattr(runner.optim_wrapper, 'should_update', lambda: True)():
            self._end_if_asked(runner)

    def before_val(self, runner: Runner) -> None:
        """Find the number of validation iterations that all processes have in common.

        Only in these may the processes wait for one another.
        """
        batches = torch.tensor(len(runner.val_dataloader))
        all_reduce(batches, 'min')
        self.val_batches = int(batches.item())

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Any = None,
    ) -> None:
        """End the training if a signal came; a resumed one repeats the whole validation."""
        if batch_idx < self.val_batches:
            self._end_if_asked(runner, in_validation=True)

    def _end_if_asked(self, runner: Runner, in_validation: bool = False) -> None:
        received = torch.tensor(self.received)
        all_reduce(received, 'max')
        if not received:
            return
        if in_validation:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(runner)  # swaps the averaged and the trained weights back
        meta = dict(validated=False)
        runner.save_checkpoint(runner.work_dir, INTERRUPTED, meta=meta, by_epoch=False)
        number = signal.Signals(int(received.item()))
        runner.logger.warning(
            f'{number.name}: saved {os.path.join(runner.work_dir, INTERRUPTED)} and ended. The '
            'same command with --resume continues from there.'
        )
        runner.visualizer.close()
        leave_process_group()
        # torchrun treats any status but 0 as a failure, and may start the training again.
        failed = number == signal.SIGINT and not is_torchelastic_launched()
        sys.exit(INTERRUPTED_STATUS if failed else 0)


class _ForkKey:
    """Key of an after-fork handler: multiprocessing drops the handler when the key is gone."""


def _obey_parent_only(_: _ForkKey) -> None:
    """Let a forked process, such as a data worker, be ended only by its parent.

    Ctrl-C and the shutdown of a machine reach all processes, but without its data workers a
    training could not finish the iteration.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    """Exit once the parent process sends SIGTERM; signals of other processes are discarded."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)


def explain_write_error(error: Exception, work_dir: str) -> str | None:
    """Return one sentence on a file that could not be written; None for any other error.

    Args:
        error: An exception that ended the training.
        work_dir: The work dir of the training; the sentence names its newest checkpoint.
    """
    if not isinstance(error, OSError):
        return None
    if not isinstance(error, WriteError) and error.errno not in NO_ROOM:
        return None
    try:
        newest = newest_checkpoint(work_dir)
    except (OSError, ValueError):
        newest = None
    kept = (
        f'the last undamaged checkpoint is {newest}'
        if newest
        else 'there is no undamaged checkpoint'
    )
    return (
        f'cannot write {error.filename or f"into {work_dir}"}: {error.strerror}; {kept}; free some '
        'space or make the folder writable, and run the same command with --resume'
    )
