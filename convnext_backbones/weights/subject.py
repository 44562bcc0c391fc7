"""Weights to compare with the implementation that they come from, and how outputs are compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..models.convnext import ConvNeXt, ConvNeXtClassifier
from .published import PublishedWeights

MAP, FEATURES, LOGITS = 'last map', 'pooled features', 'logits'


class Picture(NamedTuple):
    """One image.

    Attributes:
        pixels: R, G and B, 0 to 255, of shape (1, H, W, 3).
        normalized: The same as a network takes it, of shape (1, 3, H, W).
    """

    pixels: Tensor
    normalized: Tensor


@dataclass(frozen=True)
class Subject:
    """Weights to compare, and our model that holds them.

    Attributes:
        path: The file.
        layout: Its layout, or ``keras`` or ``sparse``.
        prefix: The prefix of its names of the trunk.
        options: The keywords of our classifier for it.
        model: Our model: a backbone if the file has no final norm.
        convolutions: Whether its pointwise layers are 1x1 convolutions.
        whole: Whether the file has a whole detector, segmentor or other model around the network.
        published: What is known of it.
    """

    path: Path
    layout: str
    prefix: str
    options: Mapping[str, Any]
    model: ConvNeXt | ConvNeXtClassifier
    convolutions: bool = False
    whole: bool = False
    published: PublishedWeights | None = None

    @property
    def classes(self) -> int:
        """Outputs of the head; 0 if there is none."""
        return self.options['num_classes']

    @property
    def has_norm(self) -> bool:
        """Whether the file has a final norm."""
        return isinstance(self.model, ConvNeXtClassifier)

    @property
    def has_scale(self) -> bool:
        """Whether its blocks have a layer scale."""
        return 'stages.0.0.gamma' in self.model.state_dict()

    @property
    def output(self) -> str:
        """What the output of a network with a final norm is."""
        return LOGITS if self.classes else FEATURES

    def without(self, *prefixes: str) -> tuple[str, ...]:
        """Return the names that the file may lack: of the final norm, if it has none."""
        return () if self.has_norm else prefixes


class Outputs(NamedTuple):
    """What a network computes from the picture.

    Attributes:
        tensors: By what they are.
        notes: Sentences on how the network is usually built, if that is another way.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference as a fraction of the largest value of ``b``.

    Raises:
        ValueError: The shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(
            f'expected outputs of one shape, got {tuple(a.shape)} and {tuple(b.shape)}'
        )
    return float((a - b).abs().max() / b.abs().max())


@contextmanager
def last_output(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a module of a network computes."""
    found: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()


def run(network: nn.Module, last: nn.Module, subject: Subject, picture: Picture) -> Outputs:
    """Run a network whose module ``last`` gives the last map."""
    network.float().eval()
    with torch.inference_mode(), last_output(last) as maps:
        output = network(picture.normalized)
    return Outputs({MAP: maps[0]} | ({subject.output: output} if subject.has_norm else {}))


def refuse(missing: Iterable[str], unexpected: Iterable[str], allowed: tuple[str, ...]) -> None:
    """Raise if a project did not find what it needs in a file, or found more.

    Args:
        missing: Names of the project that the file lacks.
        unexpected: Names of the file that the project lacks.
        allowed: Beginnings of names that may be missing.

    Raises:
        ValueError: There are other names.
    """
    lacking = [name for name in missing if not name.startswith(allowed)]
    for names, what in ((lacking, 'misses'), (list(unexpected), 'does not know')):
        if names:
            raise ValueError(f'it {what} {len(names)} tensors, such as {names[0]}')
