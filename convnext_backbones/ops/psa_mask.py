"""The masks of PSANet in plain torch (Zhao et al., ECCV 2018, section 3.3).

Each cell of a map predicts a window of attention around itself. The operator spreads the windows
over whole maps: one map of H x W for each of the H * W cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

COLLECT, DISTRIBUTE = 0, 1  # mmcv's numbers


def _windows(
    height: int, width: int, window: tuple[int, int], half: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return, for each pair of cells, where the first lies in the window around the second.

    Returns:
        Indices into the window and whether it covers the cell, of shape (H * W, H, W).
    """
    axes = (torch.arange(size, device=device) for size in (height, width, height, width))
    y, x, around_y, around_x = torch.meshgrid(*axes, indexing='ij')
    down, across = y - around_y + half[0], x - around_x + half[1]
    inside = (down >= 0) & (down < window[0]) & (across >= 0) & (across < window[1])
    index = (down * window[1] + across).masked_fill(~inside, 0)
    return index.flatten(0, 1), inside.flatten(0, 1)


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the masks into ``output``.

    Args:
        input: Of shape (N, h_mask * w_mask, H, W).
        output: Of shape (N, H * W, H, W).
        psa_type: 0 collects for each cell, 1 distributes from it: the transposed masks.
        num_: N.
        h_feature: H.
        w_feature: W.
        h_mask: Rows of the window.
        w_mask: Columns of the window.
        half_h_mask: Rows of the window above its center.
        half_w_mask: Columns of the window left of its center.
    """
    window, half = (h_mask, w_mask), (half_h_mask, half_w_mask)
    index, inside = _windows(h_feature, w_feature, window, half, input.device)
    masks = input.gather(1, index.expand(num_, -1, -1, -1)).masked_fill(~inside, 0)
    if psa_type == DISTRIBUTE:
        masks = masks.flatten(2).transpose(1, 2).reshape(output.shape)
    output.copy_(masks)


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Add the gradients of :func:`psamask_forward` to ``grad_input``."""
    window, half = (h_mask, w_mask), (half_h_mask, half_w_mask)
    index, inside = _windows(h_feature, w_feature, window, half, grad_output.device)
    if psa_type == DISTRIBUTE:
        grad_output = grad_output.flatten(2).transpose(1, 2).reshape(grad_output.shape)
    gradient = grad_output.masked_fill(~inside, 0)
    grad_input.scatter_add_(1, index.expand(num_, -1, -1, -1), gradient)


OPERATORS = {'psamask_forward': psamask_forward, 'psamask_backward': psamask_backward}
