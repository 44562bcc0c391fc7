"""Faster parts of mmdet's detectors on CPUs: the same layers, with fewer maps in between."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import RPNHead
from mmdet.models.necks import FPN
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor

from .classes import has_hooks
from .convolutions import InferenceConv2d, convolve_fastest
from .fast_form import has_fast_form
from .roi_align import InferenceRoIAlign


class InferenceFPN(FPN):
    """A feature pyramid whose top-down path adds to the maps in place."""

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the maps of the pyramid, each of shape (N, C, H, W), the finest first."""
        inputs = tuple(inputs)
        known = self.upsample_cfg == dict(mode='nearest') and not self.add_extra_convs
        if not known or not has_fast_form(self, *inputs):
            return super().forward(inputs)
        maps = [
            convolution(x)
            for convolution, x in zip(self.lateral_convs, inputs[self.start_level :], strict=False)
        ]
        for fine, coarse in zip(maps[-2::-1], maps[:0:-1], strict=True):
            add_upsampled(fine, coarse)
        outs = [convolution(x) for convolution, x in zip(self.fpn_convs, maps, strict=True)]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)


def add_upsampled(fine: Tensor, coarse: Tensor) -> None:
    """Add to a map the values of the nearest positions of a coarser one.

    Args:
        fine: Of shape (N, C, H, W); it changes.
        coarse: Of shape (N, C, h, w).
    """
    height, width = coarse.shape[2:]
    if fine.shape[2:] != (2 * height, 2 * width):
        fine += F.interpolate(coarse, size=fine.shape[2:], mode='nearest')
        return
    squares = fine.unflatten(3, (width, 2)).unflatten(2, (height, 2))
    squares += coarse[:, :, :, None, :, None]


class InferenceRPNHead(RPNHead):
    """A region proposal network that computes scores and boxes in one convolution."""

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores and boxes of the anchors of a map, (N, A, H, W) and (N, 4 * A, H, W).

        Args:
            x: Of shape (N, C, H, W).
        """
        first, scores, boxes = self.rpn_conv, self.rpn_cls, self.rpn_reg
        plain = all(type(layer) is torch.nn.Conv2d for layer in (scores, boxes))
        plain = plain and type(first) is InferenceConv2d and not has_hooks(self)
        if not plain or not x.numel() or not has_fast_form(self, x):
            return super().forward_single(x)
        x = convolve_fastest(
            first.tuner, first.compute_dtype, x, first.weight, first.bias, relu=True
        )
        weight = torch.cat([scores.weight, boxes.weight])
        out = F.conv2d(x, weight, torch.cat([scores.bias, boxes.bias]))
        return out.split([scores.out_channels, boxes.out_channels], 1)


class InferenceSingleRoIExtractor(SingleRoIExtractor):
    """Reads each RoI from the map of its size, and writes it where it belongs."""

    def forward(
        self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None
    ) -> Tensor:
        """Return the bins of RoIs, of shape (K, C, height, width).

        Args:
            feats: The maps, each of shape (N, C, H, W).
            rois: Of shape (K, 5): index of the image, x1, y1, x2, y2 in pixels of the image.
            roi_scale_factor: By which RoIs grow before they are read.
        """
        layers = [layer for layer in self.roi_layers if isinstance(layer, InferenceRoIAlign)]
        fast = len(layers) == len(feats) and all(
            layer.is_fast(map_, rois) for layer, map_ in zip(layers, feats, strict=True)
        )
        if not fast:
            return super().forward(feats, rois, roi_scale_factor)
        levels = self.map_roi_levels(rois, len(feats))
        grown = rois if roi_scale_factor is None else self.roi_rescale(rois, roi_scale_factor)
        # Channels first: linear layers read bins in this order.
        out = feats[0].new_empty(len(rois), self.out_channels, *layers[0].output_size)
        for level, (layer, map_) in enumerate(zip(layers, feats, strict=True)):
            places = (levels == level).nonzero()[:, 0]
            some = grown[places]
            if len(places) and not layer.write(map_, some, out, places):
                out[places] = layer(map_, some)
        return out
