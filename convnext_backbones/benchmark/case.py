"""Define what all contenders of a race compute: the case, its weights and its input."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """The computation that all contenders of a race perform.

    Attributes:
        arch: Name of one of our variants, or a dict of depths and dims; for a whole model, that
            of its backbone.
        shape: Height and width of the images.
        batch: Number of images; 1 for a whole model.
        training: Forward pass, the sum of squares of all maps as the loss, and backward pass;
            without optimizer and stochastic depth.
        threads: Number of threads of each contender.
        config: Config of a detector or segmentor, to time a whole model instead of a backbone.
        use_grn: Whether the backbone is a ConvNeXt V2; with a config, the config says it.
        from_file: Whether the time of a whole model includes reading the image from a JPEG file,
            decoding it, and the transforms of the test data.
    """

    arch: str | Mapping
    shape: tuple[int, int]
    batch: int = 1
    training: bool = False
    threads: int = 1
    config: str | None = None
    use_grn: bool = False
    from_file: bool = False


@torch.no_grad()
def randomize(module: nn.Module, layer_scale: tuple[float, float] = (0.8, 1.2)) -> nn.Module:
    """Draw all parameters at random, in place, the same way every time.

    Weights have a variance of 1 / fan-in, so that activations keep their scale. Norms, biases,
    layer scale and GRN are drawn too, so that none is zero or one.

    Args:
        module: The module.
        layer_scale: Range of the parameters named ``gamma``, except those of GRN.

    Returns:
        ``module``.
    """
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            bound = math.sqrt(3 / parameter[0].numel())
            low, high = -bound, bound
        elif '.grn.' in name:
            low, high = -0.5, 0.5
        elif name.endswith('bias'):
            low, high = -0.2, 0.2
        elif name.endswith('gamma'):
            low, high = layer_scale
        else:
            low, high = 0.8, 1.2
        parameter.uniform_(low, high, generator=generator)
    return module


def largest_difference(outputs: Sequence[Any], folder: Path) -> float:
    """Compare outputs with those of the plain form.

    Args:
        outputs: Outputs of a contender.
        folder: Folder with the reference, see :func:`.contenders.prepare`.

    Returns:
        The largest difference, as a fraction of the largest value of the same output.

    Raises:
        ValueError: The number of outputs or a shape differs.
    """
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
    """Return how many bytes a forward pass keeps for the backward pass, each storage once.

    Args:
        forward: The forward pass.
        kept: Tensors that exist anyway, parameters and input; they do not count.
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
    del outputs  # kept the saved tensors alive, so that no address was used twice
    return sum(sizes.values())


def is_v2(state: State) -> bool:
    """Whether the weights of a backbone are those of a ConvNeXt V2."""
    return 'stages.0.0.grn.gamma' in state


@contextlib.contextmanager
def prepared_folder() -> Iterator[Path]:
    """Create a temporary folder for :func:`.contenders.prepare`."""
    with tempfile.TemporaryDirectory(prefix='convnext_benchmark_') as folder:
        yield Path(folder)
