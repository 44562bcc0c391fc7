"""Recognize the layout of a checkpoint, and translate its names to and from ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..models.variants import VARIANTS
from .layouts import LAYOUTS, MMPRETRAIN, MMPRETRAIN_FINAL_NORM, Layout
from .templates import translate

# The modules that hold a ConvNeXt inside a classifier, a detector or a segmentor.
TRUNK_PREFIXES = ('backbone.', 'convnext.')
# Parameters of a classifier that a backbone does not have: the norm after pooling, the head.
CLASSIFIER_PART = re.compile(r'(norm|head)\.')
OUTPUT_NORM = re.compile(r'norm\d+\.')
# A tensor that every ConvNeXt has; its name identifies the layout.
MARK = 'stages.0.0.dwconv.weight'


@dataclass
class Recognized:
    """The names in a file, sorted by their meaning.

    Attributes:
        layout: The layout of the file.
        prefix: The prefix of the names of the trunk.
        names: The authors' name of a tensor -> its name in the file: the tensors of the trunk,
            ``norm{i}`` per output, and a classifier's ``norm`` and ``head``.
        others: Tensors beside the trunk, such as those of necks and heads: name from the root of
            the network -> name in the file.
        outside: Names in the file that belong to other networks.
        unknown: Names in the file, inside the trunk, that no line of the table matches.
        renamed_norm: Whether ``norm`` was found under the name of the fourth output norm.
    """

    layout: Layout
    prefix: str
    names: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    renamed_norm: bool = False


def find_networks(keys: Iterable[str]) -> list[tuple[Layout, str]]:
    """Return the layout and the prefix of every ConvNeXt among ``keys``, in their order."""
    marks = [(layout, mark) for layout in LAYOUTS.values() if (mark := their_name(layout, MARK))]
    return [
        (layout, key.removesuffix(mark))
        for key, layout, mark in (
            (_respell(layout, key), layout, mark) for key in keys for layout, mark in marks
        )
        if key == mark or key.endswith(f'.{mark}')
    ]


def recognize(keys: Iterable[str], layout: Layout, prefix: str) -> Recognized:
    """Sort the names of a file by their meaning.

    Args:
        keys: The names.
        layout: As :func:`find_networks` found it.
        prefix: As :func:`find_networks` found it.
    """
    found = Recognized(layout, prefix)
    trunk = next((trunk for trunk in TRUNK_PREFIXES if f'.{prefix}'.endswith(f'.{trunk}')), '')
    root = prefix.removesuffix(trunk)
    for key in keys:
        respelled = _respell(layout, key)
        if respelled.startswith(prefix):
            name = our_name(layout, respelled.removeprefix(prefix))
            if name is None or name in found.names:
                found.unknown.append(key)
            else:
                found.names[name] = key
        elif not key.startswith(root):
            found.outside.append(key)
        elif head := _name_in_head(layout, key.removeprefix(root)):
            found.names[head] = key
        else:
            found.others[key.removeprefix(root)] = key
    if layout is MMPRETRAIN and _is_classification(found):
        found.names = {
            name.replace(MMPRETRAIN_FINAL_NORM, 'norm'): key for name, key in found.names.items()
        }
        found.renamed_norm = True
    return found


def _name_in_head(layout: Layout, name: str) -> str | None:
    """Return the authors' name for a name in a classifier's head outside of the trunk, or None."""
    return translate(name, ((layout.head, 'head.{p}'),)) if layout.head else None


def _is_classification(found: Recognized) -> bool:
    """Whether the only output norm of an mmpretrain file is the norm after pooling.

    A detector's backbone may have the fourth output norm only, but has a neck or heads beside it.
    """
    norms = {name.partition('.')[0] for name in found.names if OUTPUT_NORM.match(name)}
    return norms == {MMPRETRAIN_FINAL_NORM} and not found.others


def our_name(layout: Layout, name: str) -> str | None:
    """Return the authors' name for ``name`` in the trunk of a ``layout``; None if it has none."""
    return translate(name, layout.table)


def their_name(layout: Layout, name: str) -> str | None:
    """Return the name of the authors' ``name`` in the trunk of ``layout``; None if it has none."""
    return translate(name, tuple((ours, theirs) for theirs, ours in layout.table))


def our_dims(name: str) -> int | None:
    """Return our number of axes of a tensor to which some layouts append axes of length one."""
    found = re.fullmatch(r'stages\.\d+\.\d+\.(gamma|pwconv\d\.weight)', name)
    if found is None:
        return None
    return 1 if found[1] == 'gamma' else 2


def in_our_shape(name: str, tensor: Tensor) -> Tensor:
    """Return ``tensor`` without the trailing axes of length one that ours does not have."""
    dims = our_dims(name)
    if dims is None or tensor.layout != torch.strided:
        return tensor
    while tensor.dim() > dims and tensor.shape[-1] == 1:
        tensor = tensor.squeeze(-1)
    return tensor


def export(
    network: Mapping[str, Tensor], layout: Layout, inside: bool = False
) -> tuple[dict[str, Tensor], list[str]]:
    """Return tensors under the names, and in the shapes, of ``layout``.

    This is the inverse of :func:`recognize`.

    Args:
        network: Tensors under the authors' names: of a classifier, or of a backbone.
        layout: The layout to produce.
        inside: Whether the network is the backbone of a detector or segmentor.

    Returns:
        The renamed tensors, and the names of tensors that the layout has no place for.

    Raises:
        ValueError: A file in ``layout`` would be ambiguous to read.
    """
    norms = {name.partition('.')[0] for name in network if OUTPUT_NORM.match(name)}
    if layout is MMPRETRAIN and norms == {MMPRETRAIN_FINAL_NORM} and not inside:
        raise ValueError(
            f'expected more output norms than the fourth, or none: mmpretrain has the norm of a '
            f'classifier under the same name, {MMPRETRAIN_FINAL_NORM}; keep such a backbone in '
            'the official layout'
        )
    trunk = layout.trunk if any(map(CLASSIFIER_PART.match, network)) else ''
    if inside:
        trunk = 'backbone.'
    as_convolutions = variant_name(*sizes(network)) in layout.convolutions
    exported, homeless = {}, []
    for name, tensor in network.items():
        theirs = their_name(layout, name)
        if theirs is not None:
            theirs = trunk + theirs
        elif layout.head:
            theirs = translate(name, (('head.{p}', layout.head),))
        if theirs is None:
            homeless.append(name)
            continue
        if name.endswith('.gamma'):
            tensor = tensor.reshape(*tensor.shape, *[1] * layout.gamma_axes)
        elif our_dims(name) == 2 and as_convolutions:
            tensor = tensor[..., None, None]
        exported[theirs] = tensor
    return exported, homeless


def sizes(state: Mapping[str, Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return depths and dims of a network, read from its depthwise convolutions.

    Args:
        state: Tensors under the authors' names.
    """
    blocks = [re.fullmatch(r'stages\.(\d+)\.(\d+)\.dwconv\.bias', name) for name in state]
    depths: dict[int, int] = {}
    dims: dict[int, int] = {}
    for block in filter(None, blocks):
        stage = int(block[1])
        depths[stage] = max(depths.get(stage, 0), int(block[2]) + 1)
        dims[stage] = state[block[0]].numel()
    return tuple(depths[i] for i in sorted(depths)), tuple(dims[i] for i in sorted(dims))


def variant_name(depths: tuple[int, ...], dims: tuple[int, ...]) -> str | None:
    """Return the name of the variant with these sizes; None if there is none."""
    sizes_of = ((name, (variant.depths, variant.dims)) for name, variant in VARIANTS.items())
    return next((name for name, known in sizes_of if known == (depths, dims)), None)


def _respell(layout: Layout, key: str) -> str:
    """Apply the respellings of ``layout`` to a name in a file."""
    for pattern, replacement in layout.respellings:
        key = re.sub(pattern, replacement, key)
    return key
