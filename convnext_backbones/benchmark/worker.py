"""Run each contender of a race in a process of its own.

Threads, memory and settings of one contender do not reach another.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

# A shorter turn is repeated, and its mean counts: the first run after a pause finds the caches
# without its weights and the processor at a low clock.
TURN_SECONDS = 0.2
STATUS = Path('/proc/self/status')
CLEAR_REFS = Path('/proc/self/clear_refs')


@dataclass(frozen=True)
class Prepared:
    """A contender that is ready to run.

    Attributes:
        run: Performs one run; runs are independent of each other.
        measures: Further figures, name -> function, computed once after the timing.
    """

    run: Callable[[], Any]
    measures: Mapping[str, Callable[[], Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Attributes:
        name: Name in tables.
        build: Builds the contender in its own process, where it is imported by name. The message
            of an exception that it raises becomes the reason why the contender is absent.
        ours: Whether it belongs to this package.
        dtype: What it computes in, ``fp32`` or ``bf16``; selects the ceiling that it is compared
            with.
        optional: Whether it takes part only where it is named.
    """

    name: str
    build: Callable[[], Prepared]
    ours: bool = False
    dtype: str = 'fp32'
    optional: bool = False


class ContenderError(Exception):
    """A contender cannot be built, fails, or dies; the message is the reason."""


class Session:
    """A contender inside its own process; the parent calls the methods by name."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender

    def build(self) -> None:
        """Build the contender, and note how much memory it occupies."""
        self.prepared = self.contender.build()
        gc.collect()
        with suppress(OSError, AttributeError):  # glibc only
            ctypes.CDLL(None).malloc_trim(0)
        self.resident = _memory('RssAnon')

    def run(self) -> float:
        """Take a turn; return the seconds of one run."""
        start = time.perf_counter()
        runs, elapsed = 0, 0.0
        while elapsed < TURN_SECONDS:
            self.prepared.run()
            runs += 1
            elapsed = time.perf_counter() - start
        return elapsed / runs

    def forget_peak(self) -> None:
        """Reset the peak of memory that the kernel keeps for this process."""
        try:
            CLEAR_REFS.write_text('5')
        except OSError:
            self.resident = None

    def finish(self) -> tuple[int | None, dict[str, Any]]:
        """Return the peak of memory in bytes above the resident memory, and the measures."""
        memory = None
        peak, files = _memory('VmHWM'), _memory('RssFile')
        if self.resident is not None and peak is not None and files is not None:
            # Without pages of files: a library's code becomes resident when it first runs.
            memory = max(peak - files - self.resident, 0)
        return memory, {name: measure() for name, measure in self.prepared.measures.items()}


def _memory(key: str) -> int | None:
    """Return a line of this process' status in bytes; None on systems without that file."""
    if not STATUS.exists():
        return None
    lines = dict(line.split(':', 1) for line in STATUS.read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


def _serve(connection: Connection, contender: Contender, threads: int) -> None:
    """Call the methods that the parent names, until it closes the connection."""
    with suppress(OSError):  # if memory runs out, the kernel should kill this process first
        Path('/proc/self/oom_score_adj').write_text('1000')
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # some libraries report their progress
        os.dup2(silence, stream.fileno())
    torch.set_num_threads(threads)
    session = Session(contender)
    while True:
        try:
            command = connection.recv()
        except EOFError:
            return
        try:
            connection.send((True, getattr(session, command)()))
        # Whatever a library raises, even SystemExit, must become a line of the report.
        except BaseException as error:
            connection.send((False, failure_reason(error)))


def failure_reason(error: BaseException) -> str:
    """Return one line that says why a contender failed."""
    if isinstance(error, ModuleNotFoundError):
        return f'not installed: {error.name}'
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__


class Worker:
    """The process of a contender.

    Args:
        contender: What it builds and runs; must be picklable.
        threads: Number of torch's threads.
    """

    def __init__(self, contender: Contender, threads: int) -> None:
        context = multiprocessing.get_context('spawn')
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, contender, threads))
        self._process.start()
        theirs.close()

    def ask(self, command: str) -> Any:
        """Call a method of the :class:`Session` in the process, and return its result.

        Raises:
            ContenderError: The method failed, or the process ended.
        """
        try:
            self._connection.send(command)
            succeeded, answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise ContenderError(_how_it_ended(self._process.exitcode)) from None
        if not succeeded:
            raise ContenderError(answer)
        return answer

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.terminate()
        self._process.join()


def _how_it_ended(status: int | None) -> str:
    if status == -signal.SIGKILL:
        return 'its process was killed, as happens when memory runs out'
    return f'its process ended with status {status}'


def call_in_process(function: Callable[[], Any], threads: int) -> Any:
    """Call a function in a process of its own, so that its memory is freed afterwards.

    Args:
        function: What to call; must be picklable.
        threads: Number of torch's threads.

    Raises:
        ContenderError: The function failed; the message is the reason.
    """
    worker = Worker(Contender('', _Call(function)), threads)
    try:
        worker.ask('build')
        return worker.ask('finish')[1]['value']
    finally:
        worker.close()


@dataclass(frozen=True)
class _Call:
    """Builds a contender whose only measure is the result of a function."""

    function: Callable[[], Any]

    def __call__(self) -> Prepared:
        return Prepared(run=self.function, measures=dict(value=self.function))
