"""Operators of detectors for graphs of torch.export: one node each, with results of known shapes.

Importing this module registers them with torch. Programs that ``tools/export.py --format torch``
writes for detectors call them; in ONNX they become standard operators.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import boxes as box_operators
from . import roi_align as align

NAMESPACE = 'convnext_backbones'


@torch.library.custom_op(f'{NAMESPACE}::best_boxes', mutates_args=())
def best_boxes(boxes: Tensor, scores: Tensor, iou_threshold: float, most: int) -> Tensor:
    """Return which boxes no better one overlaps; of these the best.

    Args:
        boxes: Of shape (N, B, 4): x1, y1, x2, y2.
        scores: Of shape (N, B); boxes with negative ones do not count.
        iou_threshold: Boxes that overlap more are suppressed.
        most: The number of boxes of an image that may stay.

    Returns:
        Of shape (N, B), bool.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for own, own_scores, own_kept in zip(boxes, scores, kept, strict=True):
        valid = (own_scores >= 0).nonzero()[:, 0]
        found = box_operators.nms(own[valid], own_scores[valid], iou_threshold, 0)
        own_kept[valid[found[:most]]] = True
    return kept


@best_boxes.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, most: int) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


@torch.library.custom_op(f'{NAMESPACE}::roi_means', mutates_args=())
def roi_means(
    maps: Tensor,
    rois: Tensor,
    images: Tensor,
    bins: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign, see :func:`.roi_align.roi_align`.

    Args:
        maps: Of shape (N, C, H, W).
        rois: Of shape (K, 4): x1, y1, x2, y2 in pixels of the image.
        images: The index of each RoI's image, int64, of shape (K,).
        bins: Rows and columns of the result.
        spatial_scale: Cells of the map per pixel of the image.
        sampling_ratio: As in :class:`.roi_align.Grid`.
        aligned: As in :class:`.roi_align.Grid`.

    Returns:
        Of shape (K, C, bins, bins).
    """
    grid = align.Grid((bins, bins), spatial_scale, sampling_ratio, aligned)
    numbered = torch.cat([images[:, None].to(rois.dtype), rois], 1)
    return align.roi_align(maps, numbered, grid).contiguous()


@roi_means.register_fake
def _(
    maps: Tensor,
    rois: Tensor,
    images: Tensor,
    bins: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    return maps.new_empty(rois.shape[0], maps.shape[1], bins, bins)
