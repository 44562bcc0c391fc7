"""What a training on this machine can hold: GPUs, memory, batch size."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..inference.predictor import available_memory
from ..models.variants import VARIANTS, Variant

GIB = 2**30
# Bytes that training ConvNeXt-T keeps per pixel of the input in fp32, measured at 512 x 512, and
# twice that with neck and heads.
TINY_BYTES, WITH_HEADS = 2224, 2
# The share of the memory that is planned with: weights, optimizer and data take the rest.
PLANNED = 0.5
# Images per step: the authors' 16 at most, and two at least, without which batch norms fail.
LEAST, MOST, MOST_ON_CPU = 2, 16, 4


@dataclass(frozen=True)
class Machine:
    """A machine to train on.

    Attributes:
        gpu: Whether it has a GPU that torch can use.
        memory: Bytes of the smallest GPU, or the free ones of a machine without.
    """

    gpu: bool
    memory: float

    def batch_size(self, variant: Variant, pixels: int) -> tuple[int, str]:
        """Return the images per step, and the reason.

        Args:
            variant: Sizes of the backbone.
            pixels: Of an image as it is trained on.
        """
        tiny = VARIANTS['tiny']
        bytes_per_pixel = WITH_HEADS * TINY_BYTES * _activations(variant) / _activations(tiny)
        fitting = int(PLANNED * self.memory / (bytes_per_pixel * pixels))
        number = max(LEAST, min(MOST if self.gpu else MOST_ON_CPU, fitting))
        if not self.gpu:
            return number, 'no GPU here: few images per step, many steps'
        return number, f'for the {self.memory / GIB:.0f} GiB of a GPU here'


def this_machine() -> Machine:
    """Return the machine of this process."""
    if not torch.cuda.is_available():
        return Machine(False, available_memory())
    sizes = (
        torch.cuda.get_device_properties(index).total_memory
        for index in range(torch.cuda.device_count())
    )
    return Machine(True, min(sizes))


def _activations(variant: Variant) -> float:
    """Return the activations of the blocks per pixel, relative to those of another variant."""
    stages = enumerate(zip(variant.depths, variant.dims, strict=True))
    return sum(depth * dim / 4**i for i, (depth, dim) in stages)
