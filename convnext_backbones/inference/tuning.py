"""Choose among several ways to compute a layer by measuring them once."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .tuning_cache import Entry, TuningCache

VARIABLE = 'CONVNEXT_BACKBONES_TUNE'
MODES = ('off', 'auto', 'full')
# Seconds and rounds for a layer; the rounds of fast layers are repeated to last MIN_SECONDS.
LIMITS = dict(auto=(0.5, 3), full=(20.0, 9))
MIN_SECONDS = 0.003
# Seconds for all layers of a model; what is left then takes its default.
TOTAL_SECONDS = dict(auto=6.0, full=math.inf)
# The default stays unless another takes less than this share of its time.
GAIN = 0.95
# Largest difference, as a fraction of the largest value. Winograd's convolutions need the most.
TOLERANCES = {torch.float32: 3e-5, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Site:
    """A kind of layer that gets a choice of its own.

    Attributes:
        kind: Such as ``'block'``.
        dtype: Of its input.
        sizes: Numbers of channels.
        positions: Positions of all maps of a batch; near numbers share a choice.
    """

    kind: str
    dtype: torch.dtype
    sizes: tuple[int, ...]
    positions: int

    @property
    def name(self) -> str:
        """Describe it, with the number of positions rounded to a power of two."""
        bucket = 2 ** round(math.log2(max(self.positions, 1)))
        dtype = str(self.dtype).removeprefix('torch.')
        return f'{self.kind} {"x".join(map(str, self.sizes))}, {bucket} positions, {dtype}'


class Tuner:
    """Chooses among candidates for the layers of a model.

    Args:
        mode: One of :data:`MODES`.
        cache: Where choices are kept; by default in the user's cache.
        clock: Returns seconds.
    """

    def __init__(
        self,
        mode: str,
        cache: TuningCache | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.mode = mode
        self._cache = TuningCache() if cache is None else cache
        self._clock = clock
        self._forget()

    def _forget(self) -> None:
        self._entries: dict[tuple[str, int], Entry] = {}
        self._seconds = 0.0
        self._lock = threading.RLock()

    def choose(
        self,
        site: Site,
        candidates: Mapping[str, Callable[[], Tensor]],
        default: str,
        reference: str,
    ) -> str:
        """Return the name of the candidate to use.

        Args:
            site: The layer.
            candidates: Functions that compute its output, by name. They may return memory that
                the next call overwrites.
            default: The name that is used without measuring.
            reference: The name of the one that the outputs of others are compared with.
        """
        if self.mode == 'off' or len(candidates) == 1:
            return default
        key = site.name, torch.get_num_threads()
        entry = self._entries.get(key)
        if entry is None:
            with self._lock:
                entry = self._entries.get(key) or self._find(site, candidates, default, reference)
                self._entries[key] = entry
        return entry['choice'] if entry['choice'] in candidates else default

    def choices(self) -> list[dict[str, Any]]:
        """Return what was chosen: ``site``, ``choice``, ``milliseconds``, ``cached``."""
        return [
            dict(
                site=name,
                choice=entry['choice'],
                milliseconds=entry['milliseconds'],
                cached=entry['cached'],
            )
            for (name, _), entry in self._entries.items()
        ]

    def _find(
        self,
        site: Site,
        candidates: Mapping[str, Callable[[], Tensor]],
        default: str,
        reference: str,
    ) -> Entry:
        # Read each time: another model or process may have measured this layer by now.
        stored = self._cache.read().get(site.name)
        if stored and self.mode in (stored['mode'], 'auto'):
            times = {name: t for name, t in stored['milliseconds'].items() if name in candidates}
            if stored['choice'] in candidates:
                return dict(stored, cached=True)
            # 'full' has chosen what is not tried here, but has measured the others too. They are
            # not measured again, and its entry stays.
            if stored['mode'] == 'full' and default in times:
                return dict(stored, choice=_best(times, default), cached=True)
        if self._seconds >= TOTAL_SECONDS[self.mode]:
            return dict(choice=default, milliseconds={}, cached=False)
        start = self._clock()
        agreeing = self._agreeing(site, candidates, reference)
        times = self._measure(site, candidates, agreeing)
        _return_memory()
        self._seconds += self._clock() - start
        if not times:
            return dict(choice=default, milliseconds={}, cached=False)
        entry = dict(
            choice=_best(times, default),
            mode=self.mode,
            milliseconds={name: round(1000 * seconds, 4) for name, seconds in times.items()},
        )
        self._cache.add(site.name, entry)
        return dict(entry, cached=False)

    def _agreeing(
        self, site: Site, candidates: Mapping[str, Callable[[], Tensor]], reference: str
    ) -> list[str]:
        """Return the candidates that compute what the reference does.

        There are none if the reference fails or is not finite, as for an image with NaN: nothing
        can be compared with it.
        """
        try:
            expected = candidates[reference]().float().clone()
        # The plain form takes the most memory, and may fail where the default does not.
        except Exception as error:
            self._drop(site, reference, f'{type(error).__name__}: {error}', logging.DEBUG)
            return []
        if not expected.isfinite().all():
            self._drop(site, reference, 'its output is not finite', logging.DEBUG)
            return []
        tolerance = TOLERANCES[site.dtype] * expected.abs().max()
        names = [reference]
        for name, compute in candidates.items():
            if name == reference:
                continue
            try:
                found = compute()
            # Whatever a compiler or an operator raises: the others go on.
            except Exception as error:
                self._drop(site, name, f'{type(error).__name__}: {error}', logging.DEBUG)
                continue
            if found.shape != expected.shape:
                self._drop(site, name, f'its output is of shape {tuple(found.shape)}')
                continue
            difference = (found.float() - expected).abs().max()
            if difference <= tolerance:
                names.append(name)
            else:
                share = (difference / expected.abs().max()).item()
                self._drop(site, name, f'it differs by {share:.1e} of the largest value')
        return [name for name in candidates if name in names]

    def _drop(self, site: Site, name: str, problem: str, level: int = logging.WARNING) -> None:
        message = f'{site.name}: {name!r} is not used, because {problem}.'
        print_log(message, logger='current', level=level)

    def _measure(
        self, site: Site, candidates: Mapping[str, Callable[[], Tensor]], names: Iterable[str]
    ) -> dict[str, float]:
        """Return the least seconds of the candidates, which take turns.

        Other programs only ever add to the time. A candidate that fails drops out.
        """
        seconds, rounds = LIMITS[self.mode]
        times: dict[str, list[float]] = {name: [] for name in names}
        start = self._clock()
        for _ in range(rounds):
            for name in list(times):
                try:
                    times[name].append(self._time(candidates[name]))
                except Exception as error:
                    self._drop(site, name, f'{type(error).__name__}: {error}', logging.DEBUG)
                    del times[name]
            if self._clock() - start > seconds:
                break
        return {name: min(taken) for name, taken in times.items()}

    def _time(self, compute: Callable[[], Tensor]) -> float:
        start, runs, elapsed = self._clock(), 0, 0.0
        while elapsed < MIN_SECONDS:
            compute()
            runs += 1
            elapsed = self._clock() - start
        return elapsed / runs

    def __getstate__(self) -> dict[str, Any]:
        return dict(mode=self.mode, _cache=self._cache, _clock=self._clock)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()


def _best(times: Mapping[str, float], default: str) -> str:
    """Return the fastest; the default unless the gain is more than noise."""
    best = min(times, key=lambda name: times[name])
    gains = default not in times or times[best] < GAIN * times[default]
    return best if gains else default


def _return_memory() -> None:
    """Give what the candidates used back to the system, where the C library (glibc) can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def make_tuner(mode: str | None) -> Tuner:
    """Return a tuner.

    Args:
        mode: One of :data:`MODES`; None takes the environment variable
            ``CONVNEXT_BACKBONES_TUNE``, or ``'auto'``.

    Raises:
        ValueError: Another mode.
    """
    source = 'tune' if mode is not None else VARIABLE
    mode = mode if mode is not None else os.environ.get(VARIABLE) or 'auto'
    if mode not in MODES:
        raise ValueError(f'expected {source} to be one of {", ".join(MODES)}, got {mode!r}')
    return Tuner(mode)


def choices_of(model: nn.Module) -> list[dict[str, Any]]:
    """Return what was chosen for the layers of an optimized model.

    Returns:
        A dict for each kind of layer and number of positions that was computed: ``site``,
        ``choice``, ``milliseconds`` by candidate, and whether they are ``cached``, that is, were
        measured by another model or process.
    """
    tuners = {id(tuner): tuner for module in model.modules() if (tuner := _tuner(module))}
    return [choice for tuner in tuners.values() for choice in tuner.choices()]


def _tuner(module: nn.Module) -> Tuner | None:
    tuner = vars(module).get('tuner')
    return tuner if isinstance(tuner, Tuner) else None
