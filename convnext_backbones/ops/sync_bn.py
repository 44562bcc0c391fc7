"""The steps of mmcv's synchronized batch norm; in between, it adds up sums of all processes.

Maps are of shape (N, C, H * W); mean, variance and the like are float32, of shape (C,).
"""

from __future__ import annotations

from torch import Tensor


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Write the mean of each channel."""
    mean.copy_(input.float().mean((0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Write the mean square difference of each channel from ``mean``, that of all processes."""
    var.copy_((input.float() - mean[:, None]).square().mean((0, 2)))


def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Write normalized values, with and without the affine map, and update the running statistics.

    Args:
        input: Of shape (N, C, H * W).
        mean: That of all processes.
        var: That of all processes, not corrected for their number of values.
        weight: Of shape (C,).
        bias: Of shape (C,).
        running_mean: Updated in place.
        running_var: Updated in place, with the corrected variance.
        norm: Gets the normalized values.
        std: Gets the standard deviation.
        output: Gets the normalized values times ``weight`` plus ``bias``.
        eps: Added to the variance.
        momentum: Share of the new statistics in the running ones.
        group_size: Number of processes.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    output.copy_(norm * weight[:, None] + bias[:, None])
    count = input.shape[0] * input.shape[2] * group_size
    running_mean.copy_(running_mean * (1 - momentum) + mean * momentum)
    corrected = var * (count / max(count - 1, 1))
    running_var.copy_(running_var * (1 - momentum) + corrected * momentum)


def sync_bn_backward_param(
    grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor
) -> None:
    """Write the gradients of the affine map, of this process."""
    gradient = grad_output.float()
    grad_weight.copy_((gradient * norm).sum((0, 2)))
    grad_bias.copy_(gradient.sum((0, 2)))


def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Write the gradient for the input; those of the affine map are the means of all processes."""
    count = grad_output.shape[0] * grad_output.shape[2]
    common = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((weight / std)[:, None] * (grad_output.float() - common))


OPERATORS = {
    operator.__name__: operator
    for operator in (
        sync_bn_forward_mean,
        sync_bn_forward_var,
        sync_bn_forward_output,
        sync_bn_backward_param,
        sync_bn_backward_data,
    )
}
