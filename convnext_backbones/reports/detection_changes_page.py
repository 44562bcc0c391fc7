"""The page about what changed between two sets of detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..analysis.detection_changes import (
    CLASS_CHANGED,
    GONE,
    KEPT,
    KINDS,
    MOVED,
    NEW,
    RIGHT,
    SAME_OBJECT_IOU,
    SAME_PLACE_IOU,
    WRONG,
    Change,
    DetectionChanges,
    ImageChange,
    rank_changes,
)
from ..analysis.detection_data import DetectionImage
from .detection_pictures import Box, draw_boxes
from .page import Card, Section, facts, gallery, table, text, write_page
from .segmentation_pictures import Legend

MOST_ROWS = 5000  # of a table
BLANK = 235  # gray of the ground where there is no image
NOTHING_CHANGED = 'Nothing changed: A and B are the same.'


def write_detection_changes_page(
    path: Path,
    changes: DetectionChanges,
    pairs: Sequence[tuple[DetectionImage, DetectionImage]],
    cards: Sequence[Card],
    legend: Legend,
    origin: Mapping[str, object],
) -> None:
    """Write the page.

    Args:
        path: The HTML file, in a folder that exists.
        changes: The numbers.
        pairs: The images with the detections of A, and with those of B.
        cards: Cards of chosen images, see :func:`changes_card`.
        legend: Names and colors of the classes.
        origin: What the summary begins with, by name, such as the files.

    Raises:
        WriteError: The disk is full, or permission is missing.
    """
    sections = [_summary(changes, origin)]
    ranked = rank_changes(changes.images)
    if ranked:
        note = 'A dashed box is not kept: it moved, has another class, or is in one of both only.'
        sections += [
            _classes(changes),
            Section('Most changed images', [gallery(cards)], note),
            _all_changes(ranked, pairs, legend),
            _all_images(ranked),
        ]
    subtitle = f'{len(changes.images):,} images, {len(changes.classes):,} classes'
    write_page(path, 'Comparison of detections', subtitle, sections, legend.classes)


def changes_card(
    change: ImageChange,
    a: DetectionImage,
    b: DetectionImage,
    pixels: np.ndarray | None,
    legend: Legend,
    missing: str = '',
) -> Card:
    """Return the card of an image: truth, A and B side by side.

    Args:
        change: The changes of the image.
        a: The image with the detections of A.
        b: The image with the detections of B.
        pixels: (H, W, 3), uint8, RGB; None for boxes on a blank ground.
        legend: Names and colors.
        missing: Why there is no image.
    """
    if pixels is None:
        pixels = np.full((*a.size, 3), BLANK, np.uint8)
    in_a = [(one.a, one.kind) for one in change.changes if one.a is not None]
    in_b = [(one.b, one.kind) for one in change.changes if one.b is not None]
    pictures = [
        (f'{name}: {len(chosen)} detections', draw_boxes(pixels, image, boxes, legend))
        for name, image, chosen in (('A', a, in_a), ('B', b, in_b))
        for boxes in [_boxes(image, chosen, legend)]
    ]
    if change.became_right is not None:
        truth = [
            Box(box, int(label), legend.classes[label], False)
            for box, label in zip(a.truth.boxes, a.truth.labels, strict=True)
        ]
        pictures.insert(0, ('truth', draw_boxes(pixels, a, truth, legend)))
    return Card(
        title=change.name,
        pictures=pictures,
        lines=[*_lines(change, legend), *([missing] if missing else [])],
        classes=[legend.classes[label] for label in change.classes],
        group=change.kinds,
    )


def _boxes(image: DetectionImage, chosen: Sequence[tuple[int, str]], legend: Legend) -> list[Box]:
    found = image.found
    return [
        Box(
            found.boxes[i],
            int(found.labels[i]),
            f'{legend.classes[found.labels[i]]} {found.scores[i]:.2f}',
            kind != KEPT,
        )
        for i, kind in chosen
    ]


def _lines(change: ImageChange, legend: Legend) -> list[str]:
    counts = [f'{change.count(kind)} {kind}' for kind in KINDS if change.count(kind)]
    lines = [', '.join(counts)]
    if change.became_right is not None and change.became_wrong is not None:
        lines.append(
            f'objects: {len(change.became_right)} {RIGHT}, {len(change.became_wrong)} {WRONG}; '
            f'F1 {arrow(change.f1, 2)}'
        )
    changed = [one for one in change.changes if one.kind == CLASS_CHANGED]
    names = [_from_to(one, legend) for one in changed]
    return lines + ([', '.join(dict.fromkeys(names))] if names else [])


def _from_to(change: Change, legend: Legend) -> str:
    assert change.label_a is not None and change.label_b is not None
    return f'{legend.classes[change.label_a]} → {legend.classes[change.label_b]}'


def arrow(pair: tuple[float | None, float | None], digits: int, scale: float = 1) -> str:
    """Return ``0.31 → 0.40`` for a number of A and one of B; a dash for one that is missing."""
    return ' → '.join('–' if one is None else f'{scale * one:.{digits}f}' for one in pair)


def summarize_detections(changes: DetectionChanges) -> dict[str, object]:
    """Return the main numbers by name, for the page and for the terminal."""
    counts: dict[str, object] = {
        'images that changed': f'{len(rank_changes(changes.images)):,} of {len(changes.images):,}',
        'detections': ', '.join(f'{number:,} {kind}' for kind, number in changes.kinds.items()),
    }
    if changes.became_right is not None:
        counts['objects'] = f'{changes.became_right:,} {RIGHT}, {changes.became_wrong:,} {WRONG}'
        counts['box AP'] = arrow(changes.average_precision, 1, 100)
        counts['F1'] = arrow(changes.f1, 1, 100)
    return counts


def _summary(changes: DetectionChanges, origin: Mapping[str, object]) -> Section:
    note = (
        f'Detections with a score of at least {changes.threshold:g} are compared. Boxes of A and B '
        f'belong together from an IoU of {SAME_OBJECT_IOU} on; below {SAME_PLACE_IOU} the box has '
        'moved.'
    )
    parts = [facts({**origin, **summarize_detections(changes)})]
    if not rank_changes(changes.images):
        parts.insert(0, text(NOTHING_CHANGED))
    return Section('Summary', parts, note)


def _classes(changes: DetectionChanges) -> Section:
    with_truth = changes.became_right is not None
    columns = ['class']
    columns += ['AP of A', 'AP of B', 'F1 of A', 'F1 of B', RIGHT, WRONG] if with_truth else []
    columns += ['in A', 'in B', *KINDS, 'changed to it']
    rows = []
    for one in changes.classes:
        row: list[object] = [one.name]
        if with_truth:
            ratios = (*one.average_precision, *one.f1)
            row += [None if ratio is None else 100 * ratio for ratio in ratios]
            row += [one.became_right, one.became_wrong]
        counts = (one.kinds[kind] for kind in KINDS)
        rows.append([*row, *one.detections, *counts, one.joined])
    note = 'A detection whose class changed counts for its class in A.'
    if with_truth:
        note += (
            ' An object became right if only B finds it, and wrong if only A does. AP and F1 are '
            'in percent; AP counts all detections.'
        )
    return Section('Classes', [table(columns, rows, class_column=0)], note)


def _all_changes(
    ranked: Sequence[ImageChange],
    pairs: Sequence[tuple[DetectionImage, DetectionImage]],
    legend: Legend,
) -> Section:
    rows: list[tuple] = []
    for image in ranked:
        a, b = (one.found for one in pairs[image.index])
        for change in image.changes:
            if change.kind == KEPT:
                continue
            own, other = change.label_a, change.label_b
            first = other if own is None else own
            assert first is not None
            rows.append(
                (
                    image.name,
                    change.kind,
                    legend.classes[first],
                    None if other is None or other == first else legend.classes[other],
                    None if change.a is None else float(a.scores[change.a]),
                    None if change.b is None else float(b.scores[change.b]),
                    change.iou,
                )
            )
    columns = ('image', 'change', 'class', 'now', 'score in A', 'score in B', 'IoU')
    shown = rows[:MOST_ROWS]
    note = 'The class filter takes the class in A of what changed its class.'
    if len(rows) > len(shown):
        note = f'The first {MOST_ROWS:,} of {len(rows):,}. {note}'
    parts = [table(columns, shown, digits=2, class_column=2)]
    return Section('Changed detections', parts, note)


def _all_images(ranked: Sequence[ImageChange]) -> Section:
    kinds = (MOVED, CLASS_CHANGED, GONE, NEW)
    with_truth = any(image.became_right is not None for image in ranked)
    columns = ['image', *kinds, *((RIGHT, WRONG, 'F1 of A', 'F1 of B') if with_truth else ())]
    rows = []
    for image in ranked[:MOST_ROWS]:
        row: list[object] = [image.name, *(image.count(kind) for kind in kinds)]
        if with_truth:
            row += [len(image.became_right or ()), len(image.became_wrong or ())]
            row += [None if one is None else 100 * one for one in image.f1]
        rows.append(row)
    return Section('Changed images', [table(columns, rows)], 'Those with the most changes first.')
