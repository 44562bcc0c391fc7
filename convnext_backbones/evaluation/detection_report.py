"""Write the report of a detector's evaluation: from kept predictions to the page."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.fileio import get_local_path
from pycocotools.cocoeval import COCOeval

from ..analysis.detection_data import DetectionImage, Found, Truth
from ..analysis.detection_precision import IOU_THRESHOLDS, MAX_DETECTIONS
from ..analysis.detections import analyse_detections
from ..config.walk import type_name
from ..reports.detection_page import write_detection_page
from .flags import coco_metrics, coco_tasks
from .metrics import fast_evaluator
from .segmentation_report import TIMES, read_picture


def write_detection_report(
    cfg: Config,
    dataset: BaseDataset,
    records: Sequence[dict],
    metrics: Mapping[str, Any],
    path: Path,
) -> None:
    """Write the report of an evaluation.

    Args:
        cfg: A config with the test data and CocoMetrics.
        dataset: The test data.
        records: The predictions, as :class:`.predictions.DumpPredictions` keeps them.
        metrics: The evaluator's metrics.
        path: The HTML file, in a folder that exists.

    Raises:
        ValueError: There are no images, or predictions do not fit the data.
        WriteError: The disk is full, or permission is missing.
    """
    metric = coco_metrics(cfg)[0]
    with_masks = any('masks' in record for record in records)
    tasks = [task for task in coco_tasks(cfg) if with_masks or task != 'segm']
    classes, images = load_images(metric, dataset, records, with_masks and 'segm' in tasks)
    fast = type_name(metric) == 'FastCocoMetric'
    analysis = analyse_detections(
        images,
        classes,
        tasks=tasks,
        iou_thresholds=metric.get('iou_thrs') or IOU_THRESHOLDS,
        max_detections=metric.get('proposal_nums', MAX_DETECTIONS),
        evaluator=fast_evaluator() if fast else COCOeval,
    )
    write_detection_page(
        path,
        analysis,
        lambda index: read_picture(cfg, images[index].path),
        metrics={name: value for name, value in metrics.items() if name not in TIMES},
        origin=dict(config=cfg.filename, command=shlex.join(sys.argv)),
        palette=dataset.metainfo.get('palette'),
    )


def load_images(
    metric: ConfigDict, dataset: BaseDataset, records: Sequence[dict], masks: bool
) -> tuple[tuple[str, ...], list[DetectionImage]]:
    """Join predictions with the annotations that the evaluator reads.

    Datasets drop some annotations, such as boxes narrower than a pixel. Their evaluator drops none,
    so the annotations are read again, as CocoMetric does.

    Args:
        metric: The CocoMetric.
        dataset: The test data.
        records: The predictions.
        masks: Whether the masks of annotations and predictions are needed.

    Returns:
        The names of the classes by label, and the images in the order of their ids.
    """
    classes = tuple(dataset.metainfo['classes'])
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    paths = {info['img_id']: info['img_path'] for info in infos}
    coco = _annotations(metric, classes, infos, records)
    category_ids = coco.get_cat_ids(cat_names=classes)
    labels = {category: label for label, category in enumerate(category_ids)}
    # Labels follow the order of the categories in the file, also if the config names others.
    names = [coco.cats[category]['name'] for category in category_ids]
    names += [name for name in classes if name not in names]
    by_image: dict[Any, list[dict]] = {}
    for record in records:
        by_image.setdefault(record['name'], []).append(record)
    images = []
    for image_id in sorted(coco.get_img_ids()):
        entry, found = coco.imgs[image_id], by_image.get(image_id, [])
        image_path = paths.get(image_id, '')
        size = found[0]['shape'] if found else (entry['height'], entry['width'])
        images.append(
            DetectionImage(
                name=entry.get('file_name') or os.path.basename(image_path),
                path=image_path,
                size=(int(size[0]), int(size[1])),
                truth=_truth(coco, image_id, labels, masks),
                found=read_found(found, masks),
            )
        )
    return tuple(names), images


def _annotations(
    metric: ConfigDict, classes: Sequence[str], infos: Sequence[dict], records: Sequence[dict]
) -> Any:
    """Return the annotations as mmdet's COCO."""
    from mmdet.datasets.api_wrappers import COCO

    ann_file = metric.get('ann_file')
    with contextlib.redirect_stdout(io.StringIO()):
        if ann_file is None:
            coco = COCO()
            coco.dataset = _converted(classes, infos, records)
            coco.createIndex()
            coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
            return coco
        with get_local_path(ann_file, backend_args=metric.get('backend_args')) as local_path:
            coco = COCO(local_path)
    if metric.get('sort_categories'):
        coco.dataset['categories'].sort(key=lambda category: category['id'])
    return coco


def _converted(
    classes: Sequence[str], infos: Sequence[dict], records: Sequence[dict]
) -> dict[str, list[dict]]:
    """Return what CocoMetric makes of a dataset's objects if it has no annotation file."""
    by_id = {info['img_id']: info for info in infos}
    images: list[dict] = []
    annotations: list[dict] = []
    for record in records:
        info, (height, width) = by_id[record['name']], record['shape']
        images.append(
            dict(
                id=record['name'],
                height=height,
                width=width,
                file_name=os.path.basename(info['img_path']),
            )
        )
        for instance in info['instances']:
            x1, y1, x2, y2 = instance['bbox']
            annotation = dict(
                id=len(annotations) + 1,
                image_id=record['name'],
                category_id=int(instance['bbox_label']),
                bbox=[x1, y1, x2 - x1, y2 - y1],
                area=(x2 - x1) * (y2 - y1),
                iscrowd=instance.get('ignore_flag', 0),
            )
            if instance.get('mask'):
                annotation['segmentation'] = instance['mask']
            annotations.append(annotation)
    categories = [dict(id=label, name=name) for label, name in enumerate(classes)]
    return dict(images=images, categories=categories, annotations=annotations)


def _truth(coco: Any, image_id: Any, labels: Mapping[Any, int], masks: bool) -> Truth:
    annotations = [
        annotation
        for annotation in coco.load_anns(coco.get_ann_ids(img_ids=[image_id]))
        if annotation['category_id'] in labels
    ]
    return Truth(
        boxes=np.array([a['bbox'] for a in annotations], float).reshape(-1, 4),
        labels=np.array([labels[a['category_id']] for a in annotations], int),
        areas=np.array([a['area'] for a in annotations], float),
        crowd=np.array([a.get('iscrowd', 0) for a in annotations], bool),
        masks=[coco.annToRLE(a) for a in annotations] if masks else None,
        ids=[a['id'] for a in annotations],
    )


def read_found(records: Sequence[dict], masks: bool) -> Found:
    """Return the detections of an image from its records, with their masks if these are needed."""

    def joined(key: str, kind: type) -> np.ndarray:
        parts: list[np.ndarray] = [np.asarray(record[key], kind).reshape(-1) for record in records]
        return np.concatenate([np.zeros(0, kind), *parts])

    # In double precision, as CocoMetric converts the corners.
    boxes = joined('bboxes', float).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    encoded = [
        dict(size=list(record['shape']), counts=counts)
        for record in records
        for counts in record.get('masks', ())
    ]
    scored_apart = bool(records) and all('mask_scores' in record for record in records)
    return Found(
        boxes=boxes,
        labels=joined('labels', int),
        scores=joined('scores', float),
        masks=encoded if masks else None,
        mask_scores=joined('mask_scores', float) if scored_apart else None,
    )
