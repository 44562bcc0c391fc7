"""Compare two sets of label maps: from the records to the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.changes import choose_changed
from ..analysis.segmentation_changes import (
    ImageChange,
    SegmentationChangeCounter,
    SegmentationChanges,
    rank_changes,
)
from ..io.images import UnreadableFileError
from ..io.label_maps import UNLABELED
from ..reports.page import Card
from ..reports.segmentation_changes_page import (
    changes_card,
    summarize_segmentations,
    write_segmentation_changes_page,
)
from ..reports.segmentation_pictures import Legend, make_legend
from .changes import Comparison, Result
from .flags import evaluators
from .label_map_pairs import decode_label_map, read_label_maps
from .segmentation_report import iou_options, read_picture, truth_loader

Maps = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # of A and B, and the true one


def write_segmentation_changes(comparison: Comparison, out: Path) -> Result:
    """Compare label maps, and write the page.

    Label maps are read image by image, those of the shown images twice.

    Args:
        comparison: The predictions.
        out: The HTML page to write.

    Raises:
        ValueError: A label map is damaged, or its size differs from the others of its image.
        WriteError: The disk is full, or permission is missing.
    """
    options: dict[str, Any] = dict(ignore_index=UNLABELED, nan_to_num=None)
    load = None
    if _has_truth(comparison):
        assert comparison.cfg is not None and comparison.dataset is not None
        options = iou_options(comparison.cfg)
        load = truth_loader(comparison.cfg, comparison.dataset)
    counter = SegmentationChangeCounter(comparison.classes, load is not None, **options)
    for i, record in enumerate(comparison.records[0]):
        counter.add(str(record['name']), *_read_maps(comparison, i, load))
    changes = counter.changes()
    ranked = rank_changes(changes.images)
    palette = None if comparison.dataset is None else comparison.dataset.metainfo.get('palette')
    legend = make_legend(comparison.classes, palette)
    cards = [
        _card(comparison, ranked[place], load, legend, options['ignore_index'])
        for place in choose_changed(ranked)
    ]
    write_segmentation_changes_page(out, changes, cards, legend, comparison.origin())
    return Result(
        summarize_segmentations(changes), [image.name for image in ranked], _numbers(changes)
    )


def _has_truth(comparison: Comparison) -> bool:
    info = comparison.info(0)
    if comparison.cfg is None or info is None or 'seg_map_path' not in info:
        return False
    return not any(metric.get('format_only') for metric in evaluators(comparison.cfg))


def _read_maps(comparison: Comparison, index: int, load: Callable[[dict], dict] | None) -> Maps:
    a, b = (records[index] for records in comparison.records)
    info = comparison.info(index)
    if load is not None and info is not None:
        truth, first = read_label_maps(dict(info), a, load)
        _, second = read_label_maps(dict(info), b, load)
        return first, second, truth
    maps = [_decode(record, path) for record, path in zip((a, b), comparison.paths, strict=True)]
    return maps[0], maps[1], None


def _decode(record: Mapping[str, Any], path: str) -> np.ndarray:
    labels = decode_label_map(record)
    if labels is None:
        raise ValueError(
            f'expected a label map for {record["name"]} in {path!r}, got a damaged one; write the '
            'file again with tools/test.py --dump'
        )
    return labels


def _card(
    comparison: Comparison,
    change: ImageChange,
    load: Callable[[dict], dict] | None,
    legend: Legend,
    ignore_index: int,
) -> Card:
    info, cfg = comparison.info(change.index), comparison.cfg
    image, missing = None, ''
    if info is not None and cfg is not None:
        try:
            image = read_picture(cfg, info['img_path'])
        except UnreadableFileError as error:
            missing = str(error)
    maps = _read_maps(comparison, change.index, load)
    return changes_card(change, *maps, image, legend, ignore_index, missing)


def _numbers(changes: SegmentationChanges) -> dict[str, Any]:
    """Return the numbers for JSON; of the transitions only those that occur."""
    numbers = asdict(changes)
    names = [one.name for one in changes.classes]
    numbers['transitions'] = [
        dict(a=names[first], b=names[second], pixels=int(changes.transitions[first, second]))
        for first, second in np.argwhere(changes.transitions)
    ]
    for entry in numbers['images']:
        entry['classes'] = [names[label] for label in entry['classes']]
    return numbers
