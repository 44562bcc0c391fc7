"""Time the steps from ResNet to ConvNeXt beside one another: which cost time and which save it.

All are plain networks of torch in channels_last, with random weights, as backbones without a
classifier. They take turns, and each is compared with the step that it follows in the same round.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich import box
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..models.roadmap import RoadmapNet
from ..models.roadmap_steps import REGIMES, STEPS, find_step
from .case import randomize
from .figures import MIB, paired_ratio
from .race import Result, race
from .sweep import RaceOptions
from .tables import as_text, make_table
from .worker import Contender, Prepared

LEVEL = 0.05  # of the sign test
SMALLEST = 32  # pixels: the stride of the last stage
HEADINGS = (
    'step', 'ms', 'over', 'ratio', 'middle half', 'verdict', 'GMACs', 'GFLOP/s',
    'memory, MiB', "accuracy gained, the authors'",
)  # fmt: skip


@dataclass(frozen=True)
class RoadCase:
    """What all steps compute.

    Attributes:
        regime: ``T`` or ``B``.
        steps: Names of the steps, in the order of the road.
        shape: Height and width of the images.
        batch: Number of images.
        training: Forward and backward pass, with the sum of squares of all maps as the loss.
        threads: Number of threads.
        width_factor: Multiplies all widths.
    """

    regime: str
    steps: tuple[str, ...]
    shape: tuple[int, int]
    batch: int = 1
    training: bool = False
    threads: int = 1
    width_factor: float = 1.0

    @property
    def title(self) -> str:
        """Describe the computation in words."""
        first, last, _ = REGIMES[self.regime]
        kind = 'training step' if self.training else 'inference'
        height, width = self.shape
        return f'{first} to {last}, {kind}, {self.batch} x {height} x {width}'


def make_road_case(
    regime: str, steps: Sequence[str] | None, shape: Sequence[int], **sizes: Any
) -> RoadCase:
    """Check what a command line asks for.

    Args:
        regime: ``T`` or ``B``.
        steps: Names or numbers of steps; None for all.
        shape: Height and width of the images.
        **sizes: Further attributes of :class:`RoadCase`.

    Raises:
        ValueError: There is no such step, or a number is too small.
    """
    chosen = {find_step(int(step) if step.isdigit() else step) for step in steps or STEPS}
    if min(shape) < SMALLEST:
        raise ValueError(f'expected --shape of at least 32 x 32 pixels, got {list(shape)}')
    for name in ('batch', 'threads'):
        if sizes.get(name, 1) < 1:
            raise ValueError(f'expected --{name} to be at least 1, got {sizes[name]}')
    height, width = shape
    ordered = tuple(name for name in STEPS if name in chosen)
    return RoadCase(regime, ordered, (height, width), **sizes)


def prepare_step(case: RoadCase, step: str) -> Prepared:
    """Prepare a step in this process."""
    net: Any = randomize(RoadmapNet(step, case.regime, width_factor=case.width_factor))
    net = net.to(memory_format=torch.channels_last)
    net.train(case.training).requires_grad_(case.training)
    images = torch.randn((case.batch, 3, *case.shape), generator=torch.Generator().manual_seed(1))
    images = images.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def infer() -> Sequence[Tensor]:
        return net(images)

    def train() -> None:
        net.zero_grad(set_to_none=True)
        sum(x.square().sum() for x in net(images)).backward()

    def macs() -> int:
        with FlopCounterMode(display=False) as counter:
            infer()
        return counter.get_total_flops() // 2

    return Prepared(train if case.training else infer, dict(macs=macs))


def race_steps(case: RoadCase, options: RaceOptions) -> list[dict[str, Any]]:
    """Let the steps take turns.

    Returns:
        A row of figures per step, in the order of the road; see :func:`road_rows`.
    """
    contenders = [
        Contender(step, partial(prepare_step, case, step), ours=True) for step in case.steps
    ]
    results = race(contenders, case.threads, options.rounds, options.seconds, options.progress)
    return road_rows(case, results)


def road_rows(case: RoadCase, results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return a row of figures per step.

    Args:
        case: What was computed.
        results: Of a race of its steps.
    """
    by_name = {result.contender.name: result for result in results}
    rows = []
    for step, result in by_name.items():
        row: dict[str, Any] = dict(step=step, failure=result.failure, before=None)
        rows.append(row)
        if result.failure:
            continue
        macs = result.measures['macs']
        row |= dict(
            median=result.median,
            memory=result.memory,
            macs=macs,
            # A training step counts as three forward passes.
            flops_per_second=2 * macs * (3 if case.training else 1) / result.median,
            seconds=result.seconds,
        )
        before = _step_before(step, by_name)
        if before is not None:
            reference = by_name[before]
            ratios = [a / b for a, b in zip(result.seconds, reference.seconds, strict=True)]
            printed = [STEPS[name].printed[case.regime].accuracy for name in (step, before)]
            row |= dict(
                before=before,
                ratio=paired_ratio(result.seconds, reference.seconds),
                quartiles=_middle_half(ratios),
                verdict=verdict(ratios),
                gained=printed[0] - printed[1],
            )
    return rows


def _step_before(step: str, results: dict[str, Result]) -> str | None:
    """Return the nearest step back on the road that has a result."""
    before = STEPS[step].follows
    while before and (before not in results or results[before].failure):
        before = STEPS[before].follows
    return before or None


def _middle_half(ratios: Sequence[float]) -> tuple[float, float]:
    if len(ratios) < 2:
        return ratios[0], ratios[0]
    lower, _, upper = statistics.quantiles(ratios, n=4, method='inclusive')
    return lower, upper


def verdict(ratios: Sequence[float]) -> str:
    """Return whether a step is slower or faster than the one before, or neither for certain.

    A sign test: the rounds lie on one side of 1 more often than chance would put them there in one
    race of twenty. With fewer than six rounds nothing is certain.

    Args:
        ratios: Its time over that of the step before, round by round.
    """
    slower, faster = sum(ratio > 1 for ratio in ratios), sum(ratio < 1 for ratio in ratios)
    rounds, fewest = slower + faster, min(slower, faster)
    chance = 2 * sum(math.comb(rounds, k) for k in range(fewest + 1)) / 2**rounds
    if chance > LEVEL:
        return 'unclear'
    return 'slower' if slower > faster else 'faster'


def road_text(case: RoadCase, rows: Sequence[dict[str, Any]], style: box.Box) -> str:
    """Return the rows as a table, and what failed."""
    cells = []
    for row in rows:
        if row['failure']:
            continue
        compared = [''] * 5
        if row['before'] is not None:
            lower, upper = row['quartiles']
            compared = [
                row['before'],
                f'{row["ratio"]:.2f}',
                f'{lower:.2f} to {upper:.2f}',
                row['verdict'],
                f'{row["gained"]:+.2f}',
            ]
        memory = '' if row['memory'] is None else f'{row["memory"] / MIB:.0f}'
        speed = f'{row["flops_per_second"] / 1e9:.0f}'
        cells.append(
            [row['step'], f'{1000 * row["median"]:.1f}', *compared[:4]]
            + [f'{row["macs"] / 1e9:.2f}', speed, memory, compared[4]]
        )
    rounds = max((len(row.get('seconds', ())) for row in rows), default=0)
    lines = [f'{case.title}, {rounds} rounds', '', as_text(make_table(HEADINGS, cells, style))]
    lines += ['', 'ratio: time over that of the step before, the median of the rounds']
    lines += ['verdict: slower or faster if a sign test over the rounds says so at 5%; needs six']
    lines += [f'{row["step"]} is absent: {row["failure"]}' for row in rows if row['failure']]
    return '\n'.join(lines)
