"""Write a trained checkpoint in the form that others can use: weights only, with a plain config."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..io.checkpoint import named_tensors, read_checkpoint, write_safetensors

# Of what mmengine keeps beside the weights, what inference needs. The rest tells of the machine:
# the config with its paths, the time, the seed.
KEPT = 'dataset_meta'


def publish(checkpoint: str | os.PathLike, folder: str | os.PathLike, ema: bool = False) -> Path:
    """Write the weights of ``checkpoint`` into ``folder`` and return the path of the file.

    Args:
        checkpoint: A file of any container; the names of its tensors stay as they are.
        folder: Created if it does not exist.
        ema: Take the averaged weights of a training checkpoint.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, would execute code, or holds no weights.
    """
    contents = read_checkpoint(checkpoint, mmap=True)
    tensors = named_tensors(contents, checkpoint, ema)
    meta = contents.get('meta')
    kept = {KEPT: meta[KEPT]} if isinstance(meta, Mapping) and KEPT in meta else {}
    folder, stem = Path(folder), Path(checkpoint).stem
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        draft = Path(temporary, stem)
        write_safetensors(draft, tensors, kept)
        path = folder / f'{stem}-{_sha256(draft)}.safetensors'
        os.replace(draft, path)
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
