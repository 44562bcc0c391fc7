"""CARAFE, upsampling by predicted kernels, in plain torch (Wang et al., ICCV 2019, section 3.2)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .sampling import single


def carafe(
    features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> Tensor:
    """Return upsampled maps, each value a weighted sum of the cells around its own.

    Args:
        features: Of shape (N, C, H, W).
        masks: Weights of shape (N, group_size * kernel_size ** 2, s * H, s * W).
        kernel_size: Side of the window around a cell; odd.
        group_size: Groups of channels with weights of their own.
        scale_factor: s.

    Returns:
        Of shape (N, C, s * H, s * W). It has gradients for both tensors.
    """
    images, channels, height, width = features.shape
    reach = (kernel_size - 1) // 2
    padded = F.pad(features, (reach,) * 4)
    weights = masks.view(images, group_size, 1, kernel_size**2, *masks.shape[2:])
    total = features.new_zeros(
        images, group_size, channels // group_size, height * scale_factor, width * scale_factor
    )
    for k in range(kernel_size**2):
        y, x = divmod(k, kernel_size)
        shifted = padded[:, :, y : y + height, x : x + width]
        shifted = F.interpolate(shifted, scale_factor=scale_factor).view_as(total)
        total = total + shifted * weights[:, :, :, k]
    return total.flatten(1, 2)


# --- by the names and arguments of mmcv's extension -----------------------------------------


def carafe_naive_forward(features: Tensor, masks: Tensor, output: Tensor, **sizes: int) -> None:
    """Write :func:`carafe` into ``output``."""
    output.copy_(carafe(single(features), single(masks), **sizes))


def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    **sizes: int,
) -> None:
    """Write the gradients for features and masks."""
    with torch.enable_grad():
        leaves = [single(tensor).detach().requires_grad_() for tensor in (features, masks)]
        out = carafe(leaves[0], leaves[1], **sizes)
        found = torch.autograd.grad(out, leaves, single(grad_output))
    for target, gradient in zip((grad_input, grad_masks), found, strict=True):
        target.copy_(gradient)


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    **sizes: int,
) -> None:
    """Write :func:`carafe` into ``output``; ``rfeatures`` keeps the features for the backward."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, **sizes)


def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    **sizes: int,
) -> None:
    """Write the gradients for features and masks; the buffers of the CUDA kernel stay unused."""
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, **sizes)


OPERATORS: dict[str, Any] = {
    'carafe_naive_forward': carafe_naive_forward,
    'carafe_naive_backward': carafe_naive_backward,
    'carafe_forward': carafe_forward,
    'carafe_backward': carafe_backward,
}
