"""Publish a trained model: its weights, and its config as plain data, without code."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config.loading import load_config
from ..config.plain import plain_config
from ..io.checkpoint import named_tensors, read_checkpoint, write_safetensors
from ..io.files import write_atomically
from ..io.mmengine_patches import read_files_safely

# The entry of mmengine's ``meta`` that inference needs. The other entries describe the machine:
# the config with its paths, the time, the seed.
KEPT = 'dataset_meta'


def publish(checkpoint: str | os.PathLike, folder: str | os.PathLike, ema: bool = False) -> Path:
    """Write the weights of a checkpoint to a safetensors file with its SHA-256 in the name.

    Args:
        checkpoint: A file of any container; the names of its tensors stay as they are.
        folder: The folder to write to; created if it does not exist.
        ema: Take the averaged weights of a training checkpoint.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The checkpoint cannot be read, would execute code, or holds no weights.
    """
    tensors, meta = read_trained(checkpoint, ema)
    folder, stem = Path(folder), Path(checkpoint).stem
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        draft = Path(temporary, stem)
        write_safetensors(draft, tensors, kept(meta))
        path = folder / f'{stem}-{sha256(draft)}.safetensors'
        os.replace(draft, path)
    return path


def publish_with_config(
    checkpoint: str | os.PathLike,
    config: str | os.PathLike,
    folder: str | os.PathLike,
    ema: bool = False,
) -> tuple[Path, Path]:
    """Publish a checkpoint and, beside it, a JSON file with the config that predictions need.

    Args:
        checkpoint: As in :func:`publish`.
        config: A Python config, which is executed, or one of plain data.
        folder: As in :func:`publish`.
        ema: As in :func:`publish`.

    Returns:
        The paths of the weights and of the config.

    Raises:
        FileNotFoundError: There is no such checkpoint or config.
        ValueError: As in :func:`publish`; or the config cannot be read, or cannot be expressed as
            plain data.
    """
    read_files_safely()
    text = json.dumps(plain_config(load_config(config)), indent=1)
    weights = publish(checkpoint, folder, ema)
    path = weights.with_suffix('.json')
    write_atomically(path, text)
    return weights, path


def read_trained(
    checkpoint: str | os.PathLike, ema: bool = False
) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Return the weights of a checkpoint, and what mmengine keeps beside them.

    Args:
        checkpoint: As in :func:`publish`.
        ema: As in :func:`publish`.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: As in :func:`publish`.
    """
    contents = read_checkpoint(checkpoint, mmap=True)
    tensors = named_tensors(contents, checkpoint, ema)
    meta = contents.get('meta')
    return tensors, meta if isinstance(meta, Mapping) else {}


def kept(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a published file keeps of the entry ``meta`` of a checkpoint."""
    return {KEPT: meta[KEPT]} if KEPT in meta else {}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
