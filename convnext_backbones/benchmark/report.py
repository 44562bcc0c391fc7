"""Report races as text, pictures and JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from rich import box
from rich.table import Table

from ..io.files import write_atomically
from .case import Case
from .figures import MIB, figure_rows, fit_exponent, reference_of
from .peers import ABSENT_PEERS
from .race import Result
from .tables import as_text, make_table

# Heading -> key of a row, factor, format. A column without any figure is omitted.
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
OURS_COLOR, PEER_COLOR = 'tab:orange', 'tab:blue'


@dataclass
class Report:
    """The outcome of one race.

    Attributes:
        case: What was computed.
        flops: Operations of a run.
        ceilings: Operations per second of the machine, by dtype.
        results: Results of all contenders.
        rows: Figures of the contenders that have a result.
    """

    case: Case
    flops: float
    ceilings: dict[str, float]
    results: list[Result]
    rows: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = figure_rows(self.results, self.flops, self.ceilings)

    @property
    def absent(self) -> dict[str, str]:
        """The reason for each contender without a result."""
        return {r.contender.name: r.failure for r in self.results if r.failure} | ABSENT_PEERS

    @property
    def title(self) -> str:
        """Describe the computation in words."""
        case = self.case
        family = 'ConvNeXt V2' if case.use_grn else 'ConvNeXt'
        model = Path(case.config).stem if case.config else f'{family} {case.arch}'
        kind = 'training step' if case.training else 'inference'
        kind += ' from file' if case.from_file else ''
        height, width = case.shape
        rounds = max((len(result.seconds) for result in self.results), default=0)
        return f'{model}, {kind}, {case.batch} x {height} x {width}, {rounds} rounds'

    def find(self, name: str) -> Result | None:
        """Return the result of a contender, or None if there is none."""
        found = (r for r in self.results if r.contender.name == name and not r.failure)
        return next(found, None)


@dataclass(frozen=True)
class ReportFiles:
    """Paths of the files to write; None for those that are not wanted."""

    json: Path | None = None
    markdown: Path | None = None
    png: Path | None = None


def size_of(over: str, report: Report) -> float:
    """Return the varied quantity of a sweep; for variants, their operations."""
    case = report.case
    return dict(
        pixels=case.shape[0] * case.shape[1],
        batch=case.batch,
        arch=report.flops,
        threads=case.threads,
    )[over]


def medians(over: str, reports: Sequence[Report]) -> dict[str, dict[float, float]]:
    """Return the median seconds by contender and size."""
    found: dict[str, dict[float, float]] = {}
    for report in reports:
        for row in report.rows:
            found.setdefault(row['contender'], {})[size_of(over, report)] = row['median']
    return found


def figure_table(rows: Sequence[dict[str, Any]], style: box.Box) -> Table:
    """Return the rows of a report as a table."""
    columns = {
        heading: column
        for heading, column in COLUMNS.items()
        if any(row[column[0]] is not None for row in rows)
    }
    cells = [
        [row['contender'], *(_cell(row, *column) for column in columns.values())] for row in rows
    ]
    return make_table(('contender', *columns), cells, style)


def _cell(row: Mapping[str, Any], key: str, factor: float, spec: str) -> str:
    return '' if row[key] is None else format(row[key] * factor, spec)


def report_text(report: Report, style: box.Box) -> str:
    """Return title, table and ceilings, and why contenders are absent."""
    lines = [report.title, '', as_text(figure_table(report.rows, style))]
    reference = reference_of(report.results)
    ceilings = [f'{dtype} {rate / 1e9:.1f}' for dtype, rate in report.ceilings.items()]
    lines += ['', f'GEMM ceiling, GFLOP/s: {", ".join(ceilings)}']
    if reference:
        lines += ['', f'ratio: time over that of {reference.contender.name}']
    for row in report.rows:
        lines += choice_lines(row)
    return '\n'.join([*lines, *absent_lines(report.absent)])


def choice_lines(row: Mapping[str, Any]) -> list[str]:
    """Return lines on the forms that a contender of ours chose, those of one form together."""
    if not row['choices']:
        return []
    sites: dict[str, list[str]] = {}
    for choice in row['choices']:
        sites.setdefault(choice['choice'], []).append(choice['site'])
    cached = all(choice['cached'] for choice in row['choices'])
    source = 'from the cache' if cached else 'measured'
    first = '' if row['first'] is None else f'; first call {row["first"]:.2f} s'
    title = f'Chosen for {row["contender"]} ({source}{first}):'
    return ['', title, '', *(f'- {name}: {"; ".join(names)}' for name, names in sites.items())]


def absent_lines(absent: Mapping[str, str]) -> list[str]:
    """Return lines on the contenders that could not be measured, grouped by the reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in absent.items():
        reasons.setdefault(reason, []).append(name)
    lines = [f'- {", ".join(names)}: {reason}' for reason, names in reasons.items()]
    return ['', 'Not measured:', '', *lines] if lines else []


def sweep_text(over: str, reports: Sequence[Report], style: box.Box) -> str:
    """Return the milliseconds by size, and the fitted exponent, as a table."""
    sizes = [size_of(over, report) for report in reports]
    if over == 'arch':
        labels = [str(report.case.arch) for report in reports]
    else:
        labels = [f'{size:,.0f}' for size in sizes]
    rows = []
    for name, found in medians(over, reports).items():
        times = [f'{1000 * found[size]:.1f}' if size in found else '' for size in sizes]
        exponent = ''
        if len(found) > 1:
            exponent = f'{fit_exponent(list(found), list(found.values())):.3f}'
        rows.append((name, *times, exponent))
    table = make_table((f'ms by {over}', *labels, 'exponent'), rows, style)
    absent = {name: reason for report in reports for name, reason in report.absent.items()}
    return '\n'.join([reports[0].title, '', as_text(table), *absent_lines(absent)])


def header_text(header: Mapping[str, str]) -> str:
    """Return what the figures depend on, one line each."""
    return '\n'.join(f'- {key}: {value}' for key, value in header.items())


def draw_bars(report: Report) -> Figure:
    """Draw the median times, the fastest on top and ours in another color."""
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
    """Draw the median times against the size, both logarithmic: a line's slope is its exponent."""
    figure = Figure(figsize=(8, 5), layout='constrained')
    axes = figure.subplots()
    for name, found in medians(over, reports).items():
        milliseconds = [1000 * seconds for seconds in found.values()]
        axes.plot(list(found), milliseconds, marker='o', label=name)
    axes.set(xscale='log', yscale='log', ylabel='ms (median)', title=reports[0].title)
    axes.set_xlabel('operations' if over == 'arch' else over)
    axes.set_xticks([size_of(over, report) for report in reports])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend()
    return figure


def as_json(header: Mapping[str, str], reports: Sequence[Report]) -> str:
    """Return everything as JSON, including the seconds of each round."""
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


def publish_reports(
    header: dict[str, str],
    reports: Sequence[Report],
    text: Callable[[box.Box], str],
    picture: Callable[[], Figure] | None,
    files: ReportFiles,
) -> None:
    """Print the text, and write the files that are wanted.

    Args:
        header: What the figures depend on.
        reports: The races.
        text: Makes the text with tables of a style.
        picture: Draws the picture, if there is one.
        files: The files to write.
    """
    print(f'\n{text(box.SIMPLE_HEAD)}')
    _write(files.json, lambda: as_json(header, reports))
    _write(files.markdown, lambda: f'{header_text(header)}\n\n{text(box.MARKDOWN)}')
    if picture is not None and any(report.rows for report in reports):
        _write(files.png, picture)


def _write(path: Path | None, make: Callable[[], str | Figure]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    content = make()
    if isinstance(content, Figure):
        picture = io.BytesIO()
        content.savefig(picture, format='png', dpi=120)
        write_atomically(path, picture.getvalue())
    else:
        write_atomically(path, f'{content}\n')
    print(f'{path} is written')
