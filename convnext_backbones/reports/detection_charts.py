"""Charts of an analysis of detections."""

from __future__ import annotations

import warnings

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..analysis.calibration import Calibration
from ..analysis.detection_errors import Errors
from ..analysis.detection_precision import Precision
from ..analysis.detections import DetectionAnalysis

WIDTH = 9.0  # inches
MOST_CURVES = 10  # of classes, beside their mean
MOST_CLASSES = 30  # in a chart with all classes
MOST_NUMBERS = 16  # rows and columns of a confusion matrix with numbers
IOUS = (0.5, 0.75)
BLUE, ORANGE, GRAY = '#3b7dd8', '#e08214', '#8a8a8a'
DARK = '#111111'  # on colored areas: black would become the color of the page's text


def draw_curves(analysis: DetectionAnalysis, precision: Precision) -> Figure | None:
    """Draw precision over recall at two IoU thresholds; None if neither was evaluated.

    The classes with the most objects get a curve, and all classes their mean.
    """
    drawn = [(iou, curves) for iou in IOUS if (curves := precision.curves(iou)) is not None]
    if not drawn:
        return None
    counts = [count.objects for count in analysis.class_counts]
    labels = [int(i) for i in np.argsort(-np.array(counts), kind='stable') if counts[i]]
    several = len(analysis.classes) > 1
    labels = sorted(labels[:MOST_CURVES]) if several else []
    mean_name = 'mean of all classes' if several else _name(analysis, 0)
    figure = Figure((WIDTH, 4.4), layout='constrained')
    axes = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for (iou, curves), ax in zip(drawn, axes, strict=True):
        for i, label in enumerate(labels):
            color = colormaps['tab10'](i)
            ax.plot(
                precision.recalls, curves[label], lw=1, color=color, label=_name(analysis, label)
            )
        with warnings.catch_warnings():  # no class has objects
            warnings.simplefilter('ignore', RuntimeWarning)
            mean = np.nanmean(curves, axis=0)
        ax.plot(precision.recalls, mean, lw=2.5, color='black', label=mean_name)
        ax.set(title=f'IoU {iou:g}', xlabel='recall', xlim=(0, 1), ylim=(0, 1.02))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel('precision')
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc='outside lower center', ncols=4, frameon=False)
    return figure


def _name(analysis: DetectionAnalysis, label: int) -> str:
    """Return the name of a class, at a length for charts, as matplotlib's legends show it."""
    name = analysis.classes[label]
    short = name if len(name) <= 24 else f'{name[:23]}…'
    return f' {short}' if short.startswith('_') else short  # matplotlib hides names with a _


def draw_confusion(analysis: DetectionAnalysis) -> Figure:
    """Draw the confusion matrix, colored by the share of each row."""
    matrix = analysis.confusion
    totals = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    size = len(matrix)
    names = [_name(analysis, label) for label in range(size - 1)] + ['background']
    side = min(WIDTH, 3.2 + 0.42 * size)
    figure = Figure((side, side * 0.9), layout='constrained')
    ax = figure.subplots()
    shown = ax.pcolormesh(shares, cmap='Blues', vmin=0, vmax=1, edgecolor=GRAY, linewidth=0.3)
    ax.invert_yaxis()
    ax.set_aspect('equal')
    places = np.arange(size) + 0.5
    ax.set_xticks(places, names, rotation=60, ha='right', rotation_mode='anchor')
    ax.set_yticks(places, names)
    ax.set(xlabel='detected as', ylabel='true class')
    if size <= MOST_NUMBERS:
        for i, j in zip(*np.nonzero(matrix), strict=True):
            color = 'white' if shares[i, j] > 0.6 else DARK
            ax.text(j + 0.5, i + 0.5, f'{matrix[i, j]}', ha='center', va='center', color=color,
                    fontsize=8)  # fmt: skip
    figure.colorbar(shown, ax=ax, label='share of the row', shrink=0.7)
    return figure


def draw_calibration(calibration: Calibration) -> Figure:
    """Draw the share of correct detections over their score, and the numbers of detections."""
    figure = Figure((WIDTH * 0.75, 4.6), layout='constrained')
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    left, width = calibration.edges[:-1], np.diff(calibration.edges)
    upper.bar(left, np.nan_to_num(calibration.shares), width, align='edge', color=BLUE,
              edgecolor=GRAY, label='share that is correct')  # fmt: skip
    upper.plot([0, 1], [0, 1], '--', color='black', lw=1, label='perfectly calibrated')
    upper.plot(calibration.mean_scores, calibration.shares, 'o', color=ORANGE, ms=5,
               label='at the mean score')  # fmt: skip
    upper.set(ylabel='correct', xlim=(0, 1), ylim=(0, 1.02))
    upper.grid(alpha=0.3)
    upper.legend(loc='upper left', frameon=False, fontsize='small')
    lower.bar(left, calibration.counts, width, align='edge', color=GRAY, edgecolor=GRAY)
    lower.set(xlabel='score', ylabel='detections')
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.grid(alpha=0.3)
    return figure


def draw_errors(errors: Errors) -> Figure:
    """Draw how many errors of each kind there are, and what correcting them gains."""
    names = [kind.name for kind in errors.kinds]
    figure = Figure((WIDTH, 2.8), layout='constrained')
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, names, [kind.count for kind in errors.kinds], '{:,.0f}', BLUE)
    _bars(right, names, [100 * kind.gain for kind in errors.kinds], '{:.1f}', ORANGE)
    left.invert_yaxis()  # the right one shares it
    left.set_xlabel('errors above the score threshold')
    right.set_xlabel('gain in AP50 if corrected, in points of 100')
    return figure


def _bars(ax: Axes, names: list[str], values: list[float], form: str, color: str) -> None:
    bars = ax.barh(names, values, color=color)
    ax.bar_label(bars, [form.format(value) for value in values], padding=3, fontsize=9)
    ax.margins(x=0.15)
    ax.grid(axis='x', alpha=0.3)


def draw_counts(analysis: DetectionAnalysis) -> Figure:
    """Draw the numbers of objects and detections of every class."""
    counts = analysis.class_counts
    figure = Figure((WIDTH, 1.4 + 0.32 * len(counts)), layout='constrained')
    ax = figure.subplots()
    places = np.arange(len(counts))
    for shift, values, color, label in (
        (-0.2, [count.objects for count in counts], BLUE, 'objects in the data'),
        (0.2, [count.detections for count in counts], ORANGE, 'detections above the threshold'),
    ):
        ax.barh(places + shift, values, 0.38, color=color, label=label)
    ax.set_yticks(places, [_name(analysis, label) for label in range(len(counts))])
    ax.invert_yaxis()
    ax.grid(axis='x', alpha=0.3)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc='outside upper center', ncols=2, frameon=False)
    return figure
