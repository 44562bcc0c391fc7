"""Time the network beside other implementations of it, in turns and in processes of their own.

    python tools/benchmark.py backbone                            # ConvNeXt-T, 800 x 1280, fp32
    python tools/benchmark.py backbone --training --shape 512 512 --batch 2
    python tools/benchmark.py model configs/mask_rcnn_convnext_t.py --shape 800 1280
    python tools/benchmark.py sweep --over pixels --contenders timm 'ours optimized'
    python tools/benchmark.py gemm                                # what the machine can do
    python tools/benchmark.py targets                             # the whole table of goals

Peers that are not installed are named and left out. ``ratio`` is a contender's time over ours, the
median over rounds; ``memory`` is its peak above libraries, weights and input; ``difference`` is the
largest from our plain form, as a fraction of the largest value; ``of ceiling`` compares its
operations per second with those of the fastest 1x1 convolution of the same network, measured in the
same run.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from rich import box
from rich.console import Console
from rich.table import Table

from convnext_backbones.benchmark import (
    MIB,
    ContenderError,
    Result,
    call_alone,
    fit_exponent,
    gemm_rates,
    machine,
    paired_ratio,
    race,
    reference_of,
    tabulate,
)
from convnext_backbones.contenders import (
    ABSENT_PEERS,
    PEERS,
    Case,
    list_contenders,
    prepare,
    prepared_folder,
    read_config,
)
from convnext_backbones.files import write_atomically
from convnext_backbones.layouts import variant_name
from convnext_backbones.variants import VARIANTS, resolve_variant

CONFIGS = Path(__file__).parent.parent / 'configs'
DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16)
# Heading -> key of a row, factor, format; a column that no row fills is left out.
COLUMNS = {
    'median, ms': ('median', 1e3, '.1f'),
    'min': ('min', 1e3, '.1f'),
    'max': ('max', 1e3, '.1f'),
    'ratio': ('ratio', 1, '.2f'),
    'difference': ('difference', 1, '.1e'),
    'detections': ('detections', 1, 'd'),
    'memory, MiB': ('memory', 1 / MIB, '.1f'),
    'activations, MiB': ('activations', 1 / MIB, '.1f'),
    'GFLOP/s': ('flops_per_second', 1e-9, '.1f'),
    'of ceiling': ('share', 1, '.0%'),
}
WIDTH = 400  # of the text; no cell is broken, which Markdown would not survive
OURS_COLOUR, PEER_COLOUR = 'tab:orange', 'tab:blue'
# From 0.25 to 4 megapixels; 32 divides all sides.
SIDES = (512, 736, 1024, 1440, 2048)
SWEEPS = dict(
    pixels=[dict(shape=(side, side)) for side in SIDES],
    batch=[dict(batch=batch) for batch in (1, 2, 4, 8)],
    arch=[dict(arch=arch) for arch in ('tiny', 'small', 'base', 'large')],
    threads=[],  # 1, 2, 4, ... up to those asked for
)


@dataclass
class Report:
    """What came of one race.

    Attributes:
        case: What was computed.
        flops: Operations of a run.
        ceilings: Operations per second of the machine, by dtype.
        results: Of all contenders.
    """

    case: Case
    flops: float
    ceilings: dict[str, float]
    results: list[Result]
    rows: list[dict] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = tabulate(self.results, self.flops, self.ceilings)

    @property
    def absent(self) -> dict[str, str]:
        """Contenders without a result, and why."""
        return {r.contender.name: r.failure for r in self.results if r.failure} | ABSENT_PEERS

    @property
    def title(self) -> str:
        """What was computed, in words."""
        case = self.case
        what = Path(case.config).stem if case.config else f'ConvNeXt {case.arch}'
        kind = 'training step' if case.training else 'inference'
        height, width = case.shape
        rounds = max((len(result.seconds) for result in self.results), default=0)
        return f'{what}, {kind}, {case.batch} x {height} x {width}, {rounds} rounds'

    def find(self, name: str) -> Result | None:
        """The result of a contender; None if there is none."""
        found = (r for r in self.results if r.contender.name == name and not r.failure)
        return next(found, None)


# --- running ----------------------------------------------------------------------------------


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


def size_of(over: str, report: Report) -> float:
    """The quantity of a sweep; variants are ordered by their operations."""
    case = report.case
    return dict(
        pixels=case.shape[0] * case.shape[1],
        batch=case.batch,
        arch=report.flops,
        threads=case.threads,
    )[over]


def medians(over: str, reports: Sequence[Report]) -> dict[str, dict[float, float]]:
    """Median seconds by contender and size."""
    found: dict[str, dict[float, float]] = {}
    for report in reports:
        for row in report.rows:
            found.setdefault(row['contender'], {})[size_of(over, report)] = row['median']
    return found


# --- the goals ---------------------------------------------------------------------------------

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


# --- presenting --------------------------------------------------------------------------------


def as_text(table: Table) -> str:
    """A table as lines of text."""
    text = io.StringIO()
    Console(file=text, width=WIDTH).print(table)
    return '\n'.join(line.rstrip() for line in text.getvalue().splitlines()).strip('\n')


def make_table(headings: Sequence[str], rows: Iterable[Sequence[str]], style: box.Box) -> Table:
    """A table with names on the left and figures on the right."""
    table = Table(box=style)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify='right' if i else 'left', no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    return table


def figures(rows: Sequence[dict], style: box.Box) -> Table:
    """The rows of a report as a table."""
    columns = {
        heading: column
        for heading, column in COLUMNS.items()
        if any(row[column[0]] is not None for row in rows)
    }
    cells = (
        (
            row['contender'],
            *(
                '' if row[key] is None else format(row[key] * factor, spec)
                for key, factor, spec in columns.values()
            ),
        )
        for row in rows
    )
    return make_table(('contender', *columns), cells, style)


def report_text(report: Report, style: box.Box) -> str:
    """Title, table, ceilings and what is absent."""
    lines = [report.title, '', as_text(figures(report.rows, style))]
    reference = reference_of(report.results)
    ceilings = [f'{dtype} {rate / 1e9:.1f}' for dtype, rate in report.ceilings.items()]
    lines += ['', f'GEMM ceiling, GFLOP/s: {", ".join(ceilings)}']
    if reference:
        lines += ['', f'ratio: time over that of {reference.contender.name}']
    return '\n'.join([*lines, *absent_lines(report.absent)])


def absent_lines(absent: dict[str, str]) -> list[str]:
    """The contenders that could not be measured, grouped by the reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in absent.items():
        reasons.setdefault(reason, []).append(name)
    lines = [f'- {", ".join(names)}: {reason}' for reason, names in reasons.items()]
    return ['', 'Not measured:', '', *lines] if lines else []


def sweep_text(over: str, reports: Sequence[Report], style: box.Box) -> str:
    """Milliseconds by size, and the fitted exponent."""
    sizes = [size_of(over, report) for report in reports]
    labels = [report.case.arch if over == 'arch' else f'{size:,.0f}' for report, size in
              zip(reports, sizes, strict=True)]  # fmt: skip
    rows = []
    for name, found in medians(over, reports).items():
        times = [f'{1000 * found[size]:.1f}' if size in found else '' for size in sizes]
        exponent = f'{fit_exponent([*found], [*found.values()]):.3f}' if len(found) > 1 else ''
        rows.append((name, *times, exponent))
    table = make_table((f'ms by {over}', *labels, 'exponent'), rows, style)
    absent = {name: reason for report in reports for name, reason in report.absent.items()}
    return '\n'.join([reports[0].title, '', as_text(table), *absent_lines(absent)])


def header_text(header: dict[str, str]) -> str:
    """What the figures depend on, a line each."""
    return '\n'.join(f'- {key}: {value}' for key, value in header.items())


def draw_bars(report: Report) -> Figure:
    """Median times, fastest on top; ours in another colour."""
    rows = sorted(report.rows, key=lambda row: -row['median'])
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(rows)), layout='constrained')
    axes = figure.subplots()
    colours = [OURS_COLOUR if row['ours'] else PEER_COLOUR for row in rows]
    milliseconds = [1000 * row['median'] for row in rows]
    bars = axes.barh([row['contender'] for row in rows], milliseconds, color=colours)
    axes.bar_label(bars, fmt='%.0f' if max(milliseconds) > 100 else '%.1f', padding=3)
    axes.set(xlabel='ms (median)', title=report.title)
    axes.spines[['top', 'right']].set_visible(False)
    return figure


def draw_sweep(over: str, reports: Sequence[Report]) -> Figure:
    """Median times against the size, both logarithmic: a line's slope is its exponent."""
    figure = Figure(figsize=(8, 5), layout='constrained')
    axes = figure.subplots()
    for name, found in medians(over, reports).items():
        milliseconds = [1000 * seconds for seconds in found.values()]
        axes.plot([*found], milliseconds, marker='o', label=name)
    axes.set(xscale='log', yscale='log', ylabel='ms (median)', title=reports[0].title)
    axes.set_xlabel('operations' if over == 'arch' else over)
    axes.set_xticks([size_of(over, report) for report in reports])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend()
    return figure


def as_data(header: dict[str, str], reports: Sequence[Report]) -> str:
    """Everything as JSON, the seconds of each round included."""
    races = [
        dict(
            case=asdict(report.case),
            flops=report.flops,
            ceilings=report.ceilings,
            rows=report.rows,
            absent=report.absent,
        )
        for report in reports
    ]
    return json.dumps(dict(machine=header, races=races), indent=1)


def write(path: Path | None, content: Callable[[], str | Figure]) -> None:
    """Write text or a picture to a file, if one is wanted."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    made = content()
    if isinstance(made, Figure):
        picture = io.BytesIO()
        made.savefig(picture, format='png', dpi=120)
        write_atomically(path, picture.getvalue())
    else:
        write_atomically(path, made + '\n')
    print(f'{path} is written')


# --- commands ----------------------------------------------------------------------------------


def run_race(args: argparse.Namespace, header: dict[str, str], options: Options) -> None:
    """The commands ``backbone`` and ``model``."""
    report = run_case(make_case(args), args.contenders, args.dtype, options)
    finish(args, header, [report], partial(report_text, report), partial(draw_bars, report))


def run_sweep(args: argparse.Namespace, header: dict[str, str], options: Options) -> None:
    """The command ``sweep``."""
    reports = sweep(args.over, make_case(args), args.contenders, args.dtype, options)
    text, picture = partial(sweep_text, args.over, reports), partial(draw_sweep, args.over, reports)
    finish(args, header, reports, text, picture)


def run_gemm(args: argparse.Namespace, header: dict[str, str], options: Options) -> None:
    """The command ``gemm``."""
    for dtype, rates in gemm(make_case(args), DTYPES).items():
        print(
            f'{dtype}: 1x1 convolution {rates["conv"] / 1e9:.1f} GFLOP/s, '
            f'torch.mm {rates["mm"] / 1e9:.1f} GFLOP/s'
        )


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


def finish(
    args: argparse.Namespace,
    header: dict[str, str],
    reports: Sequence[Report],
    text: Callable[[box.Box], str],
    picture: Callable[[], Figure] | None,
) -> None:
    """Print the text, and write the files that were asked for."""
    print(f'\n{text(box.SIMPLE_HEAD)}')
    write(args.json, lambda: as_data(header, reports))
    write(args.markdown, lambda: f'{header_text(header)}\n\n{text(box.MARKDOWN)}')
    if picture is not None and any(report.rows for report in reports):
        write(args.png, picture)


def make_case(args: argparse.Namespace) -> Case:
    """The case that the arguments mean.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: The config is wrong, or a number is too small.
    """
    for name, value in (('--batch', args.batch), ('--threads', args.threads)):
        if value < 1:
            raise ValueError(f'expected {name} to be at least 1, got {value}')
    if min(args.shape) < 32:
        raise ValueError(f'expected --shape of at least 32 x 32 pixels, got {args.shape}')
    arch = args.arch
    if args.config is not None:
        backbone = read_config(args.config).model.backbone
        variant = resolve_variant(*map(backbone.get, ('arch', 'depths', 'dims')))
        arch = variant_name(**asdict(variant)) or asdict(variant)
    return Case(arch, tuple(args.shape), args.batch, args.training, args.threads, args.config)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('--rounds', type=int, default=7, help='fewer if slow (default: 7)')
    common.add_argument(
        '--seconds',
        type=float,
        default=150,
        help='about how long the rounds of a race may take (default: 150)',
    )
    common.add_argument('--threads', type=int, default=torch.get_num_threads())
    for kind in ('json', 'markdown', 'png'):
        common.add_argument(f'--{kind}', type=Path, metavar='FILE')
    sized = argparse.ArgumentParser(add_help=False)
    sized.add_argument('--shape', nargs=2, type=int, metavar=('H', 'W'), default=(800, 1280))
    sized.add_argument('--dtype', choices=DTYPES, default='fp32', help='of the contenders')
    sized.add_argument('--contenders', nargs='+', metavar='NAME', help='default: all of the dtype')
    network = argparse.ArgumentParser(add_help=False)
    network.add_argument('--arch', choices=VARIANTS, default='tiny')
    network.add_argument('--batch', type=int, default=1)
    network.add_argument('--training', action='store_true', help='time a training step')

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.set_defaults(config=None, arch='tiny', batch=1, training=False, shape=(800, 1280))
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    parents = [network, sized, common]
    command = commands.add_parser('backbone', parents=parents, help='backbones beside one another')
    command.set_defaults(run=run_race)
    command = commands.add_parser('model', parents=[sized, common], help='a detector or segmentor')
    command.add_argument('config', metavar='CONFIG')
    command.set_defaults(run=run_race)
    command = commands.add_parser('sweep', parents=parents, help='times over sizes')
    command.add_argument('--over', choices=SWEEPS, required=True)
    command.set_defaults(run=run_sweep)
    command = commands.add_parser('gemm', parents=parents, help='the ceiling of the machine')
    command.set_defaults(run=run_gemm)
    command = commands.add_parser('targets', parents=[common], help='all goals in one table')
    command.add_argument(
        '--only', default='', metavar='TEXT', help='the goals whose name contains this text'
    )
    command.set_defaults(run=run_targets)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    args = parse(argv)
    console = Console(stderr=True)
    try:
        if args.rounds < 1:
            raise ValueError(f'expected --rounds to be at least 1, got {args.rounds}')
        header = machine(args.threads)
        print(header_text(header))
        with console.status('') as status:
            args.run(args, header, Options(args.rounds, args.seconds, status.update))
    except (ContenderError, FileNotFoundError, ValueError) as error:
        sys.exit(f'benchmark: {error}')


if __name__ == '__main__':
    main()
