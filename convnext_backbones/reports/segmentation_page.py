"""The page about an evaluation of a segmentor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from ..analysis.segmentation_boundaries import DILATION_RATIO
from ..analysis.segmentation_choice import largest_confusions, rank_images
from ..analysis.segmentations import ClassScore, SegmentationAnalysis
from .page import Card, Section, facts, gallery, table, text, write_page
from .segmentation_charts import class_bars, confusion_matrix, error_distances, error_positions
from .segmentation_pictures import Legend, percent

MOST_CLASSES_IN_MATRIX = 30


def write_segmentation_page(
    path: Path,
    analysis: SegmentationAnalysis,
    pictures: Sequence[Card],
    legend: Legend,
    metrics: Mapping[str, object],
    origin: Mapping[str, object],
) -> None:
    """Write the page.

    Args:
        path: The HTML file, in a folder that exists.
        analysis: The numbers.
        pictures: Cards of chosen images, see :func:`.segmentation_pictures.segmentation_card`.
        legend: Names and colors of the classes.
        metrics: The evaluator's metrics by name, in percent.
        origin: What else the summary says, by name, such as the command.

    Raises:
        WriteError: The disk is full, or permission is missing.
    """
    classes, images = len(analysis.classes), len(analysis.images)
    sections = [
        _summary(analysis, metrics, origin),
        _classes(analysis, legend),
        _confusion(analysis, legend),
        _errors(analysis),
        Section(
            'Images',
            [gallery(pictures)],
            'Right pixels are pale in the picture of the errors; wrong ones have the color of the '
            'class that was predicted. Unlabeled pixels are white in the truth and not counted.',
        ),
        _all_images(analysis),
    ]
    subtitle = f'{images:,} images, {classes:,} classes'
    write_page(path, 'Segmentation report', subtitle, sections, legend.classes)


def _summary(
    analysis: SegmentationAnalysis, metrics: Mapping[str, object], origin: Mapping[str, object]
) -> Section:
    scored = [image.mean_iou for image in analysis.images if image.mean_iou is not None]
    absent = [one.name for one in analysis.classes if not one.true_pixels]
    known = [one.boundary_iou for one in analysis.classes if one.boundary_iou is not None]
    counted = {
        'mean boundary IoU': percent(float(np.mean(known)) if known else None),
        "mean of the images' mIoU": percent(float(np.mean(scored)) if scored else None),
        'images': len(analysis.images),
        'labeled pixels': sum(image.pixels for image in analysis.images),
        'classes': len(analysis.classes),
    }
    if absent:
        counted['classes without a true pixel'] = ', '.join(absent)
    note = 'The first lines are the metrics of the evaluator, in percent.'
    return Section('Summary', [facts({**metrics, **counted, **origin})], note)


def _classes(analysis: SegmentationAnalysis, legend: Legend) -> Section:
    columns = (
        'class',
        'color',
        'IoU',
        'accuracy',
        'boundary IoU',
        'Dice',
        'precision',
        'true pixels',
        'predicted pixels',
    )
    rows = [
        (
            one.name,
            legend.swatch(label),
            *(None if ratio is None else 100 * ratio for ratio in _ratios(one)),
            one.true_pixels,
            one.predicted_pixels,
        )
        for label, one in enumerate(analysis.classes)
    ]
    note = (
        'In percent. Accuracy is the share of the true pixels that are found, also called recall. '
        f'Boundary IoU counts pixels within {100 * DILATION_RATIO:g} % of the image diagonal from '
        'the outlines (Cheng et al., CVPR 2021).'
    )
    parts = [table(columns, rows, class_column=0)]
    if any(one.iou is not None for one in analysis.classes):
        parts.insert(0, class_bars(analysis.classes))
    return Section('Classes', parts, note)


def _ratios(score: ClassScore) -> tuple[float | None, ...]:
    return (score.iou, score.accuracy, score.boundary_iou, score.dice, score.precision)


def _confusion(analysis: SegmentationAnalysis, legend: Legend) -> Section:
    names = legend.classes
    true_pixels = analysis.confusion.sum(1)
    largest = largest_confusions(analysis.confusion)
    parts: list[Markup] = []
    if len(names) <= MOST_CLASSES_IN_MATRIX:
        parts.append(confusion_matrix(analysis.confusion, names))
    rows = [
        (names[true], names[found], pixels, 100 * pixels / true_pixels[true])
        for true, found, pixels in largest
    ]
    columns = ('true class', 'predicted as', 'pixels', '% of the true class')
    parts += [table(columns, rows, class_column=0)] if rows else [text('No pixel is wrong.')]
    note = f'The table has the {len(rows)} largest confusions.' if rows else ''
    return Section('Confusions', parts, note)


def _errors(analysis: SegmentationAnalysis) -> Section:
    wrong = sum(one.wrong for one in analysis.distances)
    rows = [
        (
            one.label,
            one.pixels,
            one.wrong,
            None if one.share is None else 100 * one.share,
            100 * one.wrong / wrong if wrong else None,
        )
        for one in analysis.distances
    ]
    columns = ('distance in pixels', 'pixels', 'wrong', '% wrong', '% of all errors')
    return Section(
        'Where errors lie',
        [
            error_positions(analysis.error_positions),
            error_distances(analysis.distances),
            table(columns, rows),
        ],
        'All images are laid on each other in the first chart, whatever their sizes. Pixels beside '
        'a boundary of the truth have the distance 1; images of one class count as far from any.',
    )


def _all_images(analysis: SegmentationAnalysis) -> Section:
    ranked = rank_images(analysis.images)
    unscored = [image for image in analysis.images if image.mean_iou is None]
    names = [one.name for one in analysis.classes]
    rows = []
    for image in (*ranked, *unscored):
        worst = max(zip(image.wrong, image.present, strict=True), default=(0, 0))
        rows.append(
            (
                image.name,
                None if image.mean_iou is None else 100 * image.mean_iou,
                None if image.accuracy is None else 100 * image.accuracy,
                image.pixels,
                len(image.present),
                names[worst[1]] if worst[0] else None,
            )
        )
    columns = ('image', 'mIoU', 'accuracy', 'labeled pixels', 'classes', 'most errors in')
    note = (
        'In percent, the worst first. The mIoU of an image is over the classes in its truth or its '
        'prediction.'
    )
    return Section('All images', [table(columns, rows)], note)
