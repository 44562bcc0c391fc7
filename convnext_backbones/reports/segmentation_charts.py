"""Charts of a segmentation report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..analysis.segmentations import ClassScore, DistanceError
from .page import chart

WIDTH = 7.0  # inches
MOST_BARS = 40  # classes in a chart
MOST_NUMBERS = 15  # classes of a matrix whose cells have room for a number
LONGEST_NAME = 24  # characters of a class name in a chart
# Readable on light and on dark ground; cells below half of the scale are light.
BAR_COLORS = ('#4477aa', '#cc8844')
MATRIX_COLORS, HEAT_COLORS = 'Blues', 'YlOrRd'
DARK_TEXT, LIGHT_TEXT = '#111111', '#ffffff'


def short_name(name: str) -> str:
    """Return a class name cut to the length for which a chart has room."""
    return name if len(name) <= LONGEST_NAME else f'{name[: LONGEST_NAME - 1]}…'


def class_bars(scores: Sequence[ClassScore]) -> Markup:
    """Draw IoU and boundary IoU of the classes that have an IoU, the lowest first."""
    known = [score for score in scores if score.iou is not None]
    known.sort(key=lambda score: score.iou or 0.0)
    shown = known[:MOST_BARS]
    figure = Figure((WIDTH, 0.8 + 0.32 * len(shown)), layout='constrained')
    axes = figure.subplots()
    places = np.arange(len(shown))
    for shift, label, values in (
        (-0.2, 'IoU', [score.iou for score in shown]),
        (0.2, 'boundary IoU', [score.boundary_iou or 0.0 for score in shown]),
    ):
        color = BAR_COLORS[shift > 0]
        axes.barh(places + shift, [100 * (v or 0) for v in values], 0.4, label=label, color=color)
    axes.set_yticks(places, [short_name(score.name) for score in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_formatter(PercentFormatter())
    axes.grid(axis='x', alpha=0.3)
    axes.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    which = f'the {len(shown)} lowest of {len(known)}' if len(known) > len(shown) else 'all'
    return chart(figure, f'IoU and boundary IoU by class, {which}, the lowest first')


def confusion_matrix(confusion: np.ndarray, classes: Sequence[str]) -> Markup:
    """Draw the share of each true class (row) that is predicted as each class (column)."""
    size = len(classes)
    with np.errstate(invalid='ignore'):
        shares = 100 * confusion / confusion.sum(1, keepdims=True)
    side = 2.0 + max(2.5, 0.36 * size)
    figure = Figure((side, side - 0.7), layout='constrained')
    axes = figure.subplots()
    drawn = axes.imshow(np.ma.masked_invalid(shares), MATRIX_COLORS, vmin=0, vmax=100)
    names = [short_name(name) for name in classes]
    axes.set_xticks(range(size), names, rotation=90)
    axes.set_yticks(range(size), names)
    axes.set_xlabel('predicted')
    axes.set_ylabel('true')
    if size <= MOST_NUMBERS:
        for row, column in np.argwhere(shares >= 0.5):
            color = LIGHT_TEXT if shares[row, column] > 50 else DARK_TEXT
            text = f'{shares[row, column]:.0f}'
            axes.text(column, row, text, ha='center', va='center', color=color, fontsize='small')
    bar = figure.colorbar(drawn, ax=axes, shrink=0.6, format=PercentFormatter())
    bar.outline.set_visible(False)
    return chart(figure, 'Share of the pixels of each true class by predicted class, in percent')


def error_positions(shares: np.ndarray) -> Markup:
    """Draw the share of wrong pixels by place in the image, (rows, columns)."""
    figure = Figure((5.5, 3.5), layout='constrained')
    axes = figure.subplots()
    highest = np.nanmax(shares) if np.isfinite(shares).any() else 0
    drawn = axes.imshow(
        np.ma.masked_invalid(100 * shares),
        HEAT_COLORS,
        vmin=0,
        vmax=max(100 * float(highest), 1e-6),
        extent=(0, 100, 100, 0),
        aspect=0.75,
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter())
    axes.set_xlabel('from left to right')
    axes.set_ylabel('from top to bottom')
    bar = figure.colorbar(drawn, ax=axes, format=PercentFormatter())
    bar.outline.set_visible(False)
    return chart(figure, 'Share of wrong pixels by place in the image, over all images')


def error_distances(distances: Sequence[DistanceError]) -> Markup:
    """Draw the share of wrong pixels, and of all errors, by distance to the nearest boundary."""
    figure = Figure((WIDTH, 3.0), layout='constrained')
    axes = figure.subplots()
    places = np.arange(len(distances))
    total = sum(one.wrong for one in distances)
    rates = [100 * (one.share or 0) for one in distances]
    parts = [100 * one.wrong / total if total else 0 for one in distances]
    axes.bar(places - 0.2, rates, 0.4, label='wrong pixels there', color=BAR_COLORS[0])
    axes.bar(places + 0.2, parts, 0.4, label='part of all errors', color=BAR_COLORS[1])
    axes.set_xticks(places, [one.label for one in distances])
    axes.set_xlabel('distance to the nearest true boundary, pixels')
    axes.yaxis.set_major_formatter(PercentFormatter())
    axes.grid(axis='y', alpha=0.3)
    axes.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return chart(figure, 'Errors by distance to the nearest boundary of the truth')
