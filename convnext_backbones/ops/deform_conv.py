"""Deformable convolutions in plain torch (Dai et al. 2017; Zhu et al., "Deformable ConvNets v2").

Each of the kernel's K positions reads the map at a moved place, interpolated between four cells:
a weighted sum of the map's rows, see :mod:`.sampling`. One matrix product follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .sampling import padded_neighbors, single, weighted_sums


class Geometry(NamedTuple):
    """Of a convolution; pairs are (vertical, horizontal)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    offset_groups: int


def deform_conv(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """Return a deformable convolution; differentiable for all tensors.

    Args:
        input: Of shape (N, C, H, W).
        offset: Of shape (N, offset_groups * K * 2, H', W'): moves in y and x, in cells.
        mask: Factors of shape (N, offset_groups * K, H', W').
        weight: Of shape (O, C / groups, kernel height, kernel width).
        bias: Of shape (O,).
        geometry: Of the convolution.

    Returns:
        Of shape (N, O, H', W').
    """
    masks = [None] * len(input) if mask is None else list(mask.unbind())
    images = [
        _convolve(*tensors, weight, geometry)
        for tensors in zip(input.unbind(), offset.unbind(), masks, strict=True)
    ]  # one at a time, as mmcv does: K times the input is needed in between
    out = torch.stack(images) if images else input.new_zeros(0, len(weight), *offset.shape[2:])
    return out if bias is None else out + bias[:, None, None]


def _convolve(
    image: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, geometry: Geometry
) -> Tensor:
    """Return the convolution of an image of shape (C, H, W), without bias."""
    channels, height, width = image.shape
    size, groups = offset.shape[1:], geometry.offset_groups
    # Everything below is of shape (H', W', K, offset groups).
    y, x = (part.permute(2, 3, 1, 0) for part in positions(offset, weight.shape[2:], geometry))
    count = y.shape[2]
    cells_y, weights_y = padded_neighbors(y, height)
    cells_x, weights_x = padded_neighbors(x, width)
    # A row holds the channels of one offset group at one cell.
    index = (cells_y[..., None] * width + cells_x[..., None, :]) * groups
    index = index + torch.arange(groups, device=image.device)[:, None, None]
    share = weights_y[..., None] * weights_x[..., None, :]
    if mask is not None:
        share = share * mask.reshape(groups, count, *size).permute(2, 3, 1, 0)[..., None, None]
    table = image.permute(1, 2, 0).reshape(-1, channels // groups).contiguous()
    columns = weighted_sums(table, index.view(-1, 4), share.reshape(-1, 4))
    columns = columns.view(size[0] * size[1], count, geometry.groups, -1)
    columns = columns.permute(2, 0, 1, 3).flatten(2)  # groups x (H' * W') x (K * channels of one)
    kernels = weight.reshape(geometry.groups, -1, weight.shape[1], count)
    out = torch.bmm(columns, kernels.permute(0, 3, 2, 1).flatten(1, 2))
    return out.transpose(1, 2).reshape(-1, *size)


def positions(offset: Tensor, kernel: Sequence[int], geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Return where the kernel's K positions read, in rows and columns of the map.

    Args:
        offset: Of shape (..., offset_groups * K * 2, H', W').
        kernel: Height and width of the kernel; K is their product.
        geometry: Of the convolution.

    Returns:
        Each of shape (..., offset_groups, K, H', W').
    """
    size, count = offset.shape[-2:], kernel[0] * kernel[1]
    moves = offset.reshape(*offset.shape[:-3], geometry.offset_groups, count, 2, *size)
    places = []
    for axis, shape in enumerate([(kernel[0], 1, size[0], 1), (1, kernel[1], 1, size[1])]):
        start = torch.arange(size[axis], device=offset.device) * geometry.stride[axis]
        inner = torch.arange(kernel[axis], device=offset.device) * geometry.dilation[axis]
        place = (inner[:, None] + start - geometry.padding[axis]).to(offset.dtype).view(shape)
        places.append(place.expand(*kernel, *size).reshape(count, *size))
    y, x = (place + move for place, move in zip(places, moves.unbind(-3), strict=True))
    return y, x


def _gradients(
    tensors: Sequence[Tensor | None], wanted: Sequence[int], gradient: Tensor, geometry: Geometry
) -> list[Tensor]:
    """Return the gradients of :func:`deform_conv` for some of its tensors."""
    with torch.enable_grad():
        leaves = [None if tensor is None else single(tensor).detach() for tensor in tensors]
        sources = [leaves[i].requires_grad_() for i in wanted]  # type: ignore[union-attr]
        out = deform_conv(*leaves, geometry)  # type: ignore[call-arg, arg-type]
        return list(torch.autograd.grad(out, sources, single(gradient)))


# --- by the names and arguments of mmcv's extension -----------------------------------------


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
    geometry = plain_geometry(**arguments)
    output.copy_(deform_conv(single(input), single(offset), None, single(weight), None, geometry))


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
    tensors = (input, offset, None, weight, None)
    found = _gradients(tensors, (0, 1), grad_output, plain_geometry(**arguments))
    for target, gradient in zip((grad_input, grad_offset), found, strict=True):
        target.copy_(gradient)


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
    tensors = (input, offset, None, grad_weight, None)  # it is linear in the weights
    (found,) = _gradients(tensors, (3,), grad_output, plain_geometry(**arguments))
    grad_weight.add_(found, alpha=scale)


def plain_geometry(
    *,
    kW: int,  # noqa: N803 -- mmcv's names
    kH: int,  # noqa: N803
    dW: int,  # noqa: N803
    dH: int,  # noqa: N803
    padW: int,  # noqa: N803
    padH: int,  # noqa: N803
    dilationW: int,  # noqa: N803
    dilationH: int,  # noqa: N803
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> Geometry:
    """Return the geometry that mmcv passes to version 1."""
    return Geometry((dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)


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
    geometry, with_bias = modulated_geometry(**arguments)
    tensors = (input, offset, mask, weight, bias if with_bias else None)
    output.copy_(
        deform_conv(*(None if x is None else single(x) for x in tensors), geometry)  # type: ignore
    )


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
    tensors = (input, offset, mask, weight, bias if with_bias else None)
    targets = (grad_input, grad_offset, grad_mask, grad_weight, grad_bias)[: 4 + with_bias]
    found = _gradients(tensors, range(4 + with_bias), grad_output, geometry)
    for target, gradient in zip(targets, found, strict=True):
        target.copy_(gradient)


def modulated_geometry(
    *,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> tuple[Geometry, bool]:
    """Return the geometry that mmcv passes to version 2, and whether there is a bias."""
    pairs = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)
    return Geometry(*pairs, group, deformable_group), with_bias


OPERATORS = {
    'deform_conv_forward': deform_conv_forward,
    'deform_conv_backward_input': deform_conv_backward_input,
    'deform_conv_backward_parameters': deform_conv_backward_parameters,
    'modulated_deform_conv_forward': modulated_deform_conv_forward,
    'modulated_deform_conv_backward': modulated_deform_conv_backward,
}
