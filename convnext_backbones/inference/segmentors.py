"""Faster segmentors of mmseg on CPUs: UperNet's fusion without its upsampled maps.

The fusion convolution reads four maps at the resolution of the finest, three of them upsampled. It
takes two thirds of UperNet-T's multiply-adds at 512 x 2048. Convolution and upsampling are both
linear, so the products with the vectors of a coarse map can be computed before it is upsampled, at
a fourth of the cost per level; interpolation, shifts and sums, which remain, mix no channels.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder, UPerHead
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.models.utils import resize
from torch import Tensor

from ..ops.winograd import KERNEL
from .convolutions import InferenceConvModule, convolve_fastest, folded
from .exported import ExportedModel
from .fast_form import has_fast_form

# Rows and columns of the fused map that are computed at once. Larger tiles include more zeros of
# the interpolation matrices, smaller ones compute more coarse rows twice.
TILE_ROWS = 32
TILE_COLUMNS = 32


class InferenceUPerHead(UPerHead):
    """UperNet's head with its fusion convolution split by level."""

    def _forward_feature(self, inputs: list[Tensor]) -> Tensor:
        """Return the fused map, at the resolution of the backbone's first map."""
        fusion = self.fpn_bottleneck
        if type(fusion) is not InferenceConvModule or not has_fast_form(self, *inputs):
            return super()._forward_feature(inputs)
        inputs = self._transform_inputs(inputs)
        laterals = [
            convolution(x) for convolution, x in zip(self.lateral_convs, inputs, strict=False)
        ]
        laterals.append(self.psp_forward(inputs))
        for fine, coarse in zip(laterals[-2::-1], laterals[:0:-1], strict=True):
            fine += resize(
                coarse, fine.shape[2:], mode='bilinear', align_corners=self.align_corners
            )
        levels = [convolution(x) for convolution, x in zip(self.fpn_convs, laterals, strict=False)]
        levels.append(laterals[-1])
        weight, bias = folded(fusion)
        weights = weight.split([level.shape[1] for level in levels], 1)
        finest = levels[0], weights[0].contiguous(memory_format=torch.channels_last), bias
        fused = convolve_fastest(fusion.tuner, fusion.compute_dtype, *finest)
        for level, weight in zip(levels[1:], weights[1:], strict=True):
            for coarse, fine in zip(level.split(1), fused.split(1), strict=True):
                add_convolved_upsampling(coarse, weight, fine, self.align_corners)
        return fused.relu_() if fusion.with_activation else fused


def add_convolved_upsampling(
    coarse: Tensor, weight: Tensor, out: Tensor, align_corners: bool = False
) -> None:
    """Add to ``out`` the 3x3 convolution, padded with zeros, of a bilinearly upsampled map.

    Each of the nine taps is multiplied with the coarse map. Interpolation along the rows, then
    along the columns, is a multiplication with a matrix that also sums the three taps of a row or
    column. This is done tile by tile, because the matrices are zero far from their diagonals.

    Args:
        coarse: Of shape (1, C, h, w).
        weight: Of shape (C', C, 3, 3).
        out: Of shape (1, C', H, W), channels_last in memory.
        align_corners: As in ``F.interpolate``.
    """
    out = out[0].permute(1, 2, 0)  # (1, C', H, W) -> (H, W, C')
    height, width, channels = out.shape
    # For each row of taps, its three products with a position: (3, 3 * C', C, 1, 1)
    taps = weight.permute(2, 3, 0, 1).flatten(1, 2)[..., None, None]
    columns = [*_tiles(width, coarse.shape[3], TILE_COLUMNS, align_corners)]
    for rows, source_rows, row_matrix in _tiles(height, coarse.shape[2], TILE_ROWS, align_corners):
        band = coarse[:, :, source_rows]
        stretched = out.new_empty(band.shape[2], KERNEL, width, channels)
        for k in range(KERNEL):
            kernel = taps[k].contiguous(memory_format=torch.channels_last)
            products = F.conv2d(band, kernel)[0].permute(1, 2, 0)  # (h', w, 3 * C')
            products = products.unflatten(2, (KERNEL, channels)).flatten(1, 2)  # (h', 3 * w, C')
            for tile, source, matrix in columns:
                near = products[:, KERNEL * source.start : KERNEL * source.stop]
                stretched[:, k, tile] = torch.bmm(matrix.expand(len(near), -1, -1), near)
        out[rows].flatten(1).addmm_(row_matrix, stretched.flatten(0, 1).flatten(1))


def _tiles(
    size: int, coarse_size: int, step: int, align_corners: bool
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Cut one axis of the upsampled map into tiles.

    Yields:
        The tile; the part of the coarse axis from which it is interpolated; and the matrix, of
        shape (tile, 3 * part), that interpolates and sums the products of the three taps.
    """
    identity = torch.eye(coarse_size)[None]
    upsampling = F.interpolate(identity, size=size, mode='linear', align_corners=align_corners)[0]
    padded = F.pad(upsampling, (KERNEL // 2, KERNEL // 2))  # (h, H + 2), zero outside the map
    taps = padded.unfold(1, size, 1).permute(2, 0, 1)  # (H, h, 3)
    for start in range(0, size, step):
        tile = slice(start, min(start + step, size))
        used = taps[tile].any(2).any(0).nonzero()[:, 0]
        part = slice(int(used[0]), int(used[-1]) + 1)
        yield tile, part, taps[tile, part].flatten(1)


class InferenceEncoderDecoder(EncoderDecoder):
    """A segmentor that copies its logits, a map for each class, as little as possible."""

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Return the logits of overlapping windows, averaged where they overlap.

        mmseg pads the logits of each window to the size of the image before it adds them up.

        Args:
            inputs: Images of shape (N, 3, H, W).
            batch_img_metas: Meta data of the images; as in mmseg, that of the first image gets the
                window's ``img_shape``.

        Returns:
            Logits of shape (N, classes, H, W).
        """
        height, width = inputs.shape[2:]
        sizes = zip((height, width), self.test_cfg.crop_size, self.test_cfg.stride, strict=True)
        rows, columns = (_windows(*size) for size in sizes)
        logits = inputs.new_zeros(len(inputs), self.out_channels, height, width)
        counts = inputs.new_zeros(height, width)
        for y, x in itertools.product(rows, columns):
            crop = inputs[..., y, x]
            batch_img_metas[0]['img_shape'] = crop.shape[2:]
            logits[..., y, x] += self.encode_decode(crop, batch_img_metas)
            counts[y, x] += 1
        return logits.div_(counts)

    def postprocess_result(self, seg_logits: Tensor, data_samples: list | None = None) -> list:
        """Turn logits of shape (N, classes, H, W) into data samples, as mmseg does."""
        size = tuple(seg_logits.shape[2:])
        if data_samples is None:
            return super().postprocess_result(seg_logits, data_samples)
        unchanged = seg_logits.shape[1] > 1 and all(
            tuple(sample.ori_shape) == size
            and not sample.get('flip')
            and not any(sample.get('img_padding_size', sample.get('padding_size', (0,))))
            for sample in data_samples
        )
        if not unchanged:
            return super().postprocess_result(seg_logits, data_samples)
        for logits, sample in zip(seg_logits, data_samples, strict=True):
            sample.seg_logits = PixelData(data=logits)
            sample.pred_sem_seg = PixelData(data=logits.argmax(0, keepdim=True))
        return data_samples


class ExportedSegmentor(InferenceEncoderDecoder):
    """A segmentor whose network is an exported model; windows and results are mmseg's.

    Args:
        model: The segmentor of the config; its weights do not matter.
        exported: Computes logits from images as they were read.
    """

    def __init__(self, model: EncoderDecoder, exported: ExportedModel) -> None:
        preprocessor = copy.deepcopy(model.data_preprocessor)
        preprocessor._enable_normalize = preprocessor.channel_conversion = False
        BaseSegmentor.__init__(self, data_preprocessor=preprocessor)
        self.exported = exported
        self.test_cfg = model.test_cfg
        self.align_corners = model.align_corners
        self.num_classes, self.out_channels = model.num_classes, model.out_channels
        self.decode_head = SimpleNamespace(threshold=model.decode_head.threshold)

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Return the logits of images, of shape (N, classes, H, W)."""
        logits = self.exported(inputs.cpu().numpy())['logits']
        return torch.from_numpy(logits).to(inputs.device)


def _windows(size: int, crop: int, stride: int) -> list[slice]:
    """Return the windows along one axis: all of size ``crop``, the last at the end of the image."""
    stops = [min(start + crop, size) for start in range(0, max(size - crop, 0) + stride, stride)]
    return [slice(max(stop - crop, 0), stop) for stop in stops]
