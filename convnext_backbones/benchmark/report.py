"""Tables, pictures and JSON of a race or a sweep."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from rich import box
from rich.console import Console
from rich.table import Table

from ..io.files import write_atomically
from .case import Case
from .peers import ABSENT_PEERS
from .race import MIB, Result, fit_exponent, reference_of, tabulate

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
OURS_COLOR, PEER_COLOR = 'tab:orange', 'tab:blue'


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
    """Median times, fastest on top; ours in another color."""
    rows = sorted(report.rows, key=lambda row: -row['median'])
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(rows)), layout='constrained')
    axes = figure.subplots()
    colors = [OURS_COLOR if row['ours'] else PEER_COLOR for row in rows]
    milliseconds = [1000 * row['median'] for row in rows]
    bars = axes.barh([row['contender'] for row in rows], milliseconds, color=colors)
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
