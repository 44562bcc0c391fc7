"""Draw the road from ResNet to ConvNeXt as figure 2 of the paper does, with our multiply-adds."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..io.files import write_atomically
from ..models.roadmap_steps import REGIMES, STEPS, SWIN, is_on_the_road, title_of
from .roadmap import Count

ON_ROAD, ASIDE, MARKS = 'lightskyblue', 'lightgray', 'tab:red'
ROW_HEIGHT, MARGIN, PANEL_WIDTH = 0.32, 1.6, 6.5  # inches
PICTURES = ('.png', '.svg', '.pdf')
DOTS_PER_INCH = 120


def draw_road(counts: Sequence[Count]) -> Figure:
    """Draw a panel per regime: the authors' accuracies as bars, our multiply-adds as marks.

    Args:
        counts: Of whole regimes.
    """
    regimes = list(dict.fromkeys(count.regime for count in counts))
    height = MARGIN + ROW_HEIGHT * (len(STEPS) + 1)
    figure = Figure(figsize=(PANEL_WIDTH * len(regimes), height), layout='constrained')
    panels = figure.subplots(1, len(regimes), squeeze=False)[0]
    for axes, regime in zip(panels, regimes, strict=True):
        _draw_regime(axes, [count for count in counts if count.regime == regime])
    figure.supxlabel(
        "bars: the authors' ImageNet-1K top-1 accuracy; red: multiply-adds of 224 x 224 pixels, "
        'counted by us',
        fontsize=9,
    )
    return figure


def _draw_regime(axes: Axes, counts: Sequence[Count]) -> None:
    regime = counts[0].regime
    first, last, transformer = REGIMES[regime]
    labels = [title_of(count.step, regime) for count in counts]
    places = range(len(counts))
    accuracies = [count.printed.accuracy for count in counts]
    deviations = [count.printed.deviation or 0.0 for count in counts]
    colors = [ON_ROAD if is_on_the_road(count.step) else ASIDE for count in counts]
    axes.barh(places, accuracies, xerr=deviations, color=colors, height=0.7)
    left = min(accuracies) - 1
    for place, accuracy in zip(places, accuracies, strict=True):
        axes.text(left + 0.05, place, f'{accuracy:.2f}', va='center', fontsize=8)
    swin = SWIN[regime]
    axes.axvline(swin.accuracy, color='tab:green', linestyle=':', zorder=0)
    axes.text(swin.accuracy, -0.8, transformer, color='tab:green', ha='center', fontsize=8)
    axes.set_yticks(places, labels, fontsize=8)
    axes.set_ylim(len(counts) - 0.4, -1.2)  # from top to bottom
    axes.set_xlim(left, max(accuracies) + 1)
    axes.set(title=f'{first} to {last}', xlabel='accuracy, %')
    above = axes.twiny()
    gmacs = [count.total / 1e9 for count in counts]
    above.plot(gmacs, places, color=MARKS, marker='*', linestyle='--', linewidth=0.8)
    above.set_xlim(0, 1.35 * max(gmacs))
    above.set_xlabel('1e9 multiply-adds', color=MARKS)
    above.tick_params(axis='x', colors=MARKS)


def draw_times(title: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the median times of the steps, from top to bottom.

    Args:
        title: Of the figure.
        rows: Those of :func:`~.roadmap_speed.road_rows` that have a median.
    """
    figure = Figure(figsize=(8, MARGIN + ROW_HEIGHT * len(rows)), layout='constrained')
    axes = figure.subplots()
    milliseconds = [1000 * row['median'] for row in rows]
    bars = axes.barh([row['step'] for row in rows], milliseconds, color=ON_ROAD)
    axes.bar_label(bars, fmt='%.1f', padding=3)
    axes.invert_yaxis()
    axes.set(xlabel='ms (median)', title=title)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a file, in the format that its name ends with.

    Args:
        figure: What to write.
        path: A file ending in one of :data:`PICTURES`.

    Raises:
        ValueError: It ends in something else.
    """
    if path.suffix not in PICTURES:
        raise ValueError(f'expected a picture ending in {", ".join(PICTURES)}, got {str(path)!r}')
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=DOTS_PER_INCH)
    write_atomically(path, content.getvalue())
