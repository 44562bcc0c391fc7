"""RoIAlign as weighted sums of the vectors of a map."""

from __future__ import annotations

import torch
from mmcv.ops import RoIAlign
from torch import Tensor

from ..native.compiler import load
from ..native.head_kernels import align_regions, can_align
from ..ops.roi_align import Grid, roi_align
from .fast_form import has_fast_form


class InferenceRoIAlign(RoIAlign):
    """RoIAlign that reads channels_last maps directly, and in parallel.

    mmcv's compiled operator ignores strides and uses one thread.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Sample ``input`` of shape (N, C, H, W).

        Args:
            input: The map.
            rois: Of shape (K, 5): index of the image, x1, y1, x2, y2 in pixels of the image.

        Returns:
            The bins, of shape (K, C, height, width).
        """
        if not self.is_fast(input, rois):
            return super().forward(input.contiguous(), rois)
        shape = len(rois), input.shape[1], *self.output_size
        out = torch.empty(shape, memory_format=torch.channels_last)
        if self.write(input, rois, out, torch.arange(len(rois))):
            return out
        grid = Grid(self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)
        return roi_align(input, rois, grid)

    def is_fast(self, input: Tensor, rois: Tensor) -> bool:
        """Whether the mean of samples on the CPU is wanted, without gradients."""
        is_mean = self.pool_mode == 'avg' and not self.use_torchvision
        return is_mean and has_fast_form(self, input, rois)

    def write(self, input: Tensor, rois: Tensor, out: Tensor, places: Tensor) -> bool:
        """Write the bins of RoI i to ``out[places[i]]`` with the kernels in C, where these can.

        Args:
            input: As in :meth:`forward`.
            rois: As in :meth:`forward`.
            out: Of shape (M, C, height, width).
            places: Of shape (K,), int64.

        Returns:
            Whether they did.
        """
        library = load()
        if library is None or not can_align(input, rois, self.spatial_scale):
            return False
        align_regions(
            library,
            input,
            rois,
            out,
            places,
            scale=self.spatial_scale,
            ratio=self.sampling_ratio,
            aligned=self.aligned,
        )
        return True
