"""Write the report of a segmentor's evaluation: from kept predictions to the page."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DefaultScope

from ..analysis.segmentation_choice import choose_images
from ..analysis.segmentations import ImageScore, SegmentationCounter
from ..config.walk import pipelines, type_name
from ..inference.predictor import reading_options
from ..io.drawing import drawable
from ..io.images import UnreadableFileError, read_image
from ..io.label_maps import UNLABELED
from ..reports.page import Card
from ..reports.segmentation_page import write_segmentation_page
from ..reports.segmentation_pictures import Legend, make_legend, reduce_picture, segmentation_card
from .flags import IOU_METRICS, evaluators
from .label_map_pairs import annotation_loader, read_label_maps

TIMES = ('time', 'data_time')  # of the test loop, beside the metrics


def write_segmentation_report(
    cfg: Config,
    dataset: BaseDataset,
    records: Sequence[dict],
    metrics: Mapping[str, Any],
    path: Path,
) -> None:
    """Write the report of an evaluation.

    Label maps are read one pair at a time, those of the shown images twice.

    Args:
        cfg: A config with the test data and the metrics.
        dataset: The test data.
        records: The predictions in the order of the data, as
            :class:`.predictions.DumpPredictions` keeps them.
        metrics: The evaluator's metrics.
        path: The HTML file, in a folder that exists.

    Raises:
        ValueError: The test data have no label maps, or a prediction does not fit them.
        WriteError: The disk is full, or permission is missing.
    """
    options = iou_options(cfg)
    load = truth_loader(cfg, dataset)
    counter = SegmentationCounter(dataset.metainfo['classes'], **options)
    check_order(dataset, records)
    for i, record in enumerate(records):
        counter.add(record['name'], *read_label_maps(dataset.get_data_info(i), record, load))
    analysis = counter.analysis()
    legend = make_legend(counter.classes, dataset.metainfo.get('palette'))
    cards = [
        _card(cfg, dataset, records, analysis.images[i], group, legend, options, load)
        for i, group in choose_images(analysis).items()
    ]
    shown = {name: value for name, value in metrics.items() if name not in TIMES}
    origin = dict(config=cfg.filename, command=shlex.join(sys.argv))
    write_segmentation_page(path, analysis, cards, legend, shown, origin)


def check_order(dataset: BaseDataset, records: Sequence[dict]) -> None:
    """Check that predictions are of the images of the data, one by one.

    Raises:
        ValueError: They are of others, or in another order, as a sampler may choose.
    """
    names = [os.path.basename(dataset.get_data_info(i)['img_path']) for i in range(len(dataset))]
    if [record['name'] for record in records] != names:
        raise ValueError(
            f'expected predictions of the {len(names)} images of the test data in their order, got '
            f'{len(records)} others or in another order; leave test_dataloader.sampler as it is'
        )


def iou_options(cfg: Config) -> dict[str, Any]:
    """Return ``ignore_index`` and ``nan_to_num`` of the config's IoUMetric.

    Raises:
        ValueError: The config has no such metric, or one that evaluates nothing.
    """
    found = [metric for metric in evaluators(cfg) if type_name(metric) in IOU_METRICS]
    if not found or found[0].get('format_only'):
        raise ValueError(
            'expected an IoUMetric that compares with true label maps for a report, found none in '
            'test_evaluator of the config'
        )
    return dict(
        ignore_index=found[0].get('ignore_index', UNLABELED),
        nan_to_num=found[0].get('nan_to_num'),
    )


def truth_loader(cfg: Config, dataset: BaseDataset) -> Callable[[dict], dict]:
    """Return what loads the true label map of an image.

    Raises:
        ValueError: The test data have none.
    """
    if len(dataset) and 'seg_map_path' not in dataset.get_data_info(0):
        raise ValueError(
            'expected test data with true label maps for a report, found images only; set '
            'data_prefix.seg_map_path of the dataset'
        )
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return annotation_loader(next(pipelines(cfg.test_dataloader.dataset), ()))


def read_picture(cfg: Config, path: str) -> np.ndarray:
    """Return an image of the test data as RGB for a page, reduced, (H, W, 3), uint8.

    Raises:
        UnreadableFileError: It is missing or damaged.
    """
    pixels = drawable(read_image(path, **reading_options(cfg)))
    return reduce_picture(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def _card(
    cfg: Config,
    dataset: BaseDataset,
    records: Sequence[dict],
    score: ImageScore,
    group: str,
    legend: Legend,
    options: Mapping[str, Any],
    load: Callable[[dict], dict],
) -> Card:
    info = dataset.get_data_info(score.index)
    picture, missing = None, ''
    try:
        picture = read_picture(cfg, info['img_path'])
    except UnreadableFileError as error:
        missing = str(error)
    maps = read_label_maps(info, records[score.index], load)
    return segmentation_card(score, group, picture, *maps, legend, options['ignore_index'], missing)
