"""The page about what changed between two sets of label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..analysis.segmentation_changes import ImageChange, SegmentationChanges, rank_changes
from ..analysis.segmentation_choice import largest_confusions
from .detection_changes_page import MOST_ROWS, NOTHING_CHANGED, arrow
from .page import Card, Section, facts, gallery, table, text, write_page
from .segmentation_pictures import (
    Legend,
    draw_differences,
    fitted,
    legend_line,
    make_legend,
    percent,
    reduce_labels,
)

BETTER, WORSE, NEITHER = 'better', 'worse', 'neither better nor worse'
# What becomes of a changed pixel, for the picture of the changes.
RIGHT, WRONG, OTHER = range(3)
OUTCOMES = make_legend(
    ('became right', 'became wrong', 'wrong in both'),
    ((0, 150, 80), (210, 40, 40), (120, 130, 200)),
)
SHOWN_TRANSITIONS = 50


def write_segmentation_changes_page(
    path: Path,
    changes: SegmentationChanges,
    cards: Sequence[Card],
    legend: Legend,
    origin: Mapping[str, object],
) -> None:
    """Write the page.

    Args:
        path: The HTML file, in a folder that exists.
        changes: The numbers.
        cards: Cards of chosen images, see :func:`changes_card`.
        legend: Names and colors of the classes.
        origin: What the summary begins with, by name, such as the files.

    Raises:
        WriteError: The disk is full, or permission is missing.
    """
    parts = [facts({**origin, **summarize_segmentations(changes)})]
    if not changes.changed:
        parts.insert(0, text(NOTHING_CHANGED))
    sections = [Section('Summary', parts)]
    if changes.changed:
        note = 'Pixels that did not change are pale in the picture of the changes.'
        sections += [
            _classes(changes, legend),
            _transitions(changes, legend),
            Section('Most changed images', [gallery(cards)], note),
            _all_images(changes),
        ]
    subtitle = f'{len(changes.images):,} images, {len(changes.classes):,} classes'
    write_page(path, 'Comparison of segmentations', subtitle, sections, legend.classes)


def summarize_segmentations(changes: SegmentationChanges) -> dict[str, object]:
    """Return the main numbers by name, for the page and for the terminal."""
    share = changes.changed / changes.pixels if changes.pixels else 0.0
    changed = len(rank_changes(changes.images))
    counts: dict[str, object] = {
        'images that changed': f'{changed:,} of {len(changes.images):,}',
        'pixels with another label': (
            f'{percent(share, 2)} ({changes.changed:,} of {changes.pixels:,})'
        ),
    }
    if changes.became_right is not None:
        counts['became right'] = f'{changes.became_right:,} pixels'
        counts['became wrong'] = f'{changes.became_wrong:,} pixels'
        counts['mIoU'] = arrow(changes.mean_iou, 2, 100)
    return counts


def changes_card(
    change: ImageChange,
    a: np.ndarray,
    b: np.ndarray,
    truth: np.ndarray | None,
    image: np.ndarray | None,
    legend: Legend,
    ignore_index: int,
    missing: str = '',
) -> Card:
    """Return the card of an image: image, truth, A, B and the changed pixels side by side.

    Args:
        change: The changes of the image.
        a: Labels in A, (H, W).
        b: Labels in B, (H, W).
        truth: True labels, (H, W); None if there are none.
        image: (H, W, 3), uint8, RGB; None if there is none.
        legend: Names and colors.
        ignore_index: True label of pixels that are not compared.
        missing: Why there is no image.
    """
    a, b = reduce_labels(a), reduce_labels(b)
    if image is not None:
        image = fitted(image, a)
    different = a != b
    pictures = [] if image is None else [('image', image)]
    if truth is None:
        drawn = draw_differences(image, b, different, legend)
        last = ('changes, in the color of B', drawn)
    else:
        truth = reduce_labels(truth)
        labeled = truth != ignore_index
        pictures.append(('truth', legend.paint(np.where(labeled, truth, len(legend.classes)))))
        outcome = np.select([b == truth, a == truth], [RIGHT, WRONG], OTHER)
        drawn = draw_differences(image, outcome, different & labeled, OUTCOMES)
        last = ('changes: green became right, red became wrong', drawn)
    pictures += [('A', legend.paint(a)), ('B', legend.paint(b)), last]
    lines = [f'{percent(change.share)} of the pixels changed']
    if change.became_right is not None:
        lines.append(
            f'{change.became_right:,} pixels became right, {change.became_wrong:,} became wrong; '
            f'mIoU {arrow(change.mean_iou, 1, 100)}'
        )
    lines.append(legend_line(change.classes, legend))
    lines += [missing] if missing else []
    return Card(
        title=change.name,
        pictures=pictures,
        lines=lines,
        classes=[legend.classes[label] for label in change.classes],
        group=_group(change),
    )


def _group(change: ImageChange) -> str:
    if change.became_right is None or change.became_wrong is None:
        return ''
    if change.became_right == change.became_wrong:
        return NEITHER
    return BETTER if change.became_right > change.became_wrong else WORSE


def _classes(changes: SegmentationChanges, legend: Legend) -> Section:
    with_truth = changes.became_right is not None
    columns = ['class', 'color']
    columns += ['IoU of A', 'IoU of B', 'became right', 'became wrong'] if with_truth else []
    columns += ['pixels in A', 'pixels in B', 'only in A', 'only in B']
    rows = []
    for label, one in enumerate(changes.classes):
        row: list[object] = [one.name, legend.swatch(label)]
        if with_truth:
            row += [None if iou is None else 100 * iou for iou in one.iou]
            row += [one.became_right, one.became_wrong]
        rows.append([*row, *one.pixels, one.left, one.joined])
    note = 'Right and wrong are counted by true class; IoU is in percent.' if with_truth else ''
    return Section('Classes', [table(columns, rows, class_column=0)], note)


def _transitions(changes: SegmentationChanges, legend: Legend) -> Section:
    names = legend.classes
    rows = [
        (names[first], names[second], pixels, 100 * pixels / changes.changed)
        for first, second, pixels in largest_confusions(changes.transitions, SHOWN_TRANSITIONS)
    ]
    columns = ('class in A', 'class in B', 'pixels', '% of all changes')
    note = f'The {len(rows)} changes with the most pixels.'
    return Section('From class to class', [table(columns, rows, class_column=0)], note)


def _all_images(changes: SegmentationChanges) -> Section:
    with_truth = changes.became_right is not None
    columns = ['image', '% changed', 'changed pixels']
    columns += ['became right', 'became wrong', 'mIoU of A', 'mIoU of B'] if with_truth else []
    rows = []
    for image in rank_changes(changes.images)[:MOST_ROWS]:
        row: list[object] = [image.name, 100 * image.share, image.changed]
        if with_truth:
            row += [image.became_right, image.became_wrong]
            row += [None if one is None else 100 * one for one in image.mean_iou]
        rows.append(row)
    note = 'Those with the largest share of changed pixels first.'
    return Section('Changed images', [table(columns, rows)], note)
