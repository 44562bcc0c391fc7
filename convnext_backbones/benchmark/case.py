"""One computation that all contenders of a race perform, with the weights and input they share."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

OUTPUTS = (0, 1, 2, 3)
WEIGHTS, INPUT, REFERENCE = 'weights.safetensors', 'input.safetensors', 'reference.safetensors'
State = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """What all contenders of a race compute.

    Attributes:
        arch: A name of our variants, or a dict of depths and dims; of a whole model, that of its
            backbone.
        shape: Height and width of the images.
        batch: Number of images; a whole model takes one.
        training: Forward, the sum of squares of all maps as the loss, and backward; there is no
            optimizer and no stochastic depth.
        threads: Of each contender.
        config: Of a detector or a segmentor, for a whole model in place of a backbone.
    """

    arch: str | Mapping
    shape: tuple[int, int]
    batch: int = 1
    training: bool = False
    threads: int = 1
    config: str | None = None


def randomize(module: nn.Module) -> nn.Module:
    """Draw all parameters so that activations keep their scale and nothing is zero or one."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            bound = math.sqrt(3 / parameter[0].numel())
            low, high = -bound, bound
        else:
            low, high = (-0.2, 0.2) if name.endswith('bias') else (0.8, 1.2)
        with torch.no_grad():
            parameter.uniform_(low, high, generator=generator)
    return module


def largest_difference(outputs: Sequence[Any], folder: Path) -> float:
    """From the outputs of the plain form, as a fraction of the largest value of each."""
    reference = load_file(folder / REFERENCE)
    differences = []
    for i, output in enumerate(outputs):
        expected, found = reference[str(i)], torch.as_tensor(output).float()
        if found.shape != expected.shape:
            raise ValueError(
                f'expected output {i} to be of shape {tuple(expected.shape)}, got '
                f'{tuple(found.shape)}'
            )
        differences.append(((found - expected).abs().max() / expected.abs().max()).item())
    if len(differences) != len(reference):
        raise ValueError(f'expected {len(reference)} outputs, got {len(differences)}')
    return max(differences)


def saved_bytes(forward: Callable[[], Any], kept: Sequence[Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once.

    Args:
        forward: The forward pass.
        kept: Tensors that are there anyway, parameters and input, and do not count.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in kept}
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = forward()
    del outputs  # until here it held what was saved, so that no storage took another's place
    return sum(sizes.values())


@contextlib.contextmanager
def prepared_folder():
    """A temporary folder for :func:`prepare`."""
    with tempfile.TemporaryDirectory(prefix='convnext_benchmark_') as folder:
        yield Path(folder)
