"""What is exported of a model: one function of images, for any batch and image size."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.convnext import ConvNeXt


class BackboneGraph(nn.Module):
    """Images to feature maps, with the normalization of the images inside.

    Attributes:
        outputs: Names of what :meth:`forward` returns.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.normalize = Normalization(model)
        self.backbone = model.backbone
        self.outputs = tuple(f'map{i}' for i in model.backbone.out_indices)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return a map of shape (N, C_i, H_i, W_i) for each stage, from (N, C, H, W)."""
        return self.backbone(self.normalize(images))


class SegmentorGraph(nn.Module):
    """Images to logits and label maps of the same size.

    Attributes:
        outputs: Names of what :meth:`forward` returns.
    """

    outputs = ('logits', 'labels')

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.normalize = Normalization(model)
        self.model = model
        binary = model.out_channels == 1
        self.threshold: float | None = model.decode_head.threshold if binary else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, of shape (N, classes, H, W), and labels, int64, of shape (N, H, W).

        Args:
            images: Of shape (N, C, H, W).
        """
        maps = self.model.extract_feat(self.normalize(images))
        logits = F.interpolate(
            self.model.decode_head(maps),
            size=images.shape[2:],
            mode='bilinear',
            align_corners=self.model.align_corners,
        )
        if self.threshold is not None:
            return logits, (logits[:, 0].sigmoid() > self.threshold).long()
        return logits, logits.argmax(1)


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


def channels_of(model: nn.Module) -> int:
    """Return the channels of the images that a model with our backbone takes."""
    backbone: Any = model.backbone
    return next(m for m in backbone.modules() if isinstance(m, nn.Conv2d)).in_channels


class AnySizePool(nn.Module):
    """Adaptive average pooling as two products, for maps whose size is known only later.

    The standard operators of ONNX pool with fixed windows; here a bin may be of any size.

    Args:
        size: Rows and columns of the result.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Return the means of bins, (N, C, *size), of a map (N, C, H, W)."""
        rows, columns = (_bin_means(x.shape[2 + i], bins, x) for i, bins in enumerate(self.size))
        return rows @ x @ columns.t()


def _bin_means(cells: int, bins: int, like: Tensor) -> Tensor:
    """Return the matrix, of shape (bins, cells), that averages the cells of each bin."""
    number = torch.arange(bins, device=like.device)[:, None]
    start, stop = number * cells // bins, (number * cells + cells + bins - 1) // bins
    cell = torch.arange(cells, device=like.device)
    inside = (cell >= start) & (cell < stop)
    return inside.to(like.dtype) / (stop - start).to(like.dtype)


def make_graph(model: nn.Module, part: str) -> BackboneGraph | SegmentorGraph:
    """Return what is exported of a model, as a copy in evaluation mode.

    Args:
        model: A detector or segmentor with a ConvNeXt of this package.
        part: ``'model'`` or ``'backbone'``.

    Raises:
        ValueError: This model, or this part of it, cannot be exported.
    """
    if not isinstance(getattr(model, 'backbone', None), ConvNeXt):
        raise ValueError(
            'expected a model whose backbone is a ConvNeXt of this package, got '
            f'{type(model).__name__} with {type(getattr(model, "backbone", None)).__name__}'
        )
    if part == 'model':
        check_exportable(model)
    model = deepcopy(model).cpu().float().eval().requires_grad_(False)
    _replace_pools(model)
    return BackboneGraph(model) if part == 'backbone' else SegmentorGraph(model)


def check_exportable(model: Any) -> None:
    """Refuse whole models whose results are not those of the exported graph.

    Raises:
        ValueError: It is a detector, or a segmentor whose head predicts in a way of its own, or
            whose images are padded.
    """
    advice = '; its backbone alone can be: --part backbone'
    head: Any = getattr(model, 'decode_head', None)
    if not isinstance(head, nn.Module):
        raise ValueError(
            f'expected a segmentor with a decode head, got {type(model).__name__}, whose boxes '
            f'cannot be exported{advice}'
        )
    if getattr(model.data_preprocessor, 'test_cfg', None):
        raise ValueError(
            "expected no test_cfg in the model's data_preprocessor, got "
            f'{model.data_preprocessor.test_cfg}: it pads normalized images, and the exported '
            f'model takes images as they are read{advice}'
        )
    from mmseg.models import EncoderDecoder
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    own_model = any(
        getattr(type(model), name) is not getattr(EncoderDecoder, name)
        for name in ('encode_decode', 'extract_feat')
    )
    own_head = not isinstance(head, BaseDecodeHead) or any(
        getattr(type(head), name) is not getattr(BaseDecodeHead, name)
        for name in ('predict', 'predict_by_feat')
    )
    if own_model or own_head:
        raise ValueError(
            'expected an EncoderDecoder whose head gives one map of logits, got '
            f'{type(model).__name__} with {type(head).__name__}, which predicts in a way of its '
            f'own{advice}'
        )


def _replace_pools(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size: Any = child.output_size
                rows, columns = (size, size) if isinstance(size, int) else size
                if rows is not None and columns is not None:
                    setattr(module, name, AnySizePool((rows, columns)))
