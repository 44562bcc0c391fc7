"""Names and shapes of the checkpoints that one's own pretraining of ConvNeXt V2 writes.

The masked autoencoder runs on sparse tensors. Its layers keep the kernel of a convolution as one
matrix per position, and wrap norms and linear layers, which shows in the names. The authors publish
the encoder in the ordinary form; a checkpoint of a run of one's own has this one, with a decoder
beside the encoder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from torch import Tensor

KERNEL = re.compile(r'(.*\.)?(stages\.\d+\.\d+\.dwconv|downsample_layers\.\d+\.\d+)\.kernel')
WRAPPED = re.compile(r'(stages\.\d+\.\d+|downsample_layers)\.[\w.]+\.(ln|linear)\.(weight|bias)')
BIAS = re.compile(r'(stages|downsample_layers)\.[\w.]+\.bias')


def is_sparse(names: Iterable[str]) -> bool:
    """Whether the names are those of a network on sparse tensors."""
    return any(map(KERNEL.fullmatch, names))


def to_dense(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of such a checkpoint under the authors' names, in their shapes.

    The prefix of the encoder, and all tensors beside it, stay as they are.

    Args:
        tensors: All tensors of the checkpoint.

    Raises:
        ValueError: A kernel is not square, or is of the wrong rank.
    """
    dense = {}
    for name, tensor in tensors.items():
        if KERNEL.fullmatch(name):
            name, tensor = f'{name.removesuffix("kernel")}weight', _dense_kernel(name, tensor)
        elif WRAPPED.search(name):
            name = re.sub(r'\.(ln|linear)\.(weight|bias)$', r'.\2', name)
        if BIAS.search(name) and tensor.dim() == 2 and tensor.shape[0] == 1:
            tensor = tensor[0]
        dense[name] = tensor
    return dense


def _dense_kernel(name: str, kernel: Tensor) -> Tensor:
    """Return the weight of a convolution, (out, in, k, k), from its sparse form.

    That is (k * k, in, out), or (k * k, C) of a depthwise convolution, whose positions run down
    the columns.
    """
    size = math.isqrt(kernel.shape[0]) if kernel.dim() in (2, 3) else 0
    if size == 0 or size**2 != kernel.shape[0]:
        raise ValueError(
            f'expected the kernel {name!r} of shape (k * k, in, out) or (k * k, C), got '
            f'{tuple(kernel.shape)}; the checkpoint is not of the pretraining of ConvNeXt V2'
        )
    if kernel.dim() == 2:
        kernel = kernel[:, None]  # (k * k, C) -> (k * k, 1, C)
    weight = kernel.permute(2, 1, 0)  # (k * k, in, out) -> (out, in, k * k)
    return weight.unflatten(2, (size, size)).transpose(2, 3)
