"""Compare two sets of detections: from the records to the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.changes import choose_changed
from ..analysis.detection_changes import (
    DetectionChanges,
    ImageChange,
    compare_detections,
    rank_changes,
)
from ..analysis.detection_data import DetectionImage, Truth
from ..io.images import UnreadableFileError
from ..reports.detection_changes_page import (
    changes_card,
    summarize_detections,
    write_detection_changes_page,
)
from ..reports.page import Card
from ..reports.segmentation_pictures import Legend, make_legend
from .changes import Comparison, Result
from .detection_report import load_images, read_found
from .flags import coco_metrics
from .segmentation_report import read_picture

Images = list[DetectionImage]


def write_detection_changes(comparison: Comparison, out: Path, threshold: float) -> Result:
    """Compare detections, and write the page.

    Args:
        comparison: The predictions.
        out: The HTML page to write.
        threshold: Score from which a detection counts.

    Raises:
        ValueError: The threshold is not between 0 and 1.
        WriteError: The disk is full, or permission is missing.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f'expected a score threshold from 0 to 1, got {threshold}')
    names, a, b, with_truth = _load(comparison)
    changes = compare_detections(a, b, names, with_truth, threshold)
    ranked = rank_changes(changes.images)
    palette = None if comparison.dataset is None else comparison.dataset.metainfo.get('palette')
    legend = make_legend(names, palette)
    cards = [_card(comparison, ranked[place], a, b, legend) for place in choose_changed(ranked)]
    pairs = list(zip(a, b, strict=True))
    write_detection_changes_page(out, changes, pairs, cards, legend, comparison.origin())
    return Result(
        summarize_detections(changes), [image.name for image in ranked], _numbers(changes)
    )


def _load(comparison: Comparison) -> tuple[tuple[str, ...], Images, Images, bool]:
    """Return the classes, the images with the detections of A and B, and whether with truth."""
    cfg, dataset = comparison.cfg, comparison.dataset
    metrics = [] if cfg is None else coco_metrics(cfg)
    if dataset is not None and metrics and not metrics[0].get('format_only'):
        names, a = load_images(metrics[0], dataset, comparison.records[0], masks=False)
        _, b = load_images(metrics[0], dataset, comparison.records[1], masks=False)
        return names, a, b, True
    a, b = (_without_truth(comparison, records) for records in comparison.records)
    return comparison.classes, a, b, False


def _without_truth(comparison: Comparison, records: Sequence[dict]) -> Images:
    nothing = Truth(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), np.zeros(0, bool))
    images = []
    for i, record in enumerate(records):
        path = (comparison.info(i) or {}).get('img_path', '')
        name = Path(path).name if path else str(record['name'])
        height, width = record['shape']
        found = read_found([record], masks=False)
        images.append(DetectionImage(name, path, (int(height), int(width)), nothing, found))
    return images


def _card(
    comparison: Comparison, change: ImageChange, a: Images, b: Images, legend: Legend
) -> Card:
    image, missing = None, ''
    path = a[change.index].path
    if comparison.cfg is not None and path:
        try:
            image = read_picture(comparison.cfg, path)
        except UnreadableFileError as error:
            missing = str(error)
    return changes_card(change, a[change.index], b[change.index], image, legend, missing)


def _numbers(changes: DetectionChanges) -> dict[str, Any]:
    """Return the numbers for JSON, with names of classes."""
    names = [one.name for one in changes.classes]
    numbers = asdict(changes)
    for entry in numbers['images']:
        for key in ('became_right', 'became_wrong'):
            if entry[key] is not None:
                entry[key] = [names[label] for label in entry[key]]
        for change in entry['changes']:
            for side in 'ab':
                label = change.pop(f'label_{side}')
                change[f'class_{side}'] = None if label is None else names[label]
    return numbers
