"""Convert checkpoints between layouts."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..io.checkpoint import write_safetensors
from ..models.variants import NORM_EPS, VARIANTS
from .keras_writing import write_keras
from .layouts import EXPORTS, KERAS, MMPRETRAIN, OFFICIAL, TIMM, TIMM_HNF, Layout
from .matching import only_network
from .names import Recognized, export, export_heads, in_our_shape, sizes, variant_name
from .reading import read_contents
from .zoo import weights_file


def convert(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    to: str,
    drop: bool = False,
    ema: bool = False,
    prefix: str | None = None,
) -> str:
    """Write ``source`` to ``destination`` in another layout.

    Args:
        source: The name of published weights, a file or a URL.
        destination: The file to write.
        to: A name of :data:`~convnext_backbones.weights.layouts.EXPORTS`.
        drop: Skip tensors that the layout has no place for; they are an error otherwise.
        ema: Take the averaged weights of a training checkpoint.
        prefix: The network to take from a file with several.

    Returns:
        A summary in words.

    Raises:
        FileNotFoundError: There is no such name or file.
        ValueError: The file cannot be read, holds no ConvNeXt, holds tensors that the layout has no
            place for, or is of a classifier that computes something else there.
    """
    path = weights_file(source)
    contents = read_contents(path, ema)
    tensors = contents.tensors
    found = only_network(tensors, str(path), prefix)
    # Sorted, so that the result depends on the weights only, not on their order in the file.
    network = {
        name: in_our_shape(name, tensors[found.names[name]])
        for name in sorted(found.names, key=_by_number)
    }
    layout = EXPORTS[to]
    _check_final_norm(found, layout)
    _check_epsilon(network, layout)
    heads = _their_heads(found.others, layout)
    converted, homeless = export(network, layout, inside=bool(heads))
    converted |= {name: tensors[key] for name, key in heads.items()}

    skipped = [found.names[name] for name in homeless]
    skipped += found.unknown + found.outside
    if not heads:
        skipped += found.others.values()
    if skipped and not drop:
        raise ValueError(
            f'expected only tensors that the layout {to} has a place for, got {len(skipped)} '
            f'others in {str(path)!r}, such as {skipped[0]}; --drop skips them'
        )
    has_meta = bool(heads) and layout in (OFFICIAL, MMPRETRAIN)
    _write(Path(destination), converted, layout, contents.meta if has_meta else None)
    renamed = ', its norm3 as the norm of the classifier' if found.renamed_norm else ''
    return (
        f'{path} ({contents.form or found.layout.name}{renamed}) -> {destination} ({to}): '
        f'{len(converted)} tensors, {len(skipped)} skipped'
    )


def _check_final_norm(found: Recognized, layout: Layout) -> None:
    """Refuse a classifier of timm whose final norm would be on the other side of the pooling.

    Raises:
        ValueError: It would.
    """
    if found.layout is not TIMM or layout is OFFICIAL or 'head.weight' not in found.names:
        return
    if found.norm_before_pooling != (layout is TIMM_HNF):
        here, there = ('before', 'after') if found.norm_before_pooling else ('after', 'before')
        fitting = TIMM_HNF.name if found.norm_before_pooling else TIMM.name
        raise ValueError(
            f'expected a classifier with its final norm {there} the pooling, which the layout '
            f'{layout.name} has, got one with it {here}; convert it to {OFFICIAL.name} or {fitting}'
        )


def _check_epsilon(network: Mapping[str, Tensor], layout: Layout) -> None:
    """Refuse networks of another epsilon for projects that would compute with their own.

    Raises:
        ValueError: The network is of such a variant.
    """
    name = variant_name(*sizes(network))
    if name is None or VARIANTS[name].norm_eps == NORM_EPS or layout in (OFFICIAL, TIMM):
        return
    raise ValueError(
        f'expected a network with norms of epsilon {NORM_EPS}, which the project of the layout '
        f'{layout.name} builds, got the sizes of {name}, whose epsilon is '
        f'{VARIANTS[name].norm_eps}; convert it to {OFFICIAL.name} or {TIMM.name}'
    )


def _their_heads(others: Mapping[str, str], layout: Layout) -> dict[str, str]:
    """Return the names in ``layout`` of the tensors beside a backbone, and their names in the file.

    OpenMMLab's and the authors' files keep any; transformers has UperNet. None if there is no
    place for them.
    """
    if layout in (OFFICIAL, MMPRETRAIN):
        return dict(others)
    return {theirs: others[ours] for ours, theirs in export_heads(others, layout).items()}


def _by_number(name: str) -> list[str | int]:
    """Return a sorting key that puts block 10 after block 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', name)]


def _write(
    destination: Path, tensors: dict[str, Tensor], layout: Layout, meta: dict | None
) -> None:
    """Write a file of ``layout``, as a whole or not at all."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        draft = Path(folder, destination.name)
        if layout is KERAS:
            write_keras(draft, tensors)
        elif destination.suffix == '.safetensors':
            write_safetensors(draft, tensors, meta)
        else:
            # Given a path, torch.save would store the name of the file in its contents.
            with draft.open('wb') as file:
                torch.save(_contained(tensors, layout, meta), file)
        os.replace(draft, destination)


def _contained(tensors: dict[str, Tensor], layout: Layout, meta: dict | None) -> dict:
    """Return the dict that a file of the layout's project holds."""
    if meta is not None or layout is MMPRETRAIN:
        return {'meta': meta or {}, 'state_dict': tensors}
    return {'model': tensors} if layout is OFFICIAL else tensors
