"""Compare measured speed and memory with the project's targets: python dev/benchmark_targets.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich import box

from convnext_backbones.benchmark.case import Case
from convnext_backbones.benchmark.command import race_flags, report_files, run_command
from convnext_backbones.benchmark.figures import MIB, fit_exponent, paired_ratio
from convnext_backbones.benchmark.peers import PEERS
from convnext_backbones.benchmark.race import Result
from convnext_backbones.benchmark.report import (
    Report,
    medians,
    publish_reports,
    report_text,
    sweep_text,
)
from convnext_backbones.benchmark.sweep import RaceOptions, run_case, sweep
from convnext_backbones.benchmark.tables import as_text, make_table
from convnext_backbones.benchmark.worker import ContenderError

CONFIGS = Path(__file__).parent.parent / 'configs'
EAGER = tuple(f'{peer}{suffix}' for peer in PEERS for suffix in ('', ' channels_last'))
COMPILED = ('timm compiled', 'torchvision compiled')
RUNTIMES = ('openvino', 'onnxruntime')
IN_BF16 = ('timm bf16', 'torchvision bf16', 'openvino bf16')
# The fastest of each kind: not all fit into memory together at every size.
FEW_EAGER = ('timm channels_last', 'torchvision channels_last', 'mmpretrain')
FEW_IN_TORCH = (*FEW_EAGER, 'torchvision compiled')
FEW = (*FEW_IN_TORCH, *RUNTIMES)
BEST = 'ours optimized'
EXPONENT = 'T, exponent of time over pixels'
HEADINGS = ('target', 'ours', 'best rival', 'its name', 'ratio', 'goal')


@dataclass(frozen=True)
class Target:
    """A goal: a contender of ours against the best of some rivals in the same race.

    Attributes:
        name: Description of the goal.
        ours: Our contender.
        rivals: The others; without any, ours is compared with the ceiling of the machine.
        goal: For times, the least ratio of the rival's over ours; for other measures, the greatest
            ratio of ours over the rival's; without rivals, the least fraction of the ceiling.
        measure: ``seconds``, ``memory`` or ``activations``.
        at_most: Whether times, too, are ours over the rival's, with ``goal`` as the greatest.
    """

    name: str
    ours: str
    rivals: tuple[str, ...]
    goal: float
    measure: str = 'seconds'
    at_most: bool = False


def list_targets(threads: int) -> list[tuple[Case, list[Target]]]:
    """Return all goals, race by race."""
    tiny = Case('tiny', (800, 1280), threads=threads)
    first = [
        Target('T, fp32, eager peers', BEST, EAGER, 1.3),
        Target('T, fp32, compiled peers', BEST, COMPILED, 1.3),
        Target('T, fp32, runtimes', BEST, RUNTIMES, 1.3),
        Target('T, bf16, bf16 peers', 'ours bf16', IN_BF16, 2.0),
        Target('T, bf16, our fp32', 'ours bf16', (BEST,), 3.5),
        Target('T, share of the GEMM ceiling', BEST, (), 0.75),
        Target('T, bf16, share of the GEMM ceiling', 'ours bf16', (), 0.4),
        Target('T, peak memory, eager peers', BEST, EAGER, 0.5, 'memory'),
    ]
    return [
        (tiny, first),
        *_other_sizes(tiny),
        _training_step(tiny),
        _whole_model(tiny, 'mask_rcnn_convnext_t', (800, 1280), 2.0),
        _whole_model(tiny, 'upernet_convnext_t', (512, 2048), 2.5),
    ]


def _other_sizes(tiny: Case) -> list[tuple[Case, list[Target]]]:
    cases = [replace(tiny, arch=arch) for arch in ('small', 'base', 'large')]
    cases += [replace(tiny, shape=(n, n), batch=b) for n in (512, 224) for b in (1, 8)]
    cases += [replace(tiny, shape=shape, use_grn=True) for shape in (tiny.shape, (512, 512))]
    listed = []
    for case in cases:
        size = f'{"V2-" if case.use_grn else ""}{str(case.arch)[0].upper()}'
        name = f'{size}, {case.batch} x {case.shape[0]} x {case.shape[1]}'
        goal = 1.3 if case.shape == tiny.shape else 1.0
        targets = [
            Target(f'{name}, best peers', BEST, FEW, goal),
            Target(f'{name}, peak memory, eager peers', BEST, FEW_EAGER, 1.0, 'memory'),
        ]
        listed.append((case, targets))
    return listed


def _training_step(tiny: Case) -> tuple[Case, list[Target]]:
    case = replace(tiny, shape=(512, 512), batch=2, training=True)
    name, lean = 'T, training, 2 x 512 x 512', 'ours memory_efficient'
    return case, [
        Target(name, 'ours', EAGER, 1.2),
        Target(f'{name}, lean activations', lean, EAGER, 0.5, 'activations'),
        Target(f'{name}, lean, our normal form', lean, ('ours',), 1.15, at_most=True),
    ]


def _whole_model(
    tiny: Case, config: str, shape: tuple[int, int], goal: float
) -> tuple[Case, list[Target]]:
    case = replace(tiny, shape=shape, config=str(CONFIGS / f'{config}.py'))
    name = f'{config}, 1 x {shape[0]} x {shape[1]}'
    return case, [Target(name, BEST, ('mmpretrain',), goal)]


def judge(target: Target, report: Report) -> tuple[str, ...]:
    """Return the cells of a row, see :data:`HEADINGS`."""
    ours = report.find(target.ours)
    if ours is None:
        return target.name, f'not measured: {report.absent[target.ours]}', '', '', '', ''
    if not target.rivals:
        share = next(row['share'] for row in report.rows if row['contender'] == target.ours)
        ceiling = report.ceilings[ours.contender.dtype]
        rate = share * ceiling / 1e9
        cells = f'{rate:.0f} GFLOP/s', f'{ceiling / 1e9:.0f} GFLOP/s', '1x1 convolution'
        return target.name, *cells, f'{share:.2f}', _goal(target.goal, share, at_most=False)
    value = _value(ours, target.measure)
    rivals = [rival for name in target.rivals if (rival := report.find(name)) is not None]
    values = {
        rival.contender.name: found
        for rival in rivals
        if (found := _value(rival, target.measure)) is not None
    }
    cell = _cell(ours, target.measure)
    if not values or value is None:
        reasons = {report.absent.get(name, 'no figure') for name in target.rivals}
        return target.name, cell, f'not measured: {"; ".join(sorted(reasons))}', '', '', ''
    best = report.find(min(values, key=lambda name: values[name]))
    assert best is not None
    at_most = target.at_most or target.measure != 'seconds'
    if target.measure == 'seconds':
        pair = (ours, best) if at_most else (best, ours)
        ratio = paired_ratio(*(result.seconds for result in pair))
    else:
        ratio = value / values[best.contender.name]
    cells = cell, _cell(best, target.measure), best.contender.name
    return target.name, *cells, f'{ratio:.2f}', _goal(target.goal, ratio, at_most)


def judge_exponent(reports: Sequence[Report]) -> tuple[str, ...]:
    """Return the cells of the row :data:`EXPONENT` after the first."""
    found = medians('pixels', reports).get(BEST, {})
    if len(found) < 2:
        return f'not measured: {reports[0].absent[BEST]}', '', '', '', ''
    exponent = fit_exponent(list(found), list(found.values()))
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


def run_targets(args: argparse.Namespace, header: dict[str, str], options: RaceOptions) -> None:
    """Run the races of all goals that ``--only`` selects, and report them."""
    reports: list[Report] = []
    rows: list[tuple[str, ...]] = []
    for case, targets in list_targets(args.threads):
        selected = [target for target in targets if args.only in target.name]
        if not selected:
            continue
        names = {name for target in selected for name in (target.ours, *target.rivals)}
        try:
            report = run_case(case, sorted(names), 'fp32', options)
        except ContenderError as error:
            rows += [(target.name, f'not measured: {error}', *[''] * 4) for target in selected]
            continue
        print(f'\n{report_text(report, box.SIMPLE_HEAD)}', flush=True)  # the next may take long
        reports.append(report)
        rows += [judge(target, report) for target in selected]
    swept: list[Report] = []
    if args.only in EXPONENT:
        case = Case('tiny', (0, 0), threads=args.threads)
        swept = sweep('pixels', case, [BEST], 'fp32', options)
        rows.append((EXPONENT, *judge_exponent(swept)))

    def text(style: box.Box) -> str:
        goals = as_text(make_table(HEADINGS, rows, style))
        races = [report_text(report, style) for report in reports]
        if swept:
            races.append(sweep_text('pixels', swept, style))
        return '\n\n'.join([goals, *races])

    publish_reports(header, [*reports, *swept], text, None, report_files(args))


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition(':')[0], parents=[race_flags()])
    parser.add_argument(
        '--only', default='', metavar='TEXT', help='the targets whose name contains this text'
    )
    run_command('benchmark_targets', run_targets, parser.parse_args(argv))


if __name__ == '__main__':
    main()
