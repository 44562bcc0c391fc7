"""Convert checkpoints between layouts."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from ..io.checkpoint import named_tensors, read_checkpoint, write_safetensors
from .layouts import LAYOUTS, MMPRETRAIN, OFFICIAL, Layout
from .matching import only_network
from .names import export, in_our_shape
from .zoo import weights_file


def convert(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    to: str,
    drop: bool = False,
    ema: bool = False,
    prefix: str | None = None,
) -> str:
    """Write ``source`` to ``destination`` in another layout, and say in words what was done.

    Args:
        source: The name of published weights, a file or a URL.
        destination: The file to write.
        to: A name of :data:`~convnext_backbones.layouts.LAYOUTS`.
        drop: Leave out what the layout has no place for, which is an error otherwise.
        ema: Take the averaged weights of a training checkpoint.
        prefix: Which network to take from a file with several.

    Raises:
        FileNotFoundError: There is no such name or file.
        ValueError: The file cannot be read, holds no ConvNeXt, or more than the layout can hold.
    """
    path = weights_file(source)
    checkpoint = read_checkpoint(path, mmap=True)
    tensors = named_tensors(checkpoint, path, ema)
    found = only_network(tensors, str(path), prefix)
    layout = LAYOUTS[to]
    # In one order, whatever the order in the file: what comes out depends on the weights alone.
    network = {
        name: in_our_shape(name, tensors[found.names[name]])
        for name in sorted(found.names, key=_by_number)
    }
    others = found.others if layout in (OFFICIAL, MMPRETRAIN) else {}
    converted, homeless = export(network, layout, inside=bool(others))
    converted |= {name: tensors[key] for name, key in others.items()}

    left = [found.names[name] for name in homeless] + found.unknown + found.outside
    if not others:
        left += found.others.values()
    if left and not drop:
        raise ValueError(
            f'expected only tensors that the layout {to} has a place for, got {len(left)} others '
            f'in {str(path)!r}, such as {left[0]}; --drop leaves them out'
        )
    meta = checkpoint.get('meta') or {} if others else None
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        draft = Path(folder, destination.name)
        if destination.suffix == '.safetensors':
            write_safetensors(draft, converted, meta)
        else:
            # Through an open file, as the name of the file would become a part of its contents.
            with draft.open('wb') as file:
                torch.save(_contained(converted, layout, meta), file)
        os.replace(draft, destination)
    renamed = ', its norm3 as the norm of the classifier' if found.renamed_norm else ''
    return (
        f'{path} ({found.layout.name}{renamed}) -> {destination} ({to}): {len(converted)} tensors, '
        f'{len(left)} left out'
    )


def _by_number(name: str) -> list[str | int]:
    """A sorting key that puts block 10 behind block 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', name)]


def _contained(tensors: dict[str, Tensor], layout: Layout, meta: dict | None) -> dict:
    """The dict that each project's files are."""
    if meta is not None or layout is MMPRETRAIN:
        return {'meta': meta or {}, 'state_dict': tensors}
    return {'model': tensors} if layout is OFFICIAL else tensors
