"""Time the operators of mmcv that detectors spend their time in, with each provider that runs here.

A provider is chosen once for a process, so each contender has a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich import box
from torch import Tensor

from ..ops.providers import PROVIDERS, VARIABLE
from .race import Result, race
from .sweep import RaceOptions
from .tables import as_text, make_table
from .worker import Contender, Prepared

# Those of an image of 800 x 1280 pixels.
SHAPE = (200, 320)  # of the largest map of a feature pyramid, which has 256 channels
STRIDE = 4
CLASSES = 80


def _boxes(count: int, largest: float) -> Tensor:
    """Return random boxes of 16 to ``largest`` pixels, within the image."""
    size = torch.tensor([SHAPE[1] * STRIDE, SHAPE[0] * STRIDE])
    sides = 16 + torch.rand(count, 2) * (largest - 16)
    corners = torch.rand(count, 2) * (size - sides)
    return torch.cat([corners, corners + sides], 1)


def _regions(count: int, largest: float) -> Tensor:
    return torch.cat([torch.zeros(count, 1), _boxes(count, largest)], 1)


def _suppression(count: int, classes: int, threshold: float) -> Callable[[], Any]:
    """Suppress boxes of 16 to 200 pixels, within their classes."""
    from mmcv.ops import batched_nms

    boxes, scores = _boxes(count, 200), torch.rand(count)
    labels = torch.randint(classes, (count,))
    return lambda: batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=threshold))


def _soft_suppression() -> Callable[[], Any]:
    from mmcv.ops import soft_nms

    boxes, scores = _boxes(300, 200), torch.rand(300)
    return lambda: soft_nms(boxes, scores)


def _roi_align(count: int, bins: int, training: bool = False) -> Callable[[], Any]:
    """Cut out regions of 16 to 112 pixels, as the head takes them from the largest map."""
    from mmcv.ops import RoIAlign

    layer = RoIAlign(bins, 1 / STRIDE, 0)
    maps, rois = torch.randn(1, 256, *SHAPE), _regions(count, 112)

    def train() -> None:
        leaf = maps.detach().requires_grad_()
        layer(leaf, rois).sum().backward()

    return train if training else lambda: layer(maps, rois)


def _deformable(training: bool = False) -> Callable[[], Any]:
    from mmcv.ops import ModulatedDeformConv2dPack

    layer = ModulatedDeformConv2dPack(256, 256, 3, padding=1)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.02)
    maps = torch.randn(1, 256, 50, 80, requires_grad=training)

    def train() -> None:
        layer(maps).sum().backward()

    def infer() -> Tensor:
        with torch.no_grad():
            return layer(maps)

    return train if training else infer


OPERATORS: dict[str, Callable[[], Callable[[], Any]]] = {
    'RoIAlign, 1000 x 7 x 7': partial(_roi_align, 1000, 7),
    'RoIAlign, 100 x 14 x 14': partial(_roi_align, 100, 14),
    'RoIAlign, 512 x 7 x 7, with gradients': partial(_roi_align, 512, 7, training=True),
    'NMS, 2000 boxes': partial(_suppression, 2000, 1, 0.5),
    'NMS, 4800 boxes of 5 levels': partial(_suppression, 4800, 5, 0.7),
    'NMS, 2000 boxes of 80 classes': partial(_suppression, 2000, CLASSES, 0.5),
    'NMS, 8000 boxes of 80 classes': partial(_suppression, 8000, CLASSES, 0.5),
    'Soft-NMS, 300 boxes': _soft_suppression,
    'DCNv2 3x3, 50 x 80 x 256': _deformable,
    'DCNv2 3x3, 50 x 80 x 256, with gradients': partial(_deformable, training=True),
}


def prepare_operator(operator: str, provider: str) -> Prepared:
    """Prepare an operator of :data:`OPERATORS` in this process.

    Raises:
        ImportError: The provider does not run here; the message says why.
    """
    os.environ[VARIABLE] = provider
    torch.manual_seed(0)
    return Prepared(OPERATORS[operator]())


def race_providers(threads: int, options: RaceOptions) -> dict[str, list[Result]]:
    """Let the providers take turns at each operator.

    Returns:
        By operator, the results of the providers.
    """
    return {
        operator: race(
            [
                Contender(provider, partial(prepare_operator, operator, provider))
                for provider in PROVIDERS
            ],
            threads,
            options.rounds,
            options.seconds,
            options.progress,
        )
        for operator in OPERATORS
    }


def providers_text(results: dict[str, list[Result]], markdown: bool = False) -> str:
    """Return the medians in ms, and each provider's time over that of plain torch in its round."""
    rows, absent = [], {}
    for operator, contenders in results.items():
        (plain,) = (one for one in contenders if one.contender.name == 'torch')
        cells = [operator]
        for one in contenders:
            if one.failure:
                absent[one.contender.name] = one.failure
                cells += ['-'] if one is plain else ['-', '-']
                continue
            cells.append(f'{one.median * 1e3:.1f}')
            if one is not plain:
                cells.append(f'{_ratio(one, plain):.2f}' if plain.seconds else '-')
        rows.append(cells)
    headings = ['operator']
    for name in PROVIDERS:
        headings += [f'{name}, ms'] if name == 'torch' else [f'{name}, ms', f'{name} / torch']
    style = box.MARKDOWN if markdown else box.SIMPLE
    text = as_text(make_table(headings, rows, style))
    return '\n'.join([text, *(f'{name} is absent: {why}' for name, why in absent.items())])


def _ratio(one: Result, plain: Result) -> float:
    pairs = zip(one.seconds, plain.seconds, strict=True)
    ratios = torch.tensor([own / theirs for own, theirs in pairs])
    return ratios.quantile(0.5).item()
