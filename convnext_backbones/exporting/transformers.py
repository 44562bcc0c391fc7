"""Graphs of detection transformers: DETR, Conditional DETR, DAB-DETR, Deformable DETR, DINO."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.detectors import DINO, DeformableDETR
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor

from .detections import Detections, take
from .graph import DetectorGraph

Sizes = Sequence[tuple[int, int]]  # height and width of each level


class TransformerGraph(DetectorGraph):
    """Images to boxes, scores and labels, by queries; nothing is suppressed."""

    operators = False

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        for module in model.modules():
            if type(module) is MultiScaleDeformableAttention:
                module.__class__ = TracedDeformableAttention
        if isinstance(model, DeformableDETR):
            model.gen_encoder_output_proposals = partial(_propose, model)
            model.encoder.get_encoder_reference_points = _reference_points

    def compute(self, images: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return detections, and the logits and boxes of the queries in the last layer."""
        logits, boxes = self._queries(images)
        head = self.model.bbox_head
        classes = head.num_classes
        most = head.test_cfg.get('max_per_img', logits.shape[1])
        if head.loss_cls.use_sigmoid:
            scores, index = logits.sigmoid().flatten(1).topk(most, 1)
            labels, places = index % classes, index // classes
        else:
            best, label = logits.softmax(-1)[..., :-1].max(-1)
            scores, places = best.topk(most, 1)
            labels = label.gather(1, places)
        height, width = images.shape[2:]
        corners = bbox_cxcywh_to_xyxy(take(boxes, places))
        x, y = corners[..., 0::2] * width, corners[..., 1::2] * height
        x, y = x.clamp(min=0, max=width), y.clamp(min=0, max=height)
        found = torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)
        return tuple(Detections(found, scores, labels)), (logits, boxes)

    def _queries(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, of shape (N, queries, classes), and boxes, of shape (N, queries, 4)."""
        padded = self.images(images)
        maps = self.model.extract_feat(padded)
        # Also where nothing is padded: mmdet's way without masks fixes the size of the images.
        masks = [_padding(level, images.shape, padded.shape) for level in maps]
        deformable = isinstance(self.model, DeformableDETR)
        inputs = (self._levels if deformable else self._last_level)(maps, masks)
        encoder_inputs, decoder_inputs = inputs
        memory = self.model.forward_encoder(**encoder_inputs)
        queries, _ = self.model.pre_decoder(**memory)
        decode = _decode_dino if _decodes_as_dino(self.model) else type(self.model).forward_decoder
        logits, boxes = self.model.bbox_head(**decode(self.model, **{**decoder_inputs, **queries}))
        return logits[-1], boxes[-1]

    def _last_level(
        self, maps: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what ``DETR.pre_transformer`` does, for images of one size."""
        level, hidden = maps[-1], masks[-1].flatten(1)
        place = self.model.positional_encoding(masks[-1]).flatten(2).transpose(1, 2)
        features = level.flatten(2).transpose(1, 2)
        encoder = dict(feat=features, feat_mask=hidden, feat_pos=place)
        return encoder, dict(memory_mask=hidden, memory_pos=place)

    def _levels(
        self, maps: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what ``DeformableDETR.pre_transformer`` does, for images of one size.

        The sizes of the levels stay numbers instead of a tensor, which a graph could not read.
        """
        features, places = [], []
        for number, level in enumerate(maps):
            place = self.model.positional_encoding(masks[number])
            place = place.flatten(2).transpose(1, 2) + self.model.level_embed[number]
            features.append(level.flatten(2).transpose(1, 2))
            places.append(place)
        hidden = torch.cat([mask.flatten(1) for mask in masks], 1)
        valid = torch.stack([self.model.get_valid_ratio(mask) for mask in masks], 1)
        shared = dict(
            spatial_shapes=[tuple(level.shape[2:]) for level in maps],
            level_start_index=None,
            valid_ratios=valid,
        )
        encoder = dict(
            feat=torch.cat(features, 1), feat_mask=hidden, feat_pos=torch.cat(places, 1), **shared
        )
        return encoder, dict(memory_mask=hidden, **shared)


def _padding(level: Tensor, shape: torch.Size, padded: torch.Size) -> Tensor:
    """Return which cells of a level are padding, of shape (N, h, w).

    Args:
        level: A map of shape (N, C, h, w).
        shape: Of the images.
        padded: Of the images after padding.
    """
    rows = torch.arange(padded[2], device=level.device)[:, None] >= shape[2]
    columns = torch.arange(padded[3], device=level.device) >= shape[3]
    mask = (rows | columns).to(level.dtype)[None, None]
    mask = F.interpolate(mask, size=level.shape[2:])  # the nearest, as mmdet does
    return (mask[0] > 0).expand(level.shape[0], -1, -1)


def _propose(
    model: Any, memory: Tensor, memory_mask: Tensor, spatial_shapes: Sizes
) -> tuple[Tensor, Tensor]:
    """Return what mmdet's ``gen_encoder_output_proposals`` does, for sizes that are numbers.

    Returns:
        The memory, of shape (N, rows, C), and proposals before the sigmoid, (N, rows, 4).
    """
    count, proposals, start = memory.shape[0], [], 0
    for number, (height, width) in enumerate(spatial_shapes):
        y, x = _centers(height, width, memory)
        stop = start + height * width
        hidden = memory_mask[:, start:stop].view(count, height, width)
        y = y / (~hidden[:, :, 0]).sum(1)[:, None, None]
        x = x / (~hidden[:, 0]).sum(1)[:, None, None]
        start = stop
        centers = [part.expand(count, height, width) for part in (x, y)]
        sides = [torch.full_like(centers[0], 0.05 * 2.0**number)] * 2
        proposals.append(torch.stack([*centers, *sides], -1).flatten(1, 2))
    found = torch.cat(proposals, 1)
    inside = ((found > 0.01) & (found < 0.99)).all(-1, keepdim=True)
    left_out = ~inside | memory_mask[..., None]
    found = torch.log(found / (1 - found)).masked_fill(left_out, float('inf'))
    memory = model.memory_trans_fc(memory.masked_fill(left_out, 0.0))
    return model.memory_trans_norm(memory), found


def _reference_points(spatial_shapes: Sizes, valid_ratios: Tensor, device: torch.device) -> Tensor:
    """Return what the encoder's ``get_encoder_reference_points`` does, (N, rows, levels, 2)."""
    places = []
    for number, (height, width) in enumerate(spatial_shapes):
        y, x = _centers(height, width, valid_ratios)
        ratios = valid_ratios[:, number, :, None, None]  # (N, 2, 1, 1)
        y, x = y / (ratios[:, 1] * height), x / (ratios[:, 0] * width)
        shape = (ratios.shape[0], height, width)
        places.append(torch.stack([x.expand(shape), y.expand(shape)], -1).flatten(1, 2))
    return torch.cat(places, 1)[:, :, None] * valid_ratios[:, None]


def _centers(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centers of cells, y of shape (1, height, 1) and x of shape (1, 1, width)."""
    y, x = (
        torch.arange(size, dtype=like.dtype, device=like.device) + 0.5 for size in (height, width)
    )
    return y[None, :, None], x[None, None, :]


def _decodes_as_dino(model: Any) -> bool:
    return getattr(type(model), 'forward_decoder', None) is DINO.forward_decoder


def _decode_dino(
    model: Any, memory: Tensor, memory_mask: Tensor, dn_mask: None, **inputs: Any
) -> dict[str, Any]:
    """Return what DINO's ``forward_decoder`` does, without its branch for training."""
    states, references = model.decoder(
        value=memory,
        key_padding_mask=memory_mask,
        self_attn_mask=dn_mask,
        reg_branches=model.bbox_head.reg_branches,
        **inputs,
    )
    return dict(hidden_states=states, references=list(references))


class TracedDeformableAttention(MultiScaleDeformableAttention):
    """mmcv's attention in operators that graphs have, with sizes of levels that are numbers."""

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes: Sizes = (),
        level_start_index: None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return what mmcv's module does, of the shape of ``query``.

        Args:
            query: Of shape (N, Q, C), or (Q, N, C) if not ``batch_first``.
            key: Unused, as in mmcv.
            value: The rows of all levels; by default ``query``.
            identity: Added to the result; by default ``query``.
            query_pos: Added to ``query``.
            key_padding_mask: Rows that count as zero, of shape (N, rows).
            reference_points: Of shape (N, Q, levels, 2 or 4), as fractions.
            spatial_shapes: Height and width of each level.
            level_start_index: Unused.
            **kwargs: Unused, as in mmcv.
        """
        value = query if value is None else value
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        if not self.batch_first:
            query, value = query.transpose(0, 1), value.transpose(0, 1)
        assert reference_points is not None
        value = self.value_proj(value)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.0)
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        count, queries = query.shape[:2]
        offsets = self.sampling_offsets(query).view(count, queries, heads, levels, points, 2)
        weights = self.attention_weights(query).view(count, queries, heads, levels * points)
        places = _places(reference_points, offsets, spatial_shapes)
        sampled = []
        rows = value.split([height * width for height, width in spatial_shapes], 1)
        for number, (part, (height, width)) in enumerate(zip(rows, spatial_shapes, strict=True)):
            level = part.transpose(1, 2).reshape(count * heads, -1, height, width)
            grid = places[:, :, :, number].transpose(1, 2).flatten(0, 1) * 2 - 1
            sampled.append(F.grid_sample(level, grid, align_corners=False))
        # (N * heads, C / heads, Q, levels * points), and the weights alike
        samples = torch.cat(sampled, -1)
        weights = weights.softmax(-1).transpose(1, 2).reshape(count * heads, 1, queries, -1)
        mixed = (samples * weights).sum(-1).view(count, -1, queries).transpose(1, 2)
        out = self.output_proj(mixed)
        if not self.batch_first:
            out = out.transpose(0, 1)
        return out + identity


def _places(reference: Tensor, offsets: Tensor, sizes: Sizes) -> Tensor:
    """Return where the attention samples, as fractions, of shape (N, Q, heads, levels, points, 2).

    Args:
        reference: Of shape (N, Q, levels, 2 or 4).
        offsets: Of shape (N, Q, heads, levels, points, 2).
        sizes: Height and width of each level.
    """
    centers = reference[:, :, None, :, None, :2]
    if reference.shape[-1] == 4:
        return centers + offsets / offsets.shape[4] * reference[:, :, None, :, None, 2:] * 0.5
    scaled = [
        torch.stack([part[..., 0] / width, part[..., 1] / height], -1)
        for part, (height, width) in zip(offsets.unbind(3), sizes, strict=True)
    ]
    return centers + torch.stack(scaled, 3)
