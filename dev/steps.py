"""Run commands quietly: the output goes to a log file, the screen shows the progress.

The progress is read from the lines that mmengine logs. A terminal gets a bar, a pipe a line for
each tenth of the way.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

TAIL_LINES = 30  # of a failed step, on the screen
STOP_SECONDS = 60  # a training that is told to stop saves a checkpoint first
# As in 'Epoch(train)  [3][ 10/125]  lr: ...  loss: 0.8123' and 'Iter(train) [ 50/2000]  lr: ...'
POSITION = re.compile(r' (?:Epoch|Iter)\((train|val|test)\) +(?:\[ *(\d+)\])?\[ *(\d+)/(\d+)\]')
LOSS = re.compile(r' loss: ([\d.]+)')


@dataclass(frozen=True)
class Step:
    """A command to run.

    Attributes:
        title: Description for the screen.
        command: Words after ``python``.
        log: File for the output.
        epochs: Epochs of the training, if it counts in epochs.
    """

    title: str
    command: Sequence[str | Path]
    log: Path
    epochs: int = 1


class StepError(Exception):
    """A step failed.

    Args:
        step: The step.
        status: Exit status of the command.
        tail: Last lines of its output.
    """

    def __init__(self, step: Step, status: int, tail: Sequence[str]) -> None:
        super().__init__(f'{step.title}: failed with status {status}; the whole log is {step.log}')
        self.tail = list(tail)


def run_step(step: Step, cwd: Path, console: Console) -> None:
    """Run a step, and show how far it is.

    The command is stopped if anything, such as Ctrl-C, interrupts this function.

    Args:
        step: The step.
        cwd: Working directory of the command.
        console: Where to show the progress.

    Raises:
        StepError: The command failed.
    """
    words = [str(word) for word in step.command]
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    step.log.parent.mkdir(parents=True, exist_ok=True)
    with step.log.open('w') as log, Display(step, console) as display:
        log.write(f'$ python {" ".join(words)}\n')
        log.flush()
        process = subprocess.Popen(
            [sys.executable, '-u', *words],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                log.flush()
                tail.append(line.rstrip('\n'))
                display.read(line)
            status = process.wait()
        except BaseException:
            stop(process)
            raise
    if status:
        raise StepError(step, status, tail)


def stop(process: subprocess.Popen) -> None:
    """Ask a process to end, and kill it if it does not, or if the user insists."""
    process.terminate()
    try:
        process.communicate(timeout=STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.communicate()


class Display:
    """The progress of one step on the screen; a context manager.

    Args:
        step: The step.
        console: Where to show the progress.
    """

    def __init__(self, step: Step, console: Console) -> None:
        self.step = step
        self.console = console
        self.start = time.monotonic()
        self.tenths = 0
        self.bar = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn('[dim]{task.fields[detail]}'),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(step.title, total=None, detail='')

    def __enter__(self) -> Display:
        """Show the title."""
        if not self.console.is_terminal:
            self.console.print(self.step.title, highlight=False, soft_wrap=True)
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Complete the bar, unless the step was interrupted."""
        if error is None:
            self.bar.update(self.task, total=1, completed=1, detail='')
        self.bar.stop()

    def read(self, line: str) -> None:
        """Show the progress that a line of the output reports, if any."""
        position = read_position(line, self.step.epochs)
        if position is None:
            return
        mode, fraction, detail = position
        if mode == 'val':  # a pause of a training, whose progress stays
            self.bar.update(self.task, detail='validation')
            return
        self.bar.update(self.task, total=1, completed=fraction, detail=detail)
        tenths = int(10 * fraction + 1e-9)
        if mode == 'train' and tenths > self.tenths and not self.console.is_terminal:
            self.tenths = tenths
            minutes, seconds = divmod(int(time.monotonic() - self.start), 60)
            text = f'  {10 * tenths:3d}%  {minutes}:{seconds:02d}  {detail}'
            self.console.print(text, highlight=False, soft_wrap=True)


def read_position(line: str, epochs: int) -> tuple[str, float, str] | None:
    """Read from a line of mmengine's log how far a run is.

    Args:
        line: A line of the log.
        epochs: Epochs of the training, if it counts in epochs.

    Returns:
        The loop (``train``, ``val`` or ``test``), the fraction that is done and a description;
        None if the line says nothing about it.
    """
    found = POSITION.search(line)
    if found is None:
        return None
    mode, epoch, done, total = found[1], found[2], int(found[3]), int(found[4])
    fraction, detail = done / total, f'{done} of {total}'
    if mode == 'train' and epoch:
        fraction = (int(epoch) - 1 + fraction) / epochs
        detail = f'epoch {epoch} of {epochs}'
    loss = LOSS.search(line)
    return mode, min(fraction, 1.0), detail + (f', loss {loss[1]}' if loss else '')
