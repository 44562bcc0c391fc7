"""Run one race, or a series of races over one parameter."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from ..models.variants import resolve_variant
from .case import Case, prepared_folder
from .contenders import list_contenders, prepare
from .machine import gemm_rates
from .race import call_alone, race
from .report import Report

DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16)
# From 0.25 to 4 megapixels; 32 divides all sides.
SIDES = (512, 736, 1024, 1440, 2048)
SWEEPS = dict(
    pixels=[dict(shape=(side, side)) for side in SIDES],
    batch=[dict(batch=batch) for batch in (1, 2, 4, 8)],
    arch=[dict(arch=arch) for arch in ('tiny', 'small', 'base', 'large')],
    threads=[],  # 1, 2, 4, ... up to those asked for
)


@dataclass(frozen=True)
class Options:
    """How races are run: at most so many rounds, and about so many seconds for all of them."""

    rounds: int
    seconds: float
    progress: Callable[[str], None]


def run_case(case: Case, names: Sequence[str] | None, dtype: str, options: Options) -> Report:
    """Race some contenders, by default all of a dtype.

    Raises:
        ContenderError: Our own plain form fails.
        FileNotFoundError: There is no such config.
        ValueError: A name or the config is wrong.
    """
    with prepared_folder() as folder:
        available = list_contenders(case, folder)
        names = names or [name for name, one in available.items() if one.dtype == dtype]
        for name in names:
            if name not in available:
                close = difflib.get_close_matches(name, available, n=1)
                hint = f'; did you mean {close[0]!r}?' if close else ''
                known = ', '.join(available)
                raise ValueError(f'expected contenders out of {known}, got {name!r}{hint}')
        contenders = [one for name, one in available.items() if name in names]
        options.progress('weights and reference')
        flops = call_alone(partial(prepare, case, folder), case.threads)
        options.progress('GEMM ceiling')
        rates = gemm(case, dict.fromkeys(contender.dtype for contender in contenders))
        ceilings = {dtype: rate['conv'] for dtype, rate in rates.items()}
        results = race(contenders, case.threads, options.rounds, options.seconds, options.progress)
    return Report(case, flops, ceilings, results)


def gemm(case: Case, dtypes: Iterable[str]) -> dict[str, dict[str, float]]:
    """The matrix products of the pointwise layers of a case, in operations per second by dtype."""
    height, width = case.shape
    strides = [4 * 2**i for i in range(4)]
    positions = [case.batch * (height // s) * (width // s) for s in strides]
    dims = resolve_variant(case.arch).dims
    return {
        dtype: call_alone(partial(gemm_rates, dims, positions, DTYPES[dtype]), case.threads)
        for dtype in dtypes
    }


def sweep(
    over: str, case: Case, names: Sequence[str] | None, dtype: str, options: Options
) -> list[Report]:
    """Race the same contenders at several sizes of one kind, a key of :data:`SWEEPS`."""
    changes = SWEEPS[over]
    if over == 'threads':
        powers = [2**i for i in range(int(math.log2(case.threads)) + 1)]
        changes = [dict(threads=n) for n in sorted({*powers, case.threads})]
    return [run_case(replace(case, **change), names, dtype, options) for change in changes]
