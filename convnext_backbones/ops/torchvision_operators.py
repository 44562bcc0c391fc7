"""The operators of mmcv that torchvision has, with mmcv's arguments and mmcv's order of ties.

Imported only where torchvision's operators load.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from . import deform_conv as plain_conv
from . import roi_align as plain
from .deform_conv import Geometry, modulated_geometry, plain_geometry, positions
from .sampling import single

operators = torch.ops.torchvision


@contextlib.contextmanager
def atomic_additions_allowed(tensor: Tensor) -> Iterator[None]:
    """Let torchvision's gradients run under ``torch.use_deterministic_algorithms`` on a GPU.

    They refuse it, and mmcv's do not. torch then warns that they are not deterministic.
    """
    strict = tensor.is_cuda and torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if strict:
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        if strict:
            torch.use_deterministic_algorithms(True, warn_only=warn_only)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the boxes that no better one overlaps, see :func:`.boxes.nms`."""
    boxes = single(boxes)
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1)
    # torchvision's own sort puts equal scores into another order, so it gets ranks.
    order = scores.sort(0, descending=True)[1]
    ranks = torch.arange(len(order), 0, -1, device=boxes.device, dtype=boxes.dtype)
    # mmcv compares with the threshold in float32.
    return order[operators.nms(boxes[order], ranks, ctypes.c_float(iou_threshold).value)]


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    **arguments: Any,
) -> None:
    """Write the bins into ``output``; torchvision has no largest samples."""
    maps = single(input)
    if arguments['pool_mode'] != 1:
        plain.roi_align_forward(input, rois, output, argmax_y, argmax_x, **arguments)
    elif len(rois):
        scale, *rest = _grid(**arguments)
        output.copy_(operators.roi_align(maps, rois.to(maps.dtype), scale, *rest))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    **arguments: Any,
) -> None:
    """Write the gradient of :func:`roi_align_forward` into ``grad_input``."""
    gradient = single(grad_output)
    if arguments['pool_mode'] != 1:
        plain.roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input, **arguments)
    elif len(rois):
        scale, height, width, *rest = _grid(**arguments)
        geometry = (scale, height, width, *grad_input.shape, *rest)
        with atomic_additions_allowed(gradient):
            grad_input.copy_(
                operators._roi_align_backward(gradient, rois.to(gradient.dtype), *geometry)
            )


def _grid(
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> tuple[Any, ...]:
    """Return mmcv's arguments in the order of torchvision's."""
    return spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned


# --- deformable convolutions ----------------------------------------------------------------


def _deform_conv(
    operator: Any,
    first: tuple[Tensor, ...],
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: Geometry,
) -> Any:
    """Call torchvision's forward or, with the gradient ``first``, its backward."""
    use_mask = mask is not None
    if mask is None:
        mask = input.new_zeros(len(input), 1)
    if bias is None:
        bias = weight.new_zeros(len(weight))
    tensors = [single(tensor) for tensor in (*first, input, weight, offset, mask, bias)]
    pairs = (*geometry.stride, *geometry.padding, *geometry.dilation)
    with atomic_additions_allowed(input):
        return operator(*tensors, *pairs, geometry.groups, geometry.offset_groups, use_mask)


def _deform_conv_gradients(
    gradient: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: Geometry,
) -> list[Tensor]:
    """Return the gradients for input, weight, offset, mask and bias."""
    tensors = input, weight, offset, mask, bias
    found = _deform_conv(operators._deform_conv2d_backward, (gradient,), *tensors, geometry)
    # At a position of exactly -1 torchvision's offsets have a gradient, and mmcv's have none: with
    # padding, that is where each position at the edge is when a training starts.
    y, x = positions(single(offset), weight.shape[2:], geometry)
    outside = ((y <= -1) | (x <= -1)).unsqueeze(-3).expand(*y.shape[:-2], 2, *y.shape[-2:])
    return [*found[:2], found[2].masked_fill(outside.reshape(offset.shape), 0), *found[3:]]


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **arguments: Any,
) -> None:
    """Write the convolution of version 1, which has no mask, into ``output``."""
    if input.is_meta:  # torch's counter of operations sees the matrix product of the plain one
        plain_conv.deform_conv_forward(input, weight, offset, output, columns, ones, **arguments)
        return
    tensors = input, weight, offset, None, None
    output.copy_(_deform_conv(operators.deform_conv2d, (), *tensors, plain_geometry(**arguments)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **arguments: Any,
) -> None:
    """Write the gradients for input and offsets."""
    tensors = input, weight, offset, None, None
    found = _deform_conv_gradients(grad_output, *tensors, plain_geometry(**arguments))
    grad_input.copy_(found[0])
    grad_offset.copy_(found[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **arguments: Any,
) -> None:
    """Add the gradient for the weights, times ``scale``."""
    tensors = input, grad_weight, offset, None, None  # it is linear in the weights
    found = _deform_conv_gradients(grad_output, *tensors, plain_geometry(**arguments))
    grad_weight.add_(found[1], alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    **arguments: Any,
) -> None:
    """Write the convolution of version 2 into ``output``."""
    if input.is_meta:
        buffers = ones, offset, mask, output, columns
        plain_conv.modulated_deform_conv_forward(input, weight, bias, *buffers, **arguments)
        return
    geometry, with_bias = modulated_geometry(**arguments)
    tensors = input, weight, offset, mask, bias if with_bias else None
    output.copy_(_deform_conv(operators.deform_conv2d, (), *tensors, geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    **arguments: Any,
) -> None:
    """Write the gradients of all tensors."""
    geometry, with_bias = modulated_geometry(**arguments)
    tensors = input, weight, offset, mask, bias if with_bias else None
    found = _deform_conv_gradients(grad_output, *tensors, geometry)
    targets = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias)[: 4 + with_bias]
    for target, gradient in zip(targets, found):  # noqa: B905 -- there is one for no bias too
        target.copy_(gradient)


OPERATORS = {
    operator.__name__: operator
    for operator in (
        nms,
        roi_align_forward,
        roi_align_backward,
        deform_conv_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        modulated_deform_conv_forward,
        modulated_deform_conv_backward,
    )
}
