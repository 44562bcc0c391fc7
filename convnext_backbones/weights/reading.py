"""Read the tensors of a file of weights, whatever wrote it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..io.checkpoint import named_tensors, read_checkpoint
from .keras_files import is_keras_file, read_keras
from .sparse import is_sparse, to_dense


@dataclass(frozen=True)
class Contents:
    """What a file of weights holds.

    Attributes:
        tensors: The tensors by name, each in the shape that a layout has for it.
        form: ``keras`` or ``sparse`` if they had other shapes in the file and are now under the
            authors' names; None if they are as in the file.
        meta: What mmengine keeps beside the weights.
    """

    tensors: dict[str, Tensor]
    form: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def read_contents(path: str | os.PathLike, ema: bool = False) -> Contents:
    """Return the tensors of a file of weights.

    Args:
        path: The file. It must not change while the tensors are alive: they are mapped to it.
        ema: Take the averaged weights of a training checkpoint.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, would execute code, or holds no (averaged) weights.
    """
    if is_keras_file(path):
        if ema:
            raise ValueError(
                f'expected a training checkpoint with averaged weights, got the Keras file '
                f'{os.fspath(path)!r}; leave ema=True out'
            )
        return Contents(read_keras(path), 'keras')
    checkpoint = read_checkpoint(path, mmap=True)
    tensors = named_tensors(checkpoint, path, ema)
    meta = checkpoint.get('meta')
    if not isinstance(meta, dict):  # some tensor of this name
        meta = {}
    if is_sparse(tensors):
        return Contents(to_dense(tensors), 'sparse', meta)
    return Contents(tensors, meta=meta)
