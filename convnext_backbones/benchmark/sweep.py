"""Run one race, or a series of races over one parameter."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ..models.variants import resolve_variant
from .case import Case, prepared_folder
from .contenders import list_contenders, prepare
from .machine import gemm_rates
from .race import race
from .report import Report
from .worker import Contender, call_in_process

DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16)
SIDES = (512, 736, 1024, 1440, 2048)  # 0.25 to 4 megapixels; all are divisible by 32
SWEEPS: dict[str, list[dict[str, Any]]] = dict(
    pixels=[dict(shape=(side, side)) for side in SIDES],
    batch=[dict(batch=batch) for batch in (1, 2, 4, 8)],
    arch=[dict(arch=arch) for arch in ('tiny', 'small', 'base', 'large')],
    threads=[],  # 1, 2, 4, ... up to the number of threads asked for
)


@dataclass(frozen=True)
class RaceOptions:
    """How races are run.

    Attributes:
        rounds: Most rounds.
        seconds: Approximate limit for all rounds of a race.
        progress: Called with a line about the current step.
    """

    rounds: int
    seconds: float
    progress: Callable[[str], None]


def run_case(case: Case, names: Sequence[str] | None, dtype: str, options: RaceOptions) -> Report:
    """Race some contenders, by default all of a dtype.

    Args:
        case: What to compute.
        names: Names of the contenders; None for all of ``dtype``.
        dtype: ``fp32`` or ``bf16``.
        options: How to run the race.

    Raises:
        ContenderError: Our own plain form fails.
        FileNotFoundError: There is no such config.
        ValueError: A name is unknown, or the config is unsuitable.
    """
    with prepared_folder() as folder:
        contenders = select_contenders(list_contenders(case, folder), names, dtype)
        options.progress('weights and reference')
        flops = call_in_process(partial(prepare, case, folder), case.threads)
        options.progress('GEMM ceiling')
        rates = measure_ceilings(case, dict.fromkeys(one.dtype for one in contenders))
        ceilings = {dtype: rate['conv'] for dtype, rate in rates.items()}
        results = race(contenders, case.threads, options.rounds, options.seconds, options.progress)
    return Report(case, flops, ceilings, results)


def select_contenders(
    available: dict[str, Contender], names: Sequence[str] | None, dtype: str
) -> list[Contender]:
    """Return the contenders of these names, or all of a dtype, in the order of ``available``.

    Raises:
        ValueError: A name is unknown.
    """
    if not names:
        return [one for one in available.values() if one.dtype == dtype and not one.optional]
    for name in names:
        if name not in available:
            close = difflib.get_close_matches(name, available, n=1)
            hint = f'; did you mean {close[0]!r}?' if close else ''
            known = ', '.join(available)
            raise ValueError(f'expected contenders out of {known}, got {name!r}{hint}')
    return [one for name, one in available.items() if name in names]


def measure_ceilings(case: Case, dtypes: Iterable[str]) -> dict[str, dict[str, float]]:
    """Measure the matrix products of the pointwise layers of a case.

    Returns:
        By dtype, the operations per second; see :func:`.machine.gemm_rates`.
    """
    height, width = case.shape
    strides = [4 * 2**i for i in range(4)]
    positions = [case.batch * (height // s) * (width // s) for s in strides]
    dims = resolve_variant(case.arch).dims
    return {
        dtype: call_in_process(partial(gemm_rates, dims, positions, DTYPES[dtype]), case.threads)
        for dtype in dtypes
    }


def sweep(
    over: str, case: Case, names: Sequence[str] | None, dtype: str, options: RaceOptions
) -> list[Report]:
    """Race the same contenders at several sizes of one kind.

    Args:
        over: What varies, a key of :data:`SWEEPS`.
        case: The rest of what to compute.
        names: Names of the contenders; None for all of ``dtype``.
        dtype: ``fp32`` or ``bf16``.
        options: How to run the races.
    """
    changes = SWEEPS[over]
    if over == 'threads':
        powers = [2**i for i in range(int(math.log2(case.threads)) + 1)]
        changes = [dict(threads=n) for n in sorted({*powers, case.threads})]
    return [run_case(replace(case, **change), names, dtype, options) for change in changes]
