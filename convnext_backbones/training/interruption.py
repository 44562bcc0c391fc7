"""What a training does when it is told to end, or cannot write.

Slurm and spot machines send SIGTERM some time before they end a job, a terminal sends SIGINT at
Ctrl-C. Either way the training saves its state, from which ``--resume`` goes on as if nothing had
been. What ends without a word, as by ``kill -9``, goes on from the last checkpoint.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from multiprocessing.util import register_after_fork

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch.distributed import is_torchelastic_launched

from ..engine.processes import leave_process_group
from ..io.files import WriteError
from .resume import INTERRUPTED, newest_checkpoint

SIGNALS = (signal.SIGTERM, signal.SIGINT)
INTERRUPTED_STATUS = 130  # a shell's, for a command that SIGINT has ended
# The system's reasons why a file that may be written is not.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class InterruptionHook(Hook):
    """Ends a training on SIGTERM or SIGINT, with a checkpoint.

    A context manager, in which signals are noted. When one of the processes has got one, all of
    them finish the iteration, of training or of validation, save, and exit: on SIGTERM with status
    0, by which the job may be queued again; on SIGINT with 130. A second SIGINT does what the
    first would do elsewhere: it ends the process now.

    The processes ask each other after every iteration. That is one number more to add up, at a
    point at which mmengine has waited for the GPU already, in order to log the loss.
    """

    priority = 'LOWEST'  # when everything else that belongs to an iteration is done

    def __init__(self) -> None:
        self.received = 0  # the number of the signal
        self.val_batches = 0
        self.earlier = {}  # handlers
        if hasattr(signal, 'sigwaitinfo'):  # not on macOS, where data workers get signals as well
            register_after_fork(self, _heed_parent_only)

    def __enter__(self) -> InterruptionHook:
        """Note signals from here on, those that are ignored excepted.

        A shell ignores SIGINT for what it runs in the background. Python lets the main thread only
        handle signals.
        """
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self.earlier[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        """Leave them to those who had them before."""
        for number, handler in self.earlier.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        self.received = max(self.received, number)
        again = ''
        if number == signal.SIGINT:
            signal.signal(number, self.earlier[number])
            again = '; a second one ends it now'
        if is_main_process():
            name = signal.Signals(number).name
            # Neither print nor log, in the middle of which the signal may have come.
            os.write(2, f'{name}: ending after this iteration, with a checkpoint{again}\n'.encode())

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """End, if this is asked for; gradients that are added up have to make their step first."""
        if getattr(runner.optim_wrapper, 'should_update', lambda: True)():
            self._end_if_asked(runner)

    def before_val(self, runner: Runner) -> None:
        """Find the number of iterations that all processes have, so that none waits for others."""
        batches = torch.tensor(len(runner.val_dataloader))
        all_reduce(batches, 'min')
        self.val_batches = batches.item()

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """End, if this is asked for; the resumed training starts with the whole validation."""
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
                    hook.after_val_epoch(runner)  # puts the averaged weights back in their place
        meta = dict(validated=False)
        runner.save_checkpoint(runner.work_dir, INTERRUPTED, meta=meta, by_epoch=False)
        number = signal.Signals(received.item())
        runner.logger.warning(
            f'{number.name}: saved {os.path.join(runner.work_dir, INTERRUPTED)} and ended. The '
            'same command with --resume goes on from there.'
        )
        runner.visualizer.close()
        leave_process_group()
        # torchrun takes any other status than 0 for a failure, and may start the training again.
        failed = number == signal.SIGINT and not is_torchelastic_launched()
        sys.exit(INTERRUPTED_STATUS if failed else 0)


def _heed_parent_only(_) -> None:
    """Let a process that was forked, such as a data worker, be ended by its parent only.

    Ctrl-C and the end of a machine reach all processes; without its workers a training could not
    finish the iteration.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)


def explain_write_error(error: Exception, work_dir: str) -> str | None:
    """One sentence on a file that could not be written; None if ``error`` is another one."""
    if not isinstance(error, WriteError) and getattr(error, 'errno', None) not in NO_ROOM:
        return None
    try:
        newest = newest_checkpoint(work_dir)
    except (OSError, ValueError):
        newest = None
    kept = f'the last whole checkpoint is {newest}' if newest else 'there is no whole checkpoint'
    return (
        f'cannot write {error.filename or f"into {work_dir}"}: {error.strerror}; {kept}; make room '
        'or make the folder writable, and run the same command with --resume'
    )
