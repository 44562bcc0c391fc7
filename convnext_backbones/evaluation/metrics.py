"""Register the metrics that build on mmdet and mmseg, without importing either.

The registry holds functions. They import the module of the metric when a config asks for it.
"""

from __future__ import annotations

from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS


def fast_evaluator() -> type:
    """Return :class:`~.fast_coco.FastCOCOeval`, the replacement for pycocotools' ``COCOeval``.

    Raises:
        ValueError: faster-coco-eval is not installed.
    """
    _require_faster_coco_eval()
    from .fast_coco import FastCOCOeval

    return FastCOCOeval


@METRICS.register_module(name='FastCocoMetric')
def build_fast_coco_metric(**kwargs: Any) -> BaseMetric:
    """Build a :class:`~.fast_coco.FastCocoMetric`.

    Args:
        **kwargs: Arguments of mmdet's CocoMetric.

    Raises:
        ValueError: faster-coco-eval is not installed.
    """
    _require_faster_coco_eval()
    from .fast_coco import FastCocoMetric

    return FastCocoMetric(**kwargs)


@METRICS.register_module(name='PerClassIoUMetric')
def build_per_class_iou_metric(**kwargs: Any) -> BaseMetric:
    """Build a :class:`~.per_class_iou.PerClassIoUMetric`.

    Args:
        **kwargs: ``out_prefix``, and the arguments of mmseg's IoUMetric.
    """
    from .per_class_iou import PerClassIoUMetric

    return PerClassIoUMetric(**kwargs)


def _require_faster_coco_eval() -> None:
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError:
        raise ValueError(
            'expected faster-coco-eval for fast evaluation, but it is not installed; run: '
            'pip install faster-coco-eval'
        ) from None
