"""Draw the numbers of a training as curves."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from ..io.files import write_atomically
from .results_table import LR_COLUMNS, PLACE, RESULTS, VAL_LOSS_PREFIX, Row

WIDTH, PANEL_HEIGHT, DPI = 9.0, 2.2, 110  # inches, inches, dots per inch
SINGLE_HEIGHT = 2.8  # of a panel with an axis of its own, in inches
MOST_POINTS = 1500  # of a curve in a figure of its own
MOST_LETTERS = 40  # of a label
MOST_CURVES = 12  # in one panel
# The ten strong colors, then their pale companions.
COLORS = [colormaps['tab20'](i) for i in (*range(0, 20, 2), *range(1, 20, 2))]
FEW_POINTS = 50  # curves of at most this many points have them marked
LOG_RANGE = (
    10  # a higher ratio of largest to smallest value gives a logarithmic axis, not for metrics
)
# Titles of panels.
LOSS, TERMS, RATES, METRICS = 'loss', 'terms of the loss', 'learning rate', 'validation'
NOT_MEASURED = -1  # pycocotools' AP if there are no such objects, for example no large ones


@dataclass(frozen=True)
class Curve:
    """One column of the table: the steps and values of the rows that have it."""

    label: str
    steps: list[float]
    values: list[float]


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        title: Label of the vertical axis.
        curves: Solid curves, each in its own color.
        companions: Curves of the validation, dashed, in the color of the curve of the same label.
        metrics: Whether the curves are validation metrics, which have a linear axis and their last
            values in the legend.
    """

    title: str
    curves: Sequence[Curve]
    companions: Sequence[Curve] = ()
    metrics: bool = False


def draw_results(rows: Sequence[Row], path: Path) -> None:
    """Draw the rows of a results table over the iterations, into a PNG file.

    Args:
        rows: The rows; if none of them has a number to draw, no file is written.
        path: The file; the name of its folder is the title.
    """
    panels = plan_panels(rows)
    if not panels:
        return
    # Not pyplot, which needs a display and shares its state with the rest of the process.
    size = (WIDTH, PANEL_HEIGHT * len(panels))
    figure = Figure(size, dpi=DPI, layout='constrained')
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for panel, ax in zip(panels, axes, strict=True):
        _draw_panel(panel, ax)
    axes[0].set_title(path.resolve().parent.name)
    _label_iterations(axes[-1])
    figure.align_ylabels()
    image = io.BytesIO()
    figure.savefig(image, format='png')
    write_atomically(path, image.getvalue())


def panel_figure(panel: Panel) -> Figure:
    """Return a figure of one panel over the iterations; long curves have every nth point only."""
    figure = Figure((WIDTH, SINGLE_HEIGHT), layout='constrained')
    ax = figure.subplots()
    curves, companions = ([_thinned(c) for c in cs] for cs in (panel.curves, panel.companions))
    _draw_panel(replace(panel, curves=curves, companions=companions), ax)
    _label_iterations(ax)
    return figure


def compare_panels(runs: Mapping[str, Sequence[Row]]) -> list[Panel]:
    """Return panels for several trainings: one for each number, with a curve for each training.

    Args:
        runs: The rows of each training, by the name that its curves get.

    Returns:
        Panels whose titles are those of :func:`plan_panels`, with the name of the number where the
        panel had several.
    """
    merged: dict[tuple[str, str], Panel] = {}
    for name, rows in runs.items():
        for panel in plan_panels(rows):
            validation = {curve.label: curve for curve in panel.companions}
            for curve in panel.curves:
                place = panel.title, curve.label
                before = merged.get(place, Panel(_title(*place), (), (), panel.metrics))
                companion = validation.get(curve.label)
                merged[place] = replace(
                    before,
                    curves=[*before.curves, replace(curve, label=name)],
                    companions=[
                        *before.companions,
                        *([replace(companion, label=name)] if companion else []),
                    ],
                )
    return list(merged.values())


def _title(panel: str, label: str) -> str:
    """Return the title of one number's panel: most names stand for themselves."""
    return label if panel in (LOSS, TERMS, METRICS) or panel == label else f'{panel}: {label}'


def plan_panels(rows: Sequence[Row]) -> list[Panel]:
    """Return the panels for the rows of a table, from top to bottom, skipping empty ones."""
    train = _curves(row for row in rows if row['split'] == 'train')
    losses = [curve for curve in train if 'loss' in curve.label]
    rates = [replace(c, label=c.label.removesuffix('_lr')) for c in train if c.label in LR_COLUMNS]
    if len(rates) == 2 and rates[0].values == rates[1].values:
        rates = [replace(rates[0], label='all groups')]
    val_losses: list[Curve] = []
    metrics: dict[str, list[Curve]] = {}
    for curve in _curves(row for row in rows if row['split'] == 'val'):
        if curve.label.startswith(VAL_LOSS_PREFIX):
            val_losses.append(replace(curve, label=curve.label.removeprefix(VAL_LOSS_PREFIX)))
            continue
        # COCO's mAP numbers get one panel for boxes and one for masks.
        group, found, number = curve.label.partition('_mAP')
        if found:
            curve = replace(curve, label=f'mAP{number}')
        metrics.setdefault(group if found else METRICS, []).append(curve)
    panels = [
        Panel(LOSS, [c for c in losses if c.label == 'loss'], val_losses),
        Panel(TERMS, [c for c in losses if c.label != 'loss'], val_losses),
        Panel(RATES, rates),
        *(Panel(title, curves, metrics=True) for title, curves in metrics.items()),
    ]
    return [panel for panel in panels if panel.curves]


def _curves(rows: Iterable[Row]) -> list[Curve]:
    """Return the columns in which ``rows`` have numbers to draw, in order of appearance."""
    curves: dict[str, Curve] = {}
    for row in rows:
        for name, value in row.items():
            if name in PLACE or value == NOT_MEASURED or not math.isfinite(float(value)):
                continue
            curve = curves.setdefault(name, Curve(name, [], []))
            curve.steps.append(float(row['step']))
            curve.values.append(float(value))
    return list(curves.values())


def _thinned(curve: Curve) -> Curve:
    """Return a curve for a figure of its own: not too many points, not too long a label."""
    label = curve.label
    if len(label) > MOST_LETTERS:
        half = (MOST_LETTERS - 1) // 2
        label = f'{label[:half]}…{label[-half:]}'
    # Counted from the end, so that the last value is kept.
    every = slice(None, None, -max(1, math.ceil(len(curve.steps) / MOST_POINTS)))
    return Curve(label, curve.steps[every][::-1], curve.values[every][::-1])


def _label_iterations(ax: Axes) -> None:
    ax.set_xlabel('iteration')
    low, high = ax.get_xlim()
    if high - low < 2:  # a single point: ticks would be fractions of iterations
        ax.set_xlim((low + high) / 2 - 1, (low + high) / 2 + 1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.xaxis.set_major_formatter(EngFormatter(sep=''))


def _draw_panel(panel: Panel, ax: Axes) -> None:
    shown = panel.curves[:MOST_CURVES]
    validation = {curve.label: curve for curve in panel.companions}
    for curve, color in zip(shown, COLORS, strict=False):
        label = f'{curve.label}  {curve.values[-1]:.4g}' if panel.metrics else curve.label
        marker = '.' if len(curve.steps) <= FEW_POINTS else None
        ax.plot(curve.steps, curve.values, color=color, lw=1, marker=marker, label=label)
        if curve.label in validation:
            companion = validation[curve.label]
            ax.plot(companion.steps, companion.values, '--.', color=color, lw=1)
    if any(curve.label in validation for curve in shown):
        ax.plot([], [], '--.', color='gray', lw=1, label='validation')
    if len(panel.curves) > len(shown):
        ax.plot([], [], ' ', label=f'and {len(panel.curves) - len(shown)} more in {RESULTS}')
    values = [value for curve in shown for value in curve.values]
    lowest, highest = min(values), max(values)
    if not panel.metrics and lowest > 0 and highest > LOG_RANGE * lowest:
        ax.set_yscale('log')
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest < 1e3 * lowest else (1,)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter('{x:g}')
    ax.set_ylabel(panel.title)
    ax.grid(alpha=0.3)
    ax.legend(
        loc='upper left',
        bbox_to_anchor=(1.0, 1.03),
        fontsize='small',
        labelspacing=0.2,
        frameon=False,
    )
