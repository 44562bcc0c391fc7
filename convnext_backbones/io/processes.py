"""Agree among the processes of a distributed run on a result, or on an error."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from mmengine.dist import (
    all_gather_object,
    broadcast_object_list,
    get_rank,
    is_distributed,
    is_main_process,
)

T = TypeVar('T')


def decide_together(decide: Callable[[], T]) -> T:
    """Call ``decide`` in the first process only, and return its result in all processes.

    Files that one node has just written, or removed, may look different from another.

    Raises:
        ValueError: In all processes, if ``decide`` raised one; the same for OSError.
    """
    result, error = _attempt(decide) if is_main_process() else (None, None)
    _raise_in_all(error)
    shared = [result]
    broadcast_object_list(shared)
    return shared[0]  # type: ignore[return-value]  # the first process put a T there


def first_process_first(action: Callable[[], T]) -> T:
    """Call ``action`` in all processes, in the first process of each machine before the others.

    The others then find the file that ``action`` has written there. Machines may not share a disk,
    so each has a first process.

    Raises:
        ValueError: In all processes, if ``action`` raised one in any; the same for OSError. None
            waits forever.
    """
    if not is_distributed():
        return action()
    is_first = int(os.environ.get('LOCAL_RANK', get_rank())) == 0
    result: T | None = None
    for first_turn in (True, False):
        error = None
        if is_first is first_turn:
            result, error = _attempt(action)
        _raise_in_all(error)
    return result  # type: ignore[return-value]  # every process has had its turn


def _attempt(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Return the result of ``action``, or the error that concerns the other processes, too."""
    try:
        return action(), None
    except (ValueError, OSError) as error:
        return None, error


def _raise_in_all(error: Exception | None) -> None:
    """Raise the error of the lowest rank that has one, in all processes."""
    errors = filter(None, all_gather_object(error))
    if (first := next(errors, None)) is not None:
        raise first
