"""RoI pooling in plain torch (Girshick, "Fast R-CNN", ICCV 2015, section 2.1), as mmcv has it.

mmcv's boxes keep their fractions of a cell; torchvision's operator rounds them first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .sampling import single


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Write the largest value of each bin into ``output``, and its cell into ``argmax``.

    Args:
        input: Of shape (N, C, H, W).
        rois: Of shape (K, 5): index of the image, x1, y1, x2, y2 in pixels of the image.
        output: Of shape (K, C, pooled_height, pooled_width); zero for a bin without cells.
        argmax: Of that shape, y * W + x of the largest value; -1 for a bin without cells.
        pooled_height: Rows of bins.
        pooled_width: Columns of bins.
        spatial_scale: Cells of the map per pixel.
    """
    height, width = input.shape[2:]
    rois = single(rois)
    corners = torch.cat([rois[:, 1:3], rois[:, 3:] + 1], 1) * spatial_scale
    argmax.fill_(-1)
    for k, (x1, y1, x2, y2) in enumerate(corners):
        if x2 <= x1 or y2 <= y1:
            continue
        image = input[int(rois[k, 0])]
        rows, columns = _bins(y1, y2, pooled_height, height), _bins(x1, x2, pooled_width, width)
        least = torch.finfo(input.dtype).min
        best, x = image[:, :, None].masked_fill(~columns, least).max(-1)  # C x H x columns
        best, y = best[:, None].masked_fill(~rows[..., None], least).max(2)  # C x rows x columns
        empty = ~(rows.any(1)[:, None] & columns.any(1))
        output[k] = best.masked_fill(empty, 0)
        argmax[k] = (y * width + x.gather(1, y)).masked_fill(empty, -1)


def _bins(start: Tensor, end: Tensor, count: int, size: int) -> Tensor:
    """Return which of ``size`` cells belong to each of ``count`` bins: of shape (count, size)."""
    steps = torch.arange(count, device=start.device) * ((end - start) / count)
    first = (steps + start).floor().clamp(0, size)
    steps = torch.arange(1, count + 1, device=start.device) * ((end - start) / count)
    last = (steps + start).ceil().clamp(0, size)
    cells = torch.arange(size, device=start.device)
    return (cells >= first[:, None]) & (cells < last[:, None])


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradients of the bins to those of the cells that they come from."""
    channels, cells = grad_input.shape[1], grad_input[0, 0].numel()
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    index = plane[:, :, None, None] * cells + argmax.clamp(min=0)
    gradient = grad_output.masked_fill(argmax < 0, 0)
    grad_input.view(-1).index_add_(0, index.flatten(), gradient.flatten())


OPERATORS = {'roi_pool_forward': roi_pool_forward, 'roi_pool_backward': roi_pool_backward}
