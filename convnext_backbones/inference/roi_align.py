"""RoIAlign as weighted sums of the vectors of a map."""

from __future__ import annotations

from mmcv.ops import RoIAlign
from torch import Tensor

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
        plain = self.pool_mode != 'avg' or self.use_torchvision
        if plain or not has_fast_form(self, input, rois):
            return super().forward(input.contiguous(), rois)
        grid = Grid(self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)
        return roi_align(input, rois, grid)
