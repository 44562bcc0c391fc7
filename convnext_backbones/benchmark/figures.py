"""Compute the figures of a race from its results."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .race import Result

MIB = 2**20
REFERENCES = ('ours optimized', 'ours bf16', 'ours')  # the first that has a result


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Return the median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def fit_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the exponent k of ``seconds ~ sizes ** k``, a least-squares fit of the logarithms.

    Raises:
        ValueError: There are fewer than two different sizes.
    """
    if len(set(sizes)) < 2:
        raise ValueError(f'expected at least two different sizes to fit, got {list(sizes)}')
    return statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    ).slope


def reference_of(results: Iterable[Result]) -> Result | None:
    """Return the result of ours that the others are compared with; None if all of ours failed."""
    ours = [result for result in results if result.contender.ours and not result.failure]
    by_name = {result.contender.name: result for result in ours}
    return next((by_name[name] for name in REFERENCES if name in by_name), None)


def figure_rows(
    results: Sequence[Result], flops: float, ceilings: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return a row of figures per contender that has a result.

    Args:
        results: Results of a race.
        flops: Operations of a run, two per multiply-add; a contender's own measure ``flops``
            takes precedence.
        ceilings: Operations per second that the machine reaches, by dtype.
    """
    reference = reference_of(results)
    return [
        _figure_row(result, reference, flops, ceilings) for result in results if not result.failure
    ]


def _figure_row(
    result: Result, reference: Result | None, flops: float, ceilings: Mapping[str, float]
) -> dict[str, Any]:
    contender, measures = result.contender, result.measures
    rate = measures.get('flops', flops) / result.median
    return dict(
        contender=contender.name,
        ours=contender.ours,
        dtype=contender.dtype,
        median=result.median,
        min=min(result.seconds),
        max=max(result.seconds),
        ratio=paired_ratio(result.seconds, reference.seconds) if reference else None,
        difference=measures.get('difference'),
        memory=result.memory,
        activations=measures.get('activations'),
        detections=measures.get('detections'),
        first=result.first,
        choices=measures.get('choices') or [],
        flops_per_second=rate,
        share=rate / ceilings[contender.dtype] if contender.dtype in ceilings else None,
        seconds=result.seconds,
    )
