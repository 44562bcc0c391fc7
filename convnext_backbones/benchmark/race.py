"""Time contenders fairly: they take turns, round by round, under the same conditions.

Each contender has a process of its own, and only one works at a time. A machine that slows down
slows all of them down, and the ratio of two contenders is taken within each round.

This module knows nothing about networks; :mod:`.contenders` lists what is compared.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .worker import TURN_SECONDS, Contender, ContenderError, Worker

WARM_UPS = 2
MIN_ROUNDS = 3
# Seconds between two turns; OpenMP's threads spin for up to 0.2 s after their work.
PAUSE = 0.25


@dataclass
class Result:
    """The outcome of a contender.

    Attributes:
        contender: The contender.
        seconds: Wall time of one run, per round.
        memory: Peak in bytes above what was resident when the contender was ready to run, that is
            above libraries, weights and input. None if the system does not report it.
        measures: Values of :attr:`~.worker.Prepared.measures`.
        failure: Why there is no result; empty if there is one.
        first: Wall time of the first run, which includes compiling and choosing.
    """

    contender: Contender
    seconds: list[float] = field(default_factory=list)
    memory: int | None = None
    measures: dict[str, Any] = field(default_factory=dict)
    failure: str = ''
    first: float | None = None

    @property
    def median(self) -> float:
        """Median seconds of a run."""
        return statistics.median(self.seconds)


class _Turns:
    """The processes of a race, asked one after the other; those that failed are skipped.

    Args:
        contenders: In the order of their turns.
        threads: Number of threads of each.
        progress: Called with a line before each turn.
    """

    def __init__(
        self, contenders: Sequence[Contender], threads: int, progress: Callable[[str], None]
    ) -> None:
        self.progress = progress
        self.results = [Result(contender) for contender in contenders]
        self.workers = [Worker(contender, threads) for contender in contenders]

    def ask(self, command: str) -> list[Any]:
        """Return the answer of each contender, None for those that failed."""
        pairs = zip(self.results, self.workers, strict=True)
        return [self._ask_one(command, result, worker) for result, worker in pairs]

    def _ask_one(self, command: str, result: Result, worker: Worker) -> Any:
        if result.failure:
            return None
        self.progress(f'{command}: {result.contender.name}')
        try:
            answer = worker.ask(command)
        except ContenderError as error:
            result.failure, result.seconds = str(error), []
            worker.close()
            return None
        time.sleep(PAUSE)
        return answer

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.close()


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
        threads: Number of threads of each; runtimes with threads of their own set them when they
            are built.
        rounds: Turns of each after :data:`WARM_UPS`, if there is time.
        seconds: Approximate limit for all rounds together; there are at least
            :data:`MIN_ROUNDS`.
        progress: Called with a line before each turn.

    Returns:
        A result per contender, in the same order.
    """
    turns = _Turns(contenders, threads, progress)
    try:
        turns.ask('build')
        for result, turn in zip(turns.results, turns.ask('run'), strict=True):
            result.first = turn
        for _ in range(WARM_UPS - 1):
            warm_up = turns.ask('run')
        turns.ask('forget_peak')
        for _ in range(_affordable_rounds(warm_up, rounds, seconds)):
            for result, turn in zip(turns.results, turns.ask('run'), strict=True):
                if turn is not None:
                    result.seconds.append(turn)
        for result, answer in zip(turns.results, turns.ask('finish'), strict=True):
            if answer is not None:
                result.memory, result.measures = answer
    finally:
        turns.close()
    return turns.results


def _affordable_rounds(turns: Sequence[float | None], rounds: int, seconds: float) -> int:
    """Return how many rounds fit into ``seconds``, given the turns of one round."""
    one_round = sum(max(turn, TURN_SECONDS) + PAUSE for turn in turns if turn is not None)
    affordable = int(min(seconds / (one_round or math.inf), rounds))
    return min(rounds, max(MIN_ROUNDS, affordable))
