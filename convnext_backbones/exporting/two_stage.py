"""Graphs of detectors in two stages: Faster, Mask and Cascade R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.graph_operators import roi_means
from .dense import rows
from .detections import NOT_COUNTED, Detections, best, detections, is_large, suppress, take
from .graph import DetectorGraph

# Of the image; what the raw outputs of the second stage are compared for.
FIXED_ROIS = ((0.1, 0.1, 0.5, 0.4), (0.0, 0.2, 1.0, 0.9), (0.6, 0.55, 0.7, 0.65))


class TwoStageGraph(DetectorGraph):
    """Images to boxes, scores, labels and masks, by proposals and one or several box heads.

    ``masks`` are among the results of detectors with masks.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        roi_head = model.roi_head
        cascade = isinstance(roi_head.bbox_head, nn.ModuleList)
        heads = roi_head.bbox_head if cascade else [roi_head.bbox_head]
        extractors = roi_head.bbox_roi_extractor if cascade else [roi_head.bbox_roi_extractor]
        self.stages = [*zip(heads, extractors, strict=True)]
        self.mask_stages: list[tuple[Any, Any]] = []
        if roi_head.with_mask:
            heads = roi_head.mask_head if cascade else [roi_head.mask_head]
            extractors = roi_head.mask_roi_extractor if cascade else [roi_head.mask_roi_extractor]
            self.mask_stages = [*zip(heads, extractors, strict=True)]
        self.results = ('boxes', 'scores', 'labels', *(['masks'] if self.mask_stages else []))

    def compute(self, images: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return detections, and what the heads give.

        Returns:
            See :class:`.detections.Detections`; with masks of shape (N, K, h, w), from 0 to 1, for
            the box that they belong to. And the maps of the first stage, and what the others give
            for a few fixed RoIs.
        """
        maps = self.model.extract_feat(self.images(images))
        shape = tuple(images.shape[2:])
        levels, deltas = self.model.rpn_head(maps)
        proposals = self._propose(levels, deltas, shape)
        found = self._detect(maps, *proposals, shape)
        results: tuple[Tensor, ...] = tuple(found)
        if self.mask_stages:
            results = (*results, self._masks(maps, found))
        return results, (*levels, *deltas, *self._of_fixed(maps, images))

    def _of_fixed(self, maps: Sequence[Tensor], images: Tensor) -> list[Tensor]:
        height, width = images.shape[2:]
        sides = torch.stack([images.new_ones(()) * side for side in (width, height)]).repeat(2)
        rois = (images.new_tensor(FIXED_ROIS) * sides).expand(images.shape[0], -1, -1)
        found: list[Tensor] = []
        for head, extractor in self.stages:
            found += head(self._features(extractor, maps, rois))
        for head, extractor in self.mask_stages:
            found.append(head(self._features(extractor, maps, rois)))
        return found

    def _propose(
        self, levels: Sequence[Tensor], deltas: Sequence[Tensor], shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return proposals, of shape (N, K, 4), and their scores, of shape (N, K); -1 for fill."""
        head = self.model.rpn_head
        cfg = head.test_cfg
        priors = head.prior_generator.grid_priors(
            [level.shape[-2:] for level in levels], dtype=levels[0].dtype, device=levels[0].device
        )
        scores, boxes, numbers = [], [], []
        for number, level in enumerate(levels):
            values = rows(level, head.cls_out_channels)
            values = values.sigmoid() if head.use_sigmoid_cls else values.softmax(-1)[..., :-1]
            kept, places = best(values[..., 0], cfg.nms_pre)
            scores.append(kept)
            taken = take(rows(deltas[number], head.bbox_coder.encode_size), places)
            decoded = head.bbox_coder.decode(
                priors[number][places].flatten(0, 1), taken.flatten(0, 1), max_shape=shape
            )
            boxes.append(decoded.view(*places.shape, 4))
            numbers.append(torch.full_like(places, number))
        joined, all_scores = torch.cat(boxes, 1), torch.cat(scores, 1)
        large = is_large(joined, cfg.get('min_bbox_size'))
        all_scores = torch.where(large, all_scores, NOT_COUNTED)
        kept, index = suppress(
            joined, all_scores, torch.cat(numbers, 1), cfg.nms.iou_threshold, cfg.max_per_img
        )
        return take(joined, index), kept

    def _detect(
        self, maps: Sequence[Tensor], rois: Tensor, proposed: Tensor, shape: tuple[int, ...]
    ) -> Detections:
        """Return the detections of proposals."""
        cfg = self.model.roi_head.test_cfg
        count = rois.shape[1]
        logits = []
        for number, (head, extractor) in enumerate(self.stages):
            scores, deltas = head(self._features(extractor, maps, rois))
            logits.append(scores)
            if number + 1 < len(self.stages):
                # The score decides which class's box is refined.
                chosen = scores[:, :-1].argmax(1)
                refined = head.regress_by_class(
                    rois.flatten(0, 1), chosen, deltas, dict(img_shape=shape)
                )
                rois = refined.view(-1, count, 4)
        head = self.stages[-1][0]
        mean = sum(logits[1:], logits[0]) / len(logits)
        classes = head.num_classes
        boxes_each = 1 if head.reg_class_agnostic else classes
        flat = rois.flatten(0, 1).repeat_interleave(boxes_each, 0)
        boxes = head.bbox_coder.decode(flat, deltas.view(-1, 4), max_shape=shape)
        boxes = boxes.view(-1, count, boxes_each, 4).expand(-1, -1, classes, -1)
        scores = mean.softmax(-1)[:, :-1].reshape(-1, count, classes)
        counted = (scores > cfg.score_thr) & (proposed >= 0)[..., None]
        scores = torch.where(counted, scores, NOT_COUNTED).flatten(1)
        boxes = boxes.flatten(1, 2)
        labels = (
            torch.arange(classes, device=boxes.device)
            .expand(boxes.shape[0], count, classes)
            .flatten(1)
        )
        kept, index = suppress(boxes, scores, labels, cfg.nms.iou_threshold, cfg.max_per_img)
        return detections(boxes, kept, labels, index)

    def _masks(self, maps: Sequence[Tensor], found: Detections) -> Tensor:
        """Return masks of shape (N, K, h, w), from 0 to 1; 0 for fill."""
        count = found.labels.shape[1]
        masks: list[Tensor] = []
        labels = found.labels.flatten().clamp(min=0)
        for head, extractor in self.mask_stages:
            logits = head(self._features(extractor, maps, found.boxes))
            chosen = labels * 0 if head.class_agnostic else labels
            index = chosen[:, None, None, None].expand(-1, 1, *logits.shape[2:])
            masks.append(logits.gather(1, index)[:, 0].sigmoid())
        mean = sum(masks[1:], masks[0]) / len(masks)
        mean = mean.view(-1, count, *mean.shape[1:])
        return torch.where((found.labels >= 0)[..., None, None], mean, 0)

    def _features(self, extractor: Any, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Return the features of RoIs, of shape (N * K, C, h, w), from RoIs of shape (N, K, 4)."""
        images = torch.arange(rois.shape[0], device=rois.device)[:, None].expand(*rois.shape[:2])
        flat, images = rois.flatten(0, 1), images.flatten()
        maps = maps[: extractor.num_inputs]
        numbered = torch.cat([images[:, None].to(flat.dtype), flat], 1)
        levels = extractor.map_roi_levels(numbered, len(maps))
        size = extractor.roi_layers[0].output_size[0]
        out = flat.new_zeros(flat.shape[0], extractor.out_channels, size, size)
        for number, (level, layer) in enumerate(zip(maps, extractor.roi_layers, strict=True)):
            own = (levels == number).nonzero()[:, 0]
            means = roi_means(
                level,
                flat[own],
                images[own],
                size,
                layer.spatial_scale,
                layer.sampling_ratio,
                layer.aligned,
            )
            out = out.index_copy(0, own, means)
        return out
