"""Deformable RoI pooling in plain torch (Dai et al., "Deformable Convolutional Networks", 2017).

RoIAlign whose bins are moved by learned offsets, each by its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .roi_align import Grid
from .sampling import clamped_neighbors, rows_of, single, weighted_sums


def deform_roi_pool(maps: Tensor, rois: Tensor, offset: Tensor, grid: Grid, gamma: float) -> Tensor:
    """Return the means of the moved bins of RoIs; differentiable for maps and offsets.

    Args:
        maps: Of shape (N, C, H, W).
        rois: Of shape (K, 5): index of the image, x1, y1, x2, y2 in pixels of the image.
        offset: Of shape (K, 2, *output_size): by what fraction of the RoI's size, times ``gamma``,
            a bin moves in x and in y. Without elements, the bins stay where they are.
        grid: Where the samples lie before they are moved.
        gamma: Factor of the offsets.

    Returns:
        Of shape (K, C, *output_size).
    """
    table, (height, width) = rows_of(maps), maps.shape[2:]
    sizes = (rois[:, 3:] - rois[:, 1:3]) * grid.spatial_scale
    if not offset.numel():
        offset = rois.new_zeros(len(rois), 2, *grid.output_size)
    moves = gamma * sizes[:, :, None, None] * offset
    parts = [maps.new_zeros(0, *grid.output_size, maps.shape[1])]
    order = [torch.arange(0, device=maps.device)]
    for some, y, x in grid.samples(rois):
        # (k, rows, columns, samples down or across)
        down = y[:, :, None] + moves[some, 1][..., None]
        across = x[:, None] + moves[some, 0][..., None]
        cells_y, weights_y = clamped_neighbors(down, height)
        cells_x, weights_x = clamped_neighbors(across, width)
        first = rois[some, 0].long()[:, None, None, None, None] * (height * width) + cells_y * width
        index = first[..., None, None] + cells_x[:, :, :, None, None]
        weight = weights_y[..., None, None] * weights_x[:, :, :, None, None]
        bins, samples = index.shape[:3].numel(), max(1, y.shape[2] * x.shape[2])
        sums = weighted_sums(table, index.reshape(bins, -1), weight.reshape(bins, -1) / samples)
        parts.append(sums.view(*index.shape[:3], -1))
        order.append(some)
    return torch.cat(parts)[torch.cat(order).argsort()].permute(0, 3, 1, 2)


# --- by the names and arguments of mmcv's extension -----------------------------------------


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Write the bins into ``output``."""
    grid = Grid((pooled_height, pooled_width), spatial_scale, sampling_ratio, aligned=True)
    output.copy_(deform_roi_pool(single(input), single(rois), single(offset), grid, gamma))


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Write the gradients for input and offsets."""
    grid = Grid((pooled_height, pooled_width), spatial_scale, sampling_ratio, aligned=True)
    with torch.enable_grad():
        maps, moves = (single(x).detach().requires_grad_() for x in (input, offset))
        bins = deform_roi_pool(maps, single(rois), moves, grid, gamma)
        found = torch.autograd.grad(bins, (maps, moves), single(grad_output), allow_unused=True)
    for target, gradient in zip((grad_input, grad_offset), found, strict=True):
        if gradient is not None:
            target.copy_(gradient)


OPERATORS = {
    'deform_roi_pool_forward': deform_roi_pool_forward,
    'deform_roi_pool_backward': deform_roi_pool_backward,
}
