"""Graphs of detectors whose head predicts at every position: RetinaNet, FCOS, ATSS, GFL, RTMDet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmdet.models.dense_heads import GFLHead
from torch import Tensor

from .detections import NOT_COUNTED, best, detections, is_large, suppress, take
from .graph import DetectorGraph


class Candidates(NamedTuple):
    """What a level of the head proposes.

    Attributes:
        scores: Of shape (N, K); -1 for fill.
        labels: Of shape (N, K).
        boxes: Of shape (N, K, 4).
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor


class DenseGraph(DetectorGraph):
    """Images to boxes, scores and labels, by a head that predicts at every position."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.cfg = model.bbox_head.test_cfg

    def compute(self, images: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return detections, see :class:`.detections.Detections`, and the maps of the head."""
        maps = self.model.bbox_head(self.model.extract_feat(self.images(images)))
        found = self._candidates(maps, images.shape[2:])
        scores, labels, boxes = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        scores = torch.where(is_large(boxes, self.cfg.get('min_bbox_size')), scores, NOT_COUNTED)
        threshold, most = self.cfg.nms.iou_threshold, self.cfg.max_per_img
        kept, index = suppress(boxes, scores, labels, threshold, most)
        raw = tuple(level for levels in maps if levels is not None for level in levels)
        return tuple(detections(boxes, kept, labels, index)), raw

    def _candidates(self, maps: Sequence[Any], shape: torch.Size) -> list[Candidates]:
        head = self.model.bbox_head
        scores, boxes, factors = (*maps, None)[:3]
        grids = head.prior_generator.grid_priors(
            [level.shape[-2:] for level in scores], dtype=scores[0].dtype, device=scores[0].device
        )
        found = []
        for number, level in enumerate(scores):
            values = rows(level, head.cls_out_channels)
            values = values.sigmoid() if head.use_sigmoid_cls else values.softmax(-1)[..., :-1]
            classes = values.shape[2]
            values = torch.where(values > self.cfg.score_thr, values, NOT_COUNTED)
            kept, index = best(values.flatten(1), self.cfg.nms_pre)
            labels, places = index % classes, index // classes
            priors = grids[number]
            if isinstance(head, GFLHead):  # distances, each as a distribution
                distances = rows(boxes[number], 4 * (head.reg_max + 1))
                deltas = head.integral(distances).view(*distances.shape[:2], 4)
                deltas = deltas * head.prior_generator.strides[number][0]
                priors = head.anchor_center(priors)
            else:
                deltas = rows(boxes[number], head.bbox_coder.encode_size)
            decoded = head.bbox_coder.decode(
                priors[places].flatten(0, 1),
                take(deltas, places).flatten(0, 1),
                max_shape=tuple(shape),
            )
            if factors is not None:
                factor = take(rows(factors[number], 1).sigmoid(), places)[..., 0]
                kept = torch.where(kept >= 0, kept * factor, NOT_COUNTED)
            found.append(Candidates(kept, labels, decoded.view(*places.shape, 4)))
        return found


def rows(level: Tensor, channels: int) -> Tensor:
    """Return the predictions of a level, (N, positions, channels), from a map (N, C, H, W)."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, channels)
