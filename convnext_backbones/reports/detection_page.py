"""The report of a detector's evaluation, as one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ..analysis.detection_choice import choose_images, worst_images
from ..analysis.detection_data import SIZES
from ..analysis.detection_matches import BACKGROUND_IOU, FOREGROUND_IOU
from ..analysis.detection_precision import COLUMNS, NOT_MEASURED, RECALLS, STATISTICS, Precision
from ..analysis.detections import DetectionAnalysis
from . import detection_charts as charts
from .detection_pictures import make_card
from .page import Section, chart, facts, gallery, table, text, write_page
from .segmentation_pictures import make_legend

TASK_NAMES = {'bbox': 'boxes', 'segm': 'masks'}
MOST_CONFUSIONS = 50  # rows of the table
MOST_ROWS = 5000  # of the table of images
BACKGROUND = 'background'
ERROR_NOTES = {
    'classification': 'an object of another class is there',
    'localization': 'the object is there, but the box fits it badly',
    'both': 'an object of another class is there, and the box fits it badly',
    'duplicate': 'the object has been found with a higher score',
    'background': 'there is nothing',
    'missed': 'nothing was detected there, not even with a wrong class or a wrong place',
}


def write_detection_page(
    path: Path,
    analysis: DetectionAnalysis,
    pictures: Callable[[int], np.ndarray],
    *,
    metrics: Mapping[str, Any],
    origin: Mapping[str, object],
    palette: Sequence[Sequence[int]] | None = None,
) -> None:
    """Write the report of a detector's evaluation.

    Args:
        path: The HTML file.
        analysis: What the detector gets right and wrong.
        pictures: Returns the (H, W, 3) uint8 RGB image of an index of the analysis, or raises
            UnreadableFileError.
        metrics: The numbers of the evaluator by name.
        origin: What was evaluated, such as config and command, by name.
        palette: An RGB color for every class; without them colors are made.

    Raises:
        WriteError: The disk is full, or permission is missing.
    """
    count = len(analysis.images)
    objects = sum(counts.objects for counts in analysis.class_counts)
    subtitle = f'{count:,} images, {objects:,} objects, {len(analysis.classes):,} classes'
    sections = [
        _summary(analysis, metrics, origin),
        _by_class(analysis),
        _by_size(analysis),
        _curves(analysis),
        _errors(analysis),
        _confusion(analysis),
        _calibration(analysis),
        _counts(analysis),
        _gallery(analysis, pictures, palette),
        _images(analysis),
    ]
    several = len(analysis.classes) > 1
    write_page(path, 'Detection report', subtitle, sections, analysis.classes if several else ())


def _summary(
    analysis: DetectionAnalysis, metrics: Mapping[str, Any], origin: Mapping[str, object]
) -> Section:
    counts = analysis.class_counts
    numbers = {
        **origin,
        'images': len(analysis.images),
        'objects': sum(count.objects for count in counts),
        'crowds': sum(count.crowds for count in counts),
        'detections': len(analysis.matches.label),
        f'detections with a score of at least {analysis.threshold:g}': sum(
            count.detections for count in counts
        ),
    }
    note = (
        f'Detections count from a score of {analysis.threshold:g} on, but AP, AR, and the '
        f'calibration are of all. A detection is correct from IoU {FOREGROUND_IOU:g} on.'
    )
    parts = [
        text("The evaluator's numbers:"),
        facts(metrics),
        text('What was evaluated:'),
        facts(numbers),
    ]
    return Section('Summary', parts, note)


def _by_class(analysis: DetectionAnalysis) -> Section:
    parts: list[Markup] = []
    for task, precision in analysis.precision.items():
        if len(analysis.precision) > 1:
            parts.append(text(f'Of {TASK_NAMES[task]}:'))
        rows = [
            [count.name, *map(float, values), count.objects]
            for count, values in zip(analysis.class_counts, precision.by_class, strict=True)
        ]
        parts.append(table(['class', *COLUMNS, 'objects'], rows, digits=3, class_column=0))
    note = (
        'AP is the mean over IoU thresholds, AP50 and AP75 are those at IoU 0.50 and 0.75; a dash '
        'stands where there is nothing to find.'
    )
    return Section('AP by class', parts, note)


def _by_size(analysis: DetectionAnalysis) -> Section:
    """Return the numbers of all classes, by COCO's sizes."""
    names = ['all sizes', *SIZES]
    rows = []
    for task, precision in analysis.precision.items():
        numbers = precision.statistics
        values = ['mAP', *STATISTICS[3:]], ['AR@1000', *RECALLS[3:]]
        for i, name in enumerate(names):
            ap, ar = (numbers[column[i]] for column in values)
            at_50, at_75 = (_at(precision, iou, i) for iou in (0.5, 0.75))
            rows.append([TASK_NAMES[task], name, ap, at_50, at_75, ar])
    columns = ['of', 'size', 'AP', 'AP50', 'AP75', 'AR']
    note = 'Objects below 32 x 32 pixels are small, those from 96 x 96 pixels on large.'
    return Section('AP by size', [table(columns, rows, digits=3)], note)


def _at(precision: Precision, iou: float, size: int) -> float | None:
    """Return AP at an IoU threshold and a size, as COCOeval sums it up."""
    chosen = precision.precision[np.isclose(precision.iou_thresholds, iou), :, :, size, -1]
    measured = chosen[chosen > NOT_MEASURED]
    return float(measured.mean()) if measured.size else None


def _curves(analysis: DetectionAnalysis) -> Section:
    parts: list[Markup] = []
    for task, precision in analysis.precision.items():
        figure = charts.draw_curves(analysis, precision)
        if figure is None:
            parts.append(text('No curves: neither IoU 0.50 nor IoU 0.75 was evaluated.'))
        else:
            what = f'Precision and recall of {TASK_NAMES[task]}'
            if len(analysis.classes) > charts.MOST_CURVES:
                what += f': the {charts.MOST_CURVES} classes with the most objects, and the mean'
            parts.append(chart(figure, f'{what}.'))
    return Section('Precision and recall', parts)


def _errors(analysis: DetectionAnalysis) -> Section:
    errors = analysis.errors
    rows = [[kind.name, kind.count, kind.total, 100 * kind.gain] for kind in errors.kinds]
    columns = ['kind', 'errors', 'at any score', 'gain in AP50']
    sums = {
        'correct detections': errors.correct,
        'ignored detections, in crowds': errors.ignored,
        'AP50 of boxes': errors.ap50,
    }
    note = (
        'Kinds and gains are those of TIDE (Bolya et al., ECCV 2020), with boxes: from IoU '
        f'{FOREGROUND_IOU:g} on a box fits, up to IoU {BACKGROUND_IOU:g} it shows background. The '
        'gain is how many points of 100 AP50 would rise if only the errors of this kind, at any '
        'score, were corrected.'
    )
    description = 'Errors by kind, and what correcting them would gain.'
    parts = [
        chart(charts.draw_errors(errors), description),
        table(columns, rows, digits=1),
        facts(ERROR_NOTES),
        facts(sums),
    ]
    return Section('Errors by kind', parts, note)


def _confusion(analysis: DetectionAnalysis) -> Section:
    matrix = analysis.confusion
    names = [*analysis.classes, BACKGROUND]
    parts: list[Markup] = []
    if len(analysis.classes) <= charts.MOST_CLASSES:
        description = 'True classes, and what they were detected as.'
        parts.append(chart(charts.draw_confusion(analysis), description))
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind='stable')[:MOST_CONFUSIONS]
    totals = matrix.sum(1)
    rows = []
    for place in order:
        i, j = divmod(int(place), len(names))
        if wrong[i, j]:
            share = 100 * wrong[i, j] / totals[i]
            label = names[i] if i < len(analysis.classes) else names[j]
            rows.append([label, names[i], names[j], int(wrong[i, j]), share])
    columns = ['class', 'true', 'detected as', 'count', 'share of the row, %']
    parts.append(text('The most frequent confusions:' if rows else 'There are no confusions.'))
    if rows:
        parts.append(table(columns, rows, class_column=0))
    note = (
        'Detections take objects regardless of the class, from the highest score to the lowest. '
        'Objects detected as background are missed; background detected as a class is a false '
        'detection.'
    )
    return Section('Confusion matrix', parts, note)


def _calibration(analysis: DetectionAnalysis) -> Section:
    calibration = analysis.calibration
    if calibration.error is None:
        return Section('Calibration', [text('There are no detections.')])
    bins = zip(
        calibration.edges[:-1],
        calibration.edges[1:],
        calibration.counts,
        calibration.mean_scores,
        calibration.shares,
        strict=True,
    )
    rows = [
        [f'{low:.1f} to {high:.1f}', int(count), float(score), float(share)]
        for low, high, count, score, share in bins
    ]
    description = 'Share of correct detections by score, and numbers of detections.'
    parts = [
        chart(charts.draw_calibration(calibration), description),
        facts({'expected calibration error': round(calibration.error, 4)}),
        table(['scores', 'detections', 'mean score', 'share correct'], rows, digits=3),
    ]
    note = (
        'Calibrated scores equal the shares of correct detections. The expected calibration error '
        'is their mean difference, weighted by the numbers of detections.'
    )
    return Section('Calibration', parts, note)


def _counts(analysis: DetectionAnalysis) -> Section:
    parts: list[Markup] = []
    if len(analysis.classes) <= charts.MOST_CLASSES:
        description = 'Objects and detections by class.'
        parts.append(chart(charts.draw_counts(analysis), description))
    columns = ['class', 'objects', 'crowds', 'images', 'detections', 'correct', 'missed']
    rows = [
        [c.name, c.objects, c.crowds, c.images, c.detections, c.correct, c.missed]
        for c in analysis.class_counts
    ]
    parts.append(table(columns, rows, class_column=0))
    sizes = [
        [size.name, size.objects, size.detections, size.missed] for size in analysis.size_counts
    ]
    parts.append(table(['size', 'objects', 'detections', 'missed objects'], sizes))
    note = (
        'Sizes of objects are those of their annotated areas, of detections those of their boxes.'
    )
    return Section('Counts', parts, note)


def _gallery(
    analysis: DetectionAnalysis,
    pictures: Callable[[int], np.ndarray],
    palette: Sequence[Sequence[int]] | None,
) -> Section:
    legend = make_legend(analysis.classes, palette)
    cards = [
        make_card(analysis, index, group, pictures, legend)
        for index, group in choose_images(analysis)
    ]
    if not cards:
        return Section('Best and worst images', [text('No image has objects or detections.')])
    note = (
        'Images are ordered by F1 of their detections. Dashed boxes are missed objects, and '
        'detections that are not correct.'
    )
    return Section('Best and worst images', [gallery(cards)], note)


def _images(analysis: DetectionAnalysis) -> Section:
    ranked = worst_images(analysis.image_scores)
    ranked += [score for score in analysis.image_scores if score.f1 is None]
    rows = [[s.name, s.f1, s.objects, s.correct, s.false, s.missed] for s in ranked[:MOST_ROWS]]
    note = 'The worst come first.'
    if len(ranked) > MOST_ROWS:
        note = f'The worst {MOST_ROWS:,} of {len(ranked):,} images.'
    columns = ['image', 'F1', 'objects', 'correct', 'false', 'missed']
    return Section('All images', [table(columns, rows, digits=3)], note)
