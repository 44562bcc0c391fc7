"""Our operators in terms of ONNX's standard ones, for torch's ONNX exporter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..ops.graph_operators import NAMESPACE


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the ``custom_translation_table`` of ``torch.onnx.export``."""
    from onnxscript import opset20

    op: Any = opset20  # in a graph, its values are symbols

    def best_boxes(boxes: Any, scores: Any, iou_threshold: float, most: int) -> Any:
        # (images, classes, boxes), of one class; selected: rows of image, class, box.
        selected = op.NonMaxSuppression(
            boxes,
            op.Unsqueeze(scores, op.Constant(value_ints=[1])),
            op.Constant(value_ints=[most]),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[-0.5]),  # below any score that counts
        )
        places = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
        ones = op.Expand(op.Constant(value_ints=[1]), op.Shape(places, start=0, end=1))
        none = op.Expand(op.Constant(value_ints=[0]), op.Shape(scores))
        return op.Cast(op.ScatterND(none, places, ones), to=9)  # bool

    def roi_means(
        maps: Any,
        rois: Any,
        images: Any,
        bins: int,
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool,
    ) -> Any:
        return op.RoiAlign(
            maps,
            rois,
            images,
            coordinate_transformation_mode='half_pixel' if aligned else 'output_half_pixel',
            mode='avg',
            output_height=bins,
            output_width=bins,
            sampling_ratio=max(sampling_ratio, 0),
            spatial_scale=spatial_scale,
        )

    operators = getattr(torch.ops, NAMESPACE)
    return {operators.best_boxes.default: best_boxes, operators.roi_means.default: roi_means}
