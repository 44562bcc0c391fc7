"""What every exported graph is: a function of images as they were read."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Graph(nn.Module):
    """A function of images, of shape (N, C, H, W) as they were read.

    Attributes:
        outputs: Names of what the function returns.
        normalize: What it does to the values of the images first.
    """

    outputs: tuple[str, ...]
    normalize: Normalization

    def __init__(self, normalize: Normalization) -> None:
        super().__init__()
        self.normalize = normalize


class DetectorGraph(Graph):
    """A function of images that returns boxes, scores and labels first.

    Attributes:
        images: Normalizes and pads images.
        model: The detector.
        results: Names of what was found; ``outputs`` names the raw values after them.
        raw: How many raw values follow the results, for comparisons: what the heads give before
            anything is chosen.
        operators: Whether the graph calls :mod:`~convnext_backbones.ops.graph_operators`.
    """

    operators = True
    results: tuple[str, ...] = ('boxes', 'scores', 'labels')

    def __init__(self, model: Any) -> None:
        images = Images(model)
        super().__init__(images.normalize)
        self.images, self.model = images, model
        self.raw = 0

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of what :meth:`forward` returns."""
        return (*self.results, *(f'raw{i}' for i in range(self.raw)))

    def compute(self, images: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return results and raw values, from images of shape (N, C, H, W)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what :attr:`outputs` names, from images of shape (N, C, H, W)."""
        results, raw = self.compute(images)
        return (*results, *raw[: self.raw])

    def keep_raw(self, images: Tensor) -> None:
        """Return the raw values from now on, too.

        Args:
            images: Of any size, to count the values.
        """
        with torch.no_grad():
            self.raw = len(self.compute(images)[1])


class Normalization(nn.Module):
    """What a data preprocessor does to the values of images: order of channels, mean and std."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        preprocessor: Any = model.data_preprocessor
        self.reverses = bool(getattr(preprocessor, '_channel_conversion', False)) or bool(
            getattr(preprocessor, 'channel_conversion', False)
        )
        channels = channels_of(model)
        given = getattr(preprocessor, '_enable_normalize', False)
        mean = preprocessor.mean if given else torch.zeros(channels)
        std = preprocessor.std if given else torch.ones(channels)
        self.register_buffer('mean', mean.detach().clone().float().view(1, -1, 1, 1))
        self.register_buffer('std', std.detach().clone().float().view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return normalized images, of the same shape (N, C, H, W)."""
        if self.reverses:
            images = images.flip(1)
        return (images - self.mean) / self.std


class Images(nn.Module):
    """Normalization, then the padding of mmdet's preprocessor, at the right and the bottom."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.normalize = Normalization(model)
        self.divisor = int(model.data_preprocessor.pad_size_divisor)
        self.value = float(model.data_preprocessor.pad_value)

    def forward(self, images: Tensor) -> Tensor:
        """Return images of shape (N, C, H', W'), H' and W' multiples of the divisor."""
        height, width = images.shape[2:]
        # Of positive numbers, which ONNX divides as Python does.
        step = self.divisor
        bottom, right = ((size + step - 1) // step * step - size for size in (height, width))
        return F.pad(self.normalize(images), (0, right, 0, bottom), value=self.value)


def channels_of(model: nn.Module) -> int:
    """Return the channels of the images that a model with our backbone takes."""
    backbone: Any = model.backbone
    return next(m for m in backbone.modules() if isinstance(m, nn.Conv2d)).in_channels
