"""Fair timing of programs beside one another: a process each, in turns, in the same conditions.

Every contender lives in a process of its own, so that neither its threads, its memory nor its
settings reach another. Only one works at a time, and they take turns round by round: a machine
that slows down slows them all, and the ratio of two is taken within each round.

This module knows nothing about networks; :mod:`.contenders` has what is compared.
"""

from __future__ import annotations

import ctypes
import gc
import math
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

WARM_UPS = 2
MIN_ROUNDS = 3
# Between two turns; the threads of OpenMP spin for up to 0.2 s after their work.
PAUSE = 0.25
# A turn shorter than this is repeated, and its mean counts: the first run after a pause finds
# neither its weights in the caches nor the processor at speed.
TURN_SECONDS = 0.2
STATUS = Path('/proc/self/status')
CLEAR_REFS = Path('/proc/self/clear_refs')
MIB = 2**20


@dataclass(frozen=True)
class Prepared:
    """A contender that is ready to run.

    Attributes:
        run: One run; it gets and returns nothing that the next one depends on.
        measures: What else is found out, once and after the timing: name -> function.
    """

    run: Callable[[], Any]
    measures: Mapping[str, Callable[[], float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Attributes:
        name: What it is called in tables.
        build: Makes it ready, in its own process; importable from there by name. What it raises
            becomes the reason why the contender is absent.
        ours: Whether it is of this package.
        dtype: What it computes in, fp32 or bf16; says which ceiling it is held against.
    """

    name: str
    build: Callable[[], Prepared]
    ours: bool = False
    dtype: str = 'fp32'


@dataclass
class Result:
    """What came of a contender.

    Attributes:
        contender: Whose result it is.
        seconds: Wall time of one run, per round.
        memory: Peak in bytes above what was resident when it was ready to run: above libraries,
            weights and input. None where the system does not tell.
        measures: The values of its :attr:`Prepared.measures`.
        failure: Why there is no result; empty if there is one.
    """

    contender: Contender
    seconds: list[float] = field(default_factory=list)
    memory: int | None = None
    measures: dict[str, float] = field(default_factory=dict)
    failure: str = ''

    @property
    def median(self) -> float:
        """Median seconds of a run."""
        return statistics.median(self.seconds)


class ContenderError(Exception):
    """A contender cannot be built, fails or dies; the message is the reason."""


class _Session:
    """A contender, as seen from its own process; the parent calls the methods."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender

    def build(self) -> None:
        self.prepared = self.contender.build()
        gc.collect()
        with suppress(OSError, AttributeError):  # of glibc alone
            ctypes.CDLL(None).malloc_trim(0)
        self.resident = _memory('RssAnon')

    def run(self) -> float:
        """Take a turn; the seconds of one run."""
        start = time.perf_counter()
        runs, elapsed = 0, 0.0
        while elapsed < TURN_SECONDS:
            self.prepared.run()
            runs += 1
            elapsed = time.perf_counter() - start
        return elapsed / runs

    def forget_peak(self) -> None:
        try:
            CLEAR_REFS.write_text('5')
        except OSError:
            self.resident = None

    def finish(self) -> tuple[int | None, dict[str, float]]:
        """The peak above what was resident, and the measures."""
        memory = None
        if self.resident is not None:
            # Without pages of files: the code of a library becomes resident when it first runs.
            memory = max(_memory('VmHWM') - _memory('RssFile') - self.resident, 0)
        return memory, {name: measure() for name, measure in self.prepared.measures.items()}


def _memory(key: str) -> int | None:
    """A line of this process' status in bytes; None where there is no such file."""
    if not STATUS.exists():
        return None
    lines = dict(line.split(':', 1) for line in STATUS.read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


def _serve(connection, contender: Contender, threads: int) -> None:
    """The body of a process: calls what the parent asks for until the parent hangs up."""
    with suppress(OSError):  # if memory runs out, let it be this process that the kernel ends
        Path('/proc/self/oom_score_adj').write_text('1000')
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # some libraries report their progress
        os.dup2(silence, stream.fileno())
    torch.set_num_threads(threads)
    session = _Session(contender)
    while True:
        try:
            command = connection.recv()
        except EOFError:
            return
        try:
            connection.send((True, getattr(session, command)()))
        # Whatever a library raises, even an exit, must become a line of the report.
        except BaseException as error:
            connection.send((False, describe(error)))


def describe(error: BaseException) -> str:
    """A line that says what happened."""
    if isinstance(error, ModuleNotFoundError):
        return f'not installed: {error.name}'
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__


class Worker:
    """The process of a contender.

    Args:
        contender: What it builds and runs; must be picklable.
        threads: Of torch.
    """

    def __init__(self, contender: Contender, threads: int) -> None:
        context = multiprocessing.get_context('spawn')
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, contender, threads))
        self._process.start()
        theirs.close()

    def ask(self, command: str) -> Any:
        """Let the process call a method of its session; what that returns.

        Raises:
            ContenderError: It failed, or the process ended.
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


def _how_it_ended(status: int) -> str:
    if status == -signal.SIGKILL:
        return 'its process was killed, as happens when memory runs out'
    return f'its process ended with status {status}'


def call_alone(function: Callable[[], float], threads: int) -> Any:
    """Call a function in a process of its own, which takes its memory along when it ends.

    Raises:
        ContenderError: It failed; the message says how.
    """
    worker = Worker(Contender('', _Call(function)), threads)
    try:
        worker.ask('build')
        return worker.ask('finish')[1]['value']
    finally:
        worker.close()


@dataclass(frozen=True)
class _Call:
    function: Callable[[], Any]

    def __call__(self) -> Prepared:
        return Prepared(run=self.function, measures=dict(value=self.function))


def race(
    contenders: Sequence[Contender],
    threads: int,
    rounds: int,
    seconds: float = math.inf,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Result]:
    """Let contenders take turns.

    Args:
        contenders: In the order of their turns.
        threads: Of each; runtimes with threads of their own set them when they are built.
        rounds: How many turns each gets after :data:`WARM_UPS`, if there is time.
        seconds: About how long all rounds together may take; there are at least
            :data:`MIN_ROUNDS`.
        progress: Told what is going on.

    Returns:
        A result per contender, in their order.
    """
    results = [Result(contender) for contender in contenders]
    workers = [Worker(contender, threads) for contender in contenders]

    def ask(command: str) -> list[Any]:
        """Ask all in turn that have not failed; None for the others."""
        answers = []
        for result, worker in zip(results, workers, strict=True):
            answer = None
            if not result.failure:
                progress(f'{command}: {result.contender.name}')
                try:
                    answer = worker.ask(command)
                except ContenderError as error:
                    result.failure, result.seconds = str(error), []
                    worker.close()
                else:
                    time.sleep(PAUSE)
            answers.append(answer)
        return answers

    try:
        ask('build')
        for _ in range(WARM_UPS):
            turns = [turn for turn in ask('run') if turn is not None]
        ask('forget_peak')
        one_round = sum(max(turn, TURN_SECONDS) + PAUSE for turn in turns) or math.inf
        for _ in range(min(rounds, max(MIN_ROUNDS, int(min(seconds / one_round, rounds))))):
            for result, turn in zip(results, ask('run'), strict=True):
                if turn is not None:
                    result.seconds.append(turn)
        for result, answer in zip(results, ask('finish'), strict=True):
            if answer is not None:
                result.memory, result.measures = answer
    finally:
        for worker in workers:
            worker.close()
    return results


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """The median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def fit_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The exponent k of ``seconds ~ sizes ** k`` by least squares of the logarithms.

    Raises:
        ValueError: There are fewer than two different sizes.
    """
    if len(set(sizes)) < 2:
        raise ValueError(f'expected at least two different sizes to fit, got {list(sizes)}')
    return statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    ).slope


def reference_of(results: Iterable[Result]) -> Result | None:
    """Ours that the others are held against: optimized, else the plain one; None if all failed."""
    ours = [result for result in results if result.contender.ours and not result.failure]
    by_name = {result.contender.name: result for result in ours}
    names = ('ours optimized', 'ours bf16', 'ours')
    return next((by_name[name] for name in names if name in by_name), None)


def tabulate(
    results: Sequence[Result], flops: float, ceilings: Mapping[str, float]
) -> list[dict[str, Any]]:
    """A row of figures per contender that has any.

    Args:
        results: Of :func:`race`.
        flops: Operations of a run, two per multiply-add; a contender's own measure ``flops``
            goes before.
        ceilings: Operations per second that the machine reaches, by dtype.
    """
    reference = reference_of(results)
    rows = []
    for result in results:
        if result.failure:
            continue
        contender, measures = result.contender, result.measures
        rate = measures.get('flops', flops) / result.median
        rows.append(
            dict(
                contender=contender.name,
                ours=contender.ours,
                dtype=contender.dtype,
                median=result.median,
                min=min(result.seconds),
                max=max(result.seconds),
                ratio=reference and paired_ratio(result.seconds, reference.seconds),
                difference=measures.get('difference'),
                memory=result.memory,
                activations=measures.get('activations'),
                detections=measures.get('detections'),
                flops_per_second=rate,
                share=rate / ceilings[contender.dtype] if contender.dtype in ceilings else None,
                seconds=result.seconds,
            )
        )
    return rows
