"""mmdet's CocoMetric on faster-coco-eval: the same keys and numbers, computed faster.

Needs mmdet and faster-coco-eval; :mod:`.metrics` imports it when a config asks for the metric.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from faster_coco_eval import COCOeval_faster
from mmdet.evaluation.metrics import coco_metric

AP_MAX_DETS = 100  # detections per image and class from which pycocotools computes AP


class FastCOCOeval(COCOeval_faster):
    """Replacement for pycocotools' ``COCOeval`` with the same numbers.

    Args:
        ground_truth: A ``COCO`` object with the annotations.
        predictions: A ``COCO`` object with the detections.
        iou_type: ``bbox``, ``segm`` or ``keypoints``.
    """

    def __init__(self, ground_truth: Any, predictions: Any, iou_type: str) -> None:
        super().__init__(ground_truth, predictions, iou_type, print_function=print)
        # A pair of image and class is so little work that handing it to a thread costs more.
        self.rle_iou_max_workers = 1

    def evaluate(self) -> None:
        """Match detections to annotations, image by image."""
        with gc_disabled():
            super().evaluate()

    def _summarize(
        self,
        ap: int = 1,
        iouThr: float | None = None,  # noqa: N803, the names of faster-coco-eval
        areaRng: str = 'all',  # noqa: N803
        maxDets: int = 100,  # noqa: N803
        freq_group_idx: int | None = None,
        catIds: Sequence[int] | None = None,  # noqa: N803
    ) -> float:
        # For its first number, AP, pycocotools always uses 100 detections per image and class.
        # faster-coco-eval uses the highest limit, which mmdet sets to 1000.
        if ap == 1 and iouThr is None and areaRng == 'all':
            if AP_MAX_DETS not in self.params.maxDets:
                return -1.0
            maxDets = AP_MAX_DETS  # noqa: N806
        return super()._summarize(ap, iouThr, areaRng, maxDets, freq_group_idx, catIds)


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Disable garbage collection within the context.

    The evaluation creates many small objects, all of which stay alive. Searching them for garbage
    took a seventh of the time of an evaluation of masks.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class FastCocoMetric(coco_metric.CocoMetric):
    """mmdet's CocoMetric, computed by :class:`FastCOCOeval`; the arguments are the same."""

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics from the results of all images."""
        # CocoMetric looks up its evaluator among the globals of its module; nothing else sets it.
        with patch.multiple(coco_metric, COCOeval=FastCOCOeval, COCOevalMP=FastCOCOeval):
            return super().compute_metrics(results)
