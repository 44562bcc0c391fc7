"""Focal losses in plain torch (Lin et al., ICCV 2017, section 3.2), with their gradients.

``weight`` has a factor for each class, or no elements. mmcv takes the logarithm of a rounded
probability; here it is exact for logits of any size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .sampling import single


class _Sigmoid(NamedTuple):
    """Of logits: p = sigmoid(x), q = 1 - p, their logarithms, and where the target is the class."""

    positive: Tensor
    p: Tensor
    log_p: Tensor
    q: Tensor
    log_q: Tensor


def _sigmoid(logits: Tensor, target: Tensor) -> _Sigmoid:
    x = single(logits)
    positive = target[:, None] == torch.arange(x.shape[1], device=x.device)
    return _Sigmoid(positive, x.sigmoid(), F.logsigmoid(x), (-x).sigmoid(), F.logsigmoid(-x))


def _of_targets(weight: Tensor, target: Tensor) -> Tensor | float:
    """Return the weight of the class of each target; a target may be one after the last class."""
    if not weight.numel():
        return 1.0
    return single(weight)[target.clamp(0, len(weight) - 1)]


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of each class of each example into ``output``.

    Args:
        input: Logits of shape (N, classes).
        target: Of shape (N,): the class, or ``classes`` for background.
        weight: Of shape (classes,), or without elements.
        output: Of shape (N, classes).
        gamma: Exponent of the modulating factor.
        alpha: Weight of positive examples; that of negative ones is 1 - alpha.
    """
    positive, p, log_p, q, log_q = _sigmoid(input, target)
    loss = torch.where(positive, -alpha * q**gamma * log_p, (alpha - 1) * p**gamma * log_q)
    factor = _of_targets(weight, target)
    output.copy_(loss * (factor[:, None] if isinstance(factor, Tensor) else factor))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the gradients of :func:`sigmoid_focal_loss_forward` for its logits."""
    positive, p, log_p, q, log_q = _sigmoid(input, target)
    gradient = torch.where(
        positive,
        -alpha * q**gamma * (q - gamma * p * log_p),
        (alpha - 1) * p**gamma * (gamma * q * log_q - p),
    )
    factor = _of_targets(weight, target)
    grad_input.copy_(gradient * (factor[:, None] if isinstance(factor, Tensor) else factor))


def _picked(softmax: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of each target's class, and its logarithm."""
    p = single(softmax).gather(1, target.clamp(0)[:, None])[:, 0]
    return p, p.clamp(torch.finfo(torch.float32).tiny).log()


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of each example into ``output``.

    Args:
        input: Probabilities of shape (N, classes): a softmax.
        target: Of shape (N,): the class; negative for examples that do not count.
        weight: Of shape (classes,), or without elements.
        output: Of shape (N,).
        gamma: Exponent of the modulating factor.
        alpha: Weight of all examples.
    """
    p, log_p = _picked(input, target)
    loss = -alpha * (1 - p) ** gamma * log_p * _of_targets(weight, target)
    output.copy_(loss.masked_fill(target < 0, 0))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the gradients for the logits behind the softmax; ``buff`` gets a part of them."""
    p, log_p = _picked(input, target)
    q = 1 - p
    slope = alpha * (gamma * q ** (gamma - 1) * p * log_p - q**gamma)
    slope = (slope * _of_targets(weight, target)).masked_fill(target < 0, 0)
    buff.copy_(slope)
    one_hot = target[:, None] == torch.arange(input.shape[1], device=target.device)
    grad_input.copy_(slope[:, None] * (one_hot.to(slope.dtype) - single(input)))


OPERATORS = {
    'sigmoid_focal_loss_forward': sigmoid_focal_loss_forward,
    'sigmoid_focal_loss_backward': sigmoid_focal_loss_backward,
    'softmax_focal_loss_forward': softmax_focal_loss_forward,
    'softmax_focal_loss_backward': softmax_focal_loss_backward,
}
