"""Multi-scale deformable attention (Zhu et al., "Deformable DETR", ICLR 2021, section 4.1).

mmcv has it in plain torch for CPUs; here GPUs take it too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .sampling import single


def _attention(shapes: Tensor, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, shapes.tolist(), locations, weights)


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Return the attention, of shape (batch, queries, channels), as mmcv defines its arguments."""
    tensors = (single(x) for x in (value, sampling_locations, attention_weights))
    return _attention(spatial_shapes, *tensors).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Write the gradients for values, locations and weights."""
    with torch.enable_grad():
        leaves = [
            single(tensor).detach().requires_grad_()
            for tensor in (value, sampling_locations, attention_weights)
        ]
        out = _attention(spatial_shapes, *leaves)
        found = torch.autograd.grad(out, leaves, single(grad_output))
    targets = (grad_value, grad_sampling_loc, grad_attn_weight)
    for target, gradient in zip(targets, found, strict=True):
        target.copy_(gradient)


OPERATORS = {
    'ms_deform_attn_forward': ms_deform_attn_forward,
    'ms_deform_attn_backward': ms_deform_attn_backward,
}
