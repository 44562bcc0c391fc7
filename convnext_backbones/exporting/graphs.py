"""What is exported of a model: one function of images, for any batch and image size."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.convnext import ConvNeXt
from .exportable import kind_of
from .graph import Graph, Normalization


class BackboneGraph(Graph):
    """Images to feature maps, with the normalization of the images inside."""

    def __init__(self, model: Any) -> None:
        super().__init__(Normalization(model))
        self.backbone = model.backbone
        self.outputs = tuple(f'map{i}' for i in model.backbone.out_indices)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return a map of shape (N, C_i, H_i, W_i) for each stage, from (N, C, H, W)."""
        return self.backbone(self.normalize(images))


class SegmentorGraph(Graph):
    """Images to logits and label maps of the same size."""

    outputs = ('logits', 'labels')

    def __init__(self, model: Any) -> None:
        super().__init__(Normalization(model))
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


def make_graph(model: nn.Module, part: str) -> Graph:
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
    kind = kind_of(model) if part == 'model' else part
    model = deepcopy(model).cpu().float().eval().requires_grad_(False)
    _replace_pools(model)
    if kind == 'backbone':
        return BackboneGraph(model)
    if kind == 'segmentor':
        return SegmentorGraph(model)
    # They import mmdet.
    from .dense import DenseGraph
    from .transformers import TransformerGraph
    from .two_stage import TwoStageGraph

    graphs: dict[str, type] = dict(
        dense=DenseGraph, two_stage=TwoStageGraph, transformer=TransformerGraph
    )
    return graphs[kind](model)


def _replace_pools(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size: Any = child.output_size
                rows, columns = (size, size) if isinstance(size, int) else size
                if rows is not None and columns is not None:
                    setattr(module, name, AnySizePool((rows, columns)))
