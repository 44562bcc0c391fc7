"""Compare measured speed and memory with the project's targets: python dev/benchmark_targets.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich import box

from convnext_backbones.benchmark.case import Case
from convnext_backbones.benchmark.peers import PEERS
from convnext_backbones.benchmark.race import (
    MIB,
    ContenderError,
    Result,
    fit_exponent,
    paired_ratio,
)
from convnext_backbones.benchmark.report import (
    Report,
    as_text,
    finish,
    make_table,
    medians,
    report_text,
    sweep_text,
)
from convnext_backbones.benchmark.sweep import Options, run_case, sweep

CONFIGS = Path(__file__).parent.parent / 'configs'
EAGER = tuple(f'{peer}{suffix}' for peer in PEERS for suffix in ('', ' channels_last'))
COMPILED = ('timm compiled', 'torchvision compiled')
RUNTIMES = ('openvino', 'onnxruntime')
ALL = (*EAGER, *COMPILED, *RUNTIMES)
# The fastest of each kind: not all fit into memory beside one another at every size.
FEW = (
    *('timm channels_last', 'torchvision channels_last', 'mmpretrain'),
    *('torchvision compiled', *RUNTIMES),
)
BEST = 'ours optimized'
EXPONENT = 'T, exponent of time over pixels'


@dataclass(frozen=True)
class Target:
    """A goal: one of ours against the best of some rivals in the same race.

    Attributes:
        what: It says.
        ours: The contender that has to reach it.
        rivals: The others; without any, ours is held against the ceiling of the machine.
        goal: The rival's time over ours, at least; for other measures ours over the rival's, at
            most; without rivals the share of the ceiling, at least.
        measure: ``seconds``, ``memory`` or ``activations``.
        at_most: Whether times, too, are ours over the rival's.
    """

    what: str
    ours: str
    rivals: tuple[str, ...]
    goal: float
    measure: str = 'seconds'
    at_most: bool = False


def list_targets(threads: int) -> list[tuple[Case, list[Target]]]:
    """All goals, race by race."""
    tiny = Case('tiny', (800, 1280), threads=threads)
    lean = 'ours memory_efficient'
    targets = [
        (
            tiny,
            [
                Target('T, fp32, eager peers', BEST, EAGER, 2.5),
                Target('T, fp32, compiled peers', BEST, COMPILED, 2.1),
                Target('T, fp32, runtimes', BEST, RUNTIMES, 1.3),
                Target('T, bf16, OpenVINO in bf16', 'ours bf16', ('openvino bf16',), 1.25),
                Target('T, bf16, our fp32', 'ours bf16', (BEST,), 1.6),
                Target('T, share of the GEMM ceiling', BEST, (), 0.8),
                Target('T, peak memory', BEST, ALL, 0.5, 'memory'),
            ],
        )
    ]
    others = [replace(tiny, arch=arch) for arch in ('small', 'base', 'large')]
    others += [replace(tiny, shape=(n, n), batch=b) for n in (512, 224) for b in (1, 8)]
    for case in others:
        what = f'{case.arch[0].upper()}, {case.batch} x {case.shape[0]} x {case.shape[1]}'
        in_torch = tuple(name for name in FEW if name not in RUNTIMES)
        # The goal is two times where the work is above 20 GFLOP; one image of 224 has nine.
        goal = 1.0 if (case.shape, case.batch) == ((224, 224), 1) else 2.0
        targets.append(
            (
                case,
                [
                    Target(f'{what}, best peers', BEST, FEW, 1.0),
                    Target(f'{what}, best peers in torch', BEST, in_torch, goal),
                ],
            )
        )
    training = replace(tiny, shape=(512, 512), batch=2, training=True)
    what = 'T, training, 2 x 512 x 512'
    targets.append(
        (
            training,
            [
                Target(what, 'ours', EAGER, 1.8),
                Target(f'{what}, lean activations', lean, EAGER, 0.5, 'activations'),
                Target(f'{what}, lean, our normal form', lean, ('ours',), 1.15, at_most=True),
            ],
        )
    )
    for name, shape, goal in (
        ('mask_rcnn_convnext_t', (800, 1280), 1.7),
        ('upernet_convnext_t', (512, 2048), 2.2),
    ):
        case = replace(tiny, shape=shape, config=str(CONFIGS / f'{name}.py'))
        what = f'{name}, 1 x {shape[0]} x {shape[1]}'
        targets.append((case, [Target(what, BEST, ('mmpretrain',), goal)]))
    return targets


def judge(target: Target, report: Report) -> tuple[str, ...]:
    """A row: what, ours, the best rival, its name, ratio, goal."""
    ours = report.find(target.ours)
    if ours is None:
        return target.what, f'not measured: {report.absent[target.ours]}', '', '', '', ''
    if not target.rivals:
        share = next(row['share'] for row in report.rows if row['contender'] == target.ours)
        ceiling = report.ceilings[ours.contender.dtype]
        rate = share * ceiling / 1e9
        cells = f'{rate:.0f} GFLOP/s', f'{ceiling / 1e9:.0f} GFLOP/s', '1x1 convolution'
        return target.what, *cells, f'{share:.2f}', _goal(target.goal, share, at_most=False)
    values = {
        name: value
        for name in target.rivals
        if (rival := report.find(name)) and (value := _value(rival, target.measure)) is not None
    }
    cell, value = _cell(ours, target.measure), _value(ours, target.measure)
    if not values or value is None:
        reasons = {report.absent.get(name, 'no figure') for name in target.rivals}
        return target.what, cell, f'not measured: {"; ".join(sorted(reasons))}', '', '', ''
    best = report.find(min(values, key=values.get))
    at_most = target.at_most or target.measure != 'seconds'
    if target.measure == 'seconds':
        pair = (ours, best) if at_most else (best, ours)
        ratio = paired_ratio(*(result.seconds for result in pair))
    else:
        ratio = value / values[best.contender.name]
    rival = _cell(best, target.measure), best.contender.name
    return target.what, cell, *rival, f'{ratio:.2f}', _goal(target.goal, ratio, at_most)


def judge_exponent(reports: Sequence[Report]) -> tuple[str, ...]:
    """The cells of :data:`EXPONENT`."""
    found = medians('pixels', reports).get(BEST, {})
    if len(found) < 2:
        return f'not measured: {reports[0].absent[BEST]}', '', '', '', ''
    exponent = fit_exponent([*found], [*found.values()])
    return '', '', '', f'{exponent:.3f}', _goal(1.05, exponent, at_most=True)


def _value(result: Result, measure: str) -> float | None:
    if measure == 'seconds':
        return result.median
    return result.memory if measure == 'memory' else result.measures.get(measure)


def _cell(result: Result, measure: str) -> str:
    value = _value(result, measure)
    if value is None:
        return 'no figure'
    if measure != 'seconds':
        return f'{value / MIB:.0f} MiB'
    difference = result.measures.get('difference')
    error = '' if difference is None else f', difference {difference:.1e}'
    return f'{1000 * value:.0f} ms{error}'


def _goal(goal: float, ratio: float, at_most: bool) -> str:
    met = ratio <= goal if at_most else ratio >= goal
    return f'{"at most" if at_most else "at least"} {goal:g}: {"met" if met else "missed"}'


def run_targets(args: argparse.Namespace, header: dict[str, str], options: Options) -> None:
    """The command ``targets``."""
    headings = ('what', 'ours', 'best rival', 'its name', 'ratio', 'goal')
    reports, rows = [], []
    for case, targets in list_targets(args.threads):
        targets = [target for target in targets if args.only in target.what]
        if not targets:
            continue
        names = {name for target in targets for name in (target.ours, *target.rivals)}
        try:
            report = run_case(case, sorted(names), 'fp32', options)
        except ContenderError as error:
            rows += [(target.what, f'not measured: {error}', *[''] * 4) for target in targets]
            continue
        print(f'\n{report_text(report, box.SIMPLE_HEAD)}', flush=True)  # the next may take long
        reports.append(report)
        rows += [judge(target, report) for target in targets]
    swept = []
    if args.only in EXPONENT:
        case = Case('tiny', (0, 0), threads=args.threads)
        swept = sweep('pixels', case, [BEST], 'fp32', options)
        rows.append((EXPONENT, *judge_exponent(swept)))

    def text(style: box.Box) -> str:
        goals = as_text(make_table(headings, rows, style))
        races = [report_text(report, style) for report in reports]
        if swept:
            races.append(sweep_text('pixels', swept, style))
        return '\n\n'.join([goals, *races])

    finish(args, header, [*reports, *swept], text, None)
