"""The two halves of mmcv's convolution at some positions of a map, around its matrix product."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(
    features: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    data_col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write the windows at some positions into ``data_col``.

    Args:
        features: Of shape (1, C, H, W).
        mask_h_idx: Rows of the P positions.
        mask_w_idx: Their columns.
        data_col: Of shape (C * kernel_h * kernel_w, P).
        kernel_h: Rows of a window.
        kernel_w: Columns of a window.
        pad_h: Rows of zeros above and below the map.
        pad_w: Columns of zeros on both sides.
    """
    padded = F.pad(features[0], (pad_w, pad_w, pad_h, pad_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=features.device)[:, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=features.device)[:, None]
    data_col.copy_(padded[:, rows[:, None], columns].reshape(data_col.shape))


def masked_col2im_forward(
    masked_output: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    output: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write values of shape (channels, P) to their P positions of ``output``."""
    output[0][:, mask_h_idx, mask_w_idx] = masked_output


OPERATORS = {
    'masked_im2col_forward': masked_im2col_forward,
    'masked_col2im_forward': masked_col2im_forward,
}
