"""Draw a training's numbers as curves."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from ..io.files import write_atomically
from .results_table import LR_COLUMNS, PLACE, PREFIX, RESULTS, Row

WIDTH, PANEL_HEIGHT, DPI = 9.0, 2.2, 110  # inches, inches, dots per inch
MOST_CURVES = 12  # in one panel
# The ten strong colors, then their pale companions.
COLORS = [colormaps['tab20'](i) for i in (*range(0, 20, 2), *range(1, 20, 2))]
FEW_POINTS = 50  # a curve of at most so many has them marked
LOG_RANGE = 10  # losses and rates whose extremes have a higher ratio get a logarithmic axis
NOT_MEASURED = -1  # pycocotools' AP where there is nothing to find, such as no large objects


@dataclass(frozen=True)
class Curve:
    """A column of the table: the steps and the values of the rows that have it."""

    label: str
    steps: list[float]
    values: list[float]


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        title: What the vertical axis shows.
        curves: Each in a color of its own.
        companions: Those of the validation, dashed in the color of the curve of the same label.
        metrics: Whether these are metrics of the validation: linear, last values in the legend.
    """

    title: str
    curves: Sequence[Curve]
    companions: Sequence[Curve] = ()
    metrics: bool = False


def draw_results(rows: Sequence[Row], path: Path) -> None:
    """Draw the rows of a results table over the iterations, into a PNG file.

    Without a row that has something to draw there is no file.
    """
    panels = plan_panels(rows)
    if not panels:
        return
    # Without pyplot a figure needs no display, and the process's own figures are left alone.
    size = (WIDTH, PANEL_HEIGHT * len(panels))
    figure = Figure(size, dpi=DPI, layout='constrained')
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for panel, ax in zip(panels, axes, strict=True):
        _draw_panel(panel, ax)
    axes[0].set_title(path.resolve().parent.name)
    axes[-1].set_xlabel('iteration')
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1].xaxis.set_major_formatter(EngFormatter(sep=''))
    figure.align_ylabels()
    image = io.BytesIO()
    figure.savefig(image, format='png')
    write_atomically(path, image.getvalue())


def plan_panels(rows: Sequence[Row]) -> list[Panel]:
    """The panels for the rows of a table, from the top; those without a curve are left out."""
    train = _curves(row for row in rows if row['split'] == 'train')
    losses = [curve for curve in train if 'loss' in curve.label]
    rates = [replace(c, label=c.label.removesuffix('_lr')) for c in train if c.label in LR_COLUMNS]
    if len(rates) == 2 and rates[0].values == rates[1].values:
        rates = [replace(rates[0], label='all groups')]
    val_losses, metrics = [], {}
    for curve in _curves(row for row in rows if row['split'] == 'val'):
        if curve.label.startswith(PREFIX):
            val_losses.append(replace(curve, label=curve.label.removeprefix(PREFIX)))
            continue
        # Of COCO's twelve numbers six are for boxes and six for masks.
        group, found, number = curve.label.partition('_mAP')
        if found:
            curve = replace(curve, label=f'mAP{number}')
        metrics.setdefault(group if found else 'validation', []).append(curve)
    panels = [
        Panel('loss', [c for c in losses if c.label == 'loss'], val_losses),
        Panel('terms of the loss', [c for c in losses if c.label != 'loss'], val_losses),
        Panel('learning rate', rates),
        *(Panel(title, curves, metrics=True) for title, curves in metrics.items()),
    ]
    return [panel for panel in panels if panel.curves]


def _curves(rows: Iterable[Row]) -> list[Curve]:
    """The columns in which ``rows`` have numbers to draw, in order of appearance."""
    curves: dict[str, Curve] = {}
    for row in rows:
        for name, value in row.items():
            if name not in PLACE and math.isfinite(value) and value != NOT_MEASURED:
                curve = curves.setdefault(name, Curve(name, [], []))
                curve.steps.append(row['step'])
                curve.values.append(value)
    return list(curves.values())


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
