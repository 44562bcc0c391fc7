"""Average precision and recall, computed by pycocotools' COCOeval as mmdet's CocoMetric does it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .detection_data import DetectionImage

# The numbers of COCOeval by mmdet's names, in COCOeval's order.
STATISTICS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
RECALLS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')
MAX_DETECTIONS = (100, 300, 1000)  # CocoMetric's proposal_nums
IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10))  # pycocotools' own floats
NOT_MEASURED = -1  # pycocotools' number where there is nothing to find
COLUMNS = ('AP', 'AP50', 'AP75', 'AP small', 'AP medium', 'AP large', 'AR')


@dataclass(frozen=True)
class Precision:
    """What COCOeval measured for boxes or for masks.

    Attributes:
        task: ``bbox`` or ``segm``.
        statistics: Numbers of all classes by mmdet's names, from 0 to 1; None where there is
            nothing to find.
        by_class: (classes, columns) with :data:`COLUMNS`, from 0 to 1; NaN where there is nothing
            to find. As in mmdet's table of classes, with the highest limit of detections.
        precision: COCOeval's array: (IoU thresholds, 101 recalls, classes, sizes, limits of
            detections), -1 for classes without objects.
        recall: COCOeval's array: (IoU thresholds, classes, sizes, limits of detections).
        iou_thresholds: Those of the first axis.
        recalls: The 101 recalls.
    """

    task: str
    statistics: dict[str, float | None]
    by_class: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    iou_thresholds: np.ndarray
    recalls: np.ndarray

    def curves(self, iou: float) -> np.ndarray | None:
        """Return the precision at the 101 recalls at an IoU threshold.

        Returns:
            (classes, 101), NaN for classes without objects; None if the threshold was not
            evaluated.
        """
        (places,) = np.nonzero(np.isclose(self.iou_thresholds, iou))
        if not len(places):
            return None
        curves = self.precision[places[0], :, :, 0, -1].T
        return np.where(curves > NOT_MEASURED, curves, np.nan)


def measure_precision(
    images: Sequence[DetectionImage],
    classes: int,
    task: str = 'bbox',
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
    max_detections: Sequence[int] = MAX_DETECTIONS,
    evaluator: type = COCOeval,
) -> Precision:
    """Compute average precision and recall.

    Args:
        images: The images, in the order of their ids, in which ties between scores are broken.
        classes: The number of classes.
        task: ``bbox`` for boxes, ``segm`` for masks.
        iou_thresholds: Ascending.
        max_detections: Three limits of detections per image and class, ascending.
        evaluator: pycocotools' COCOeval, or a class with its interface.
    """
    truth, found = _truth(images, classes, task), _found(images, classes, task)
    with contextlib.redirect_stdout(io.StringIO()):
        for coco in (truth, found):
            coco.createIndex()
        evaluation: Any = evaluator(truth, found, task)
        evaluation.params.catIds = list(range(1, classes + 1))
        evaluation.params.imgIds = list(range(1, len(images) + 1))
        evaluation.params.maxDets = list(max_detections)
        evaluation.params.iouThrs = np.atleast_1d(np.asarray(iou_thresholds, float))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision, recall = evaluation.eval['precision'], evaluation.eval['recall']
    numbers = map(float, evaluation.stats)
    return Precision(
        task=task,
        statistics={
            name: None if number == NOT_MEASURED else number
            for name, number in zip((*STATISTICS, *RECALLS), numbers, strict=True)
        },
        by_class=_by_class(precision, recall, evaluation.params.iouThrs),
        precision=precision,
        recall=recall,
        iou_thresholds=evaluation.params.iouThrs,
        recalls=evaluation.params.recThrs,
    )


def _truth(images: Sequence[DetectionImage], classes: int, task: str) -> COCO:
    annotations: list[dict] = []
    for i, image in enumerate(images):
        truth = image.truth
        for j in range(len(truth.labels)):
            annotation = dict(
                id=len(annotations) + 1 if truth.ids is None else truth.ids[j],
                image_id=i + 1,
                category_id=int(truth.labels[j]) + 1,
                bbox=truth.boxes[j].tolist(),
                area=float(truth.areas[j]),
                iscrowd=int(truth.crowd[j]),
            )
            if task == 'segm':
                assert truth.masks is not None
                annotation['segmentation'] = truth.masks[j]
            annotations.append(annotation)
    return _coco(images, classes, annotations)


def _found(images: Sequence[DetectionImage], classes: int, task: str) -> COCO:
    """Return the detections as COCO's loadRes makes them, without the polygons of boxes."""
    results: list[dict] = []
    for i, image in enumerate(images):
        found = image.found
        scores, boxes = found.scores, found.boxes
        areas = boxes[:, 2] * boxes[:, 3]
        if task == 'segm':
            if found.mask_scores is not None:
                scores = found.mask_scores
            masks = list(found.masks or ())
            # One by one: of more than 255 at once it raises.
            areas = np.array([mask_utils.area(mask) for mask in masks])
        for j in range(len(found.labels)):
            result = dict(
                id=len(results) + 1,
                image_id=i + 1,
                category_id=int(found.labels[j]) + 1,
                bbox=boxes[j].tolist(),
                area=float(areas[j]),
                iscrowd=0,
                score=float(scores[j]),
            )
            if task == 'segm':
                result['segmentation'] = masks[j]
            results.append(result)
    return _coco(images, classes, results)


def _coco(images: Sequence[DetectionImage], classes: int, annotations: list[dict]) -> COCO:
    coco = COCO()
    coco.dataset = dict(
        images=[
            dict(id=i + 1, height=image.size[0], width=image.size[1])
            for i, image in enumerate(images)
        ],
        categories=[dict(id=label + 1) for label in range(classes)],
        annotations=annotations,
    )
    return coco


def _by_class(precision: np.ndarray, recall: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return (classes, columns), see :data:`COLUMNS`."""
    limited = np.where(precision > NOT_MEASURED, precision, np.nan)[..., -1]  # (T, R, K, sizes)
    parts = [
        limited[..., 0],
        *(limited[np.isclose(thresholds, iou), ..., 0] for iou in (0.5, 0.75)),
        *(limited[..., size] for size in (1, 2, 3)),
        np.where(recall > NOT_MEASURED, recall, np.nan)[:, None, :, 0, -1],
    ]
    return np.stack([_means(part) for part in parts], axis=1)


def _means(values: np.ndarray) -> np.ndarray:
    """Return the means over all axes but the last, of the values that are numbers."""
    flat = values.reshape(-1, values.shape[-1])
    counted = (~np.isnan(flat)).sum(0)
    sums = np.nansum(flat, axis=0)
    return np.divide(sums, counted, out=np.full(len(sums), np.nan), where=counted > 0)
