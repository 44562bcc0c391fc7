"""Metrics for configs: fast COCO evaluation, and IoU per class written to files."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from .results import write_per_class


def fast_evaluator() -> type:
    """The counterpart of pycocotools' ``COCOeval`` in faster-coco-eval, with the same numbers.

    Raises:
        ValueError: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCOeval_faster
    except ImportError:
        raise ValueError(
            'expected faster-coco-eval for fast evaluation, which is not installed; run: '
            'pip install faster-coco-eval'
        ) from None

    class FastCOCOeval(COCOeval_faster):
        def __init__(self, ground_truth, predictions, iou_type: str) -> None:
            super().__init__(ground_truth, predictions, iou_type, print_function=print)
            # Each pair of image and class is so little work that handing it to a thread costs more.
            self.rle_iou_max_workers = 1

        def evaluate(self) -> None:
            with garbage_kept():
                super().evaluate()

        def _summarize(
            self, ap=1, iouThr=None, areaRng='all', maxDets=100, freq_group_idx=None, catIds=None
        ) -> float:
            # pycocotools computes the first of its numbers, AP, from 100 detections per image and
            # class whatever the limits are; faster-coco-eval from the highest limit, mmdet's 1000.
            if ap == 1 and iouThr is None and areaRng == 'all':
                maxDets = 100
                if maxDets not in self.params.maxDets:
                    return -1.0
            return super()._summarize(ap, iouThr, areaRng, maxDets, freq_group_idx, catIds)

    return FastCOCOeval


@contextmanager
def garbage_kept() -> Iterator[None]:
    """No garbage collection within the context.

    Many small objects that all stay make the collector search them again and again: a seventh of
    the time of an evaluation of masks.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@METRICS.register_module(name='FastCocoMetric')
def fast_coco_metric(**kwargs) -> BaseMetric:
    """mmdet's CocoMetric with its keys and numbers, computed by faster-coco-eval.

    Args:
        **kwargs: Those of CocoMetric.

    Raises:
        ValueError: faster-coco-eval is not installed.
    """
    from mmdet.evaluation.metrics import coco_metric

    evaluator = fast_evaluator()

    class FastCocoMetric(coco_metric.CocoMetric):
        def compute_metrics(self, results: list) -> dict[str, float]:
            # CocoMetric finds its evaluator among the globals of its module, and nowhere else.
            with patch.multiple(coco_metric, COCOeval=evaluator, COCOevalMP=evaluator):
                return super().compute_metrics(results)

    return FastCocoMetric(**kwargs)


@METRICS.register_module(name='PerClassIoUMetric')
def per_class_iou_metric(out_prefix: str, **kwargs) -> BaseMetric:
    """mmseg's IoUMetric, which also writes what it computes for each class.

    Args:
        out_prefix: The files are ``<out_prefix>.json`` and ``<out_prefix>.csv``.
        **kwargs: Those of IoUMetric.
    """
    from mmseg.evaluation import IoUMetric

    class PerClassIoUMetric(IoUMetric):
        def total_area_to_metrics(self, *areas, **options) -> dict[str, np.ndarray]:
            metrics = super().total_area_to_metrics(*areas, **options)
            columns = {name: values for name, values in metrics.items() if name != 'aAcc'}
            write_per_class(out_prefix, self.dataset_meta['classes'], columns)
            return metrics

    return PerClassIoUMetric(**kwargs)
