"""Compare an exported model with the model that it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..inference.exported import ExportedModel

# Images, height and width: none is the traced one, and none fits the strides.
SIZES = ((1, 64, 64), (2, 101, 135), (1, 160, 96))
TOLERANCE = 1e-4  # of the largest value


@dataclass(frozen=True)
class Parity:
    """How far an exported model is from the original.

    Attributes:
        difference: The largest, of all outputs but labels, as a fraction of the largest value.
        labels: The share of pixels with another label; None without labels.
    """

    difference: float
    labels: float | None

    def __str__(self) -> str:
        text = f'outputs differ by {self.difference:.1e} of the largest value'
        return text if self.labels is None else f'{text}, {self.labels:.3%} of the labels differ'


def measure(graph: nn.Module, exported: ExportedModel, images: Sequence[np.ndarray]) -> Parity:
    """Compare the outputs for images.

    Args:
        graph: The original, see :func:`.graphs.make_graph`.
        exported: The exported model.
        images: Each of shape (N, C, H, W), as they were read.
    """
    difference, wrong, total = 0.0, 0, 0
    for batch in images:
        with torch.no_grad():
            expected = graph(torch.from_numpy(np.asarray(batch, np.float32)))
        found = exported(batch)
        for (name, actual), target in zip(found.items(), expected, strict=True):
            if name == 'labels':
                wrong += int((actual != target.numpy()).sum())
                total += target.numel()
                continue
            largest = max(target.abs().max().item(), torch.finfo(torch.float32).tiny)
            found_here = np.abs(actual - target.numpy()).max() / largest
            difference = float(np.maximum(difference, found_here))  # NaN, if any is
    return Parity(difference, wrong / total if total else None)


def random_images(channels: int) -> list[np.ndarray]:
    """Return images of three sizes, the same every time."""
    generator = np.random.default_rng(0)
    return [
        generator.integers(0, 256, (count, channels, *size)).astype(np.float32)
        for count, *size in SIZES
    ]


def check(parity: Parity) -> None:
    """Refuse an exported model that does not compute what the original does.

    Raises:
        ValueError: An output differs by more than :data:`TOLERANCE`.
    """
    if not parity.difference <= TOLERANCE:
        raise ValueError(
            f'the exported model is not used: its {parity}, and at most {TOLERANCE:.0e} is '
            'expected; another format may be right'
        )
