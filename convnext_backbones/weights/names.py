"""Recognize the layout of a checkpoint, and translate its names to and from ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..models.variants import VARIANTS
from .layouts import (
    DINOV3,
    LAYOUTS,
    META,
    MMPRETRAIN,
    MMPRETRAIN_FINAL_NORM,
    OFFICIAL,
    PARTS,
    TIMM,
    TIMM_NORM_BEFORE_POOLING,
    Layout,
)
from .templates import translate

# Parameters of a classifier that a backbone does not have: the final norm, the head.
CLASSIFIER_PART = re.compile(r'(norm|pre_logits|head)\.')
HEAD_PART = re.compile(r'(pre_logits|head)\.')
OUTPUT_NORM = re.compile(r'norm\d+\.')
GRN = re.compile(r'stages\.\d+\.\d+\.grn\.(gamma|beta)')
# The heads of mmseg's segmentors, and a name that only UperNet's has.
SEGMENTATION_HEAD = re.compile(r'(decode|auxiliary)_head\.')
UPERNET_MARK = 'decode_head.psp_modules.'
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
        discarded: Names in the file with nothing to load, such as a second name of a tensor.
        renamed_norm: Whether ``norm`` was found under the name of the fourth output norm.
        norm_before_pooling: Whether the names say that ``norm`` comes before the pooling, or was
            trained on every position of the last map as well.
    """

    layout: Layout
    prefix: str
    names: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    renamed_norm: bool = False
    norm_before_pooling: bool = False


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
    keys = list(keys)
    if layout is OFFICIAL and any(_is_discarded(META, key, prefix) for key in keys):
        layout = META
    # Meta's names are the authors', and a file may hold more than Meta's do.
    table = OFFICIAL.table if layout is META else layout.table
    found = Recognized(layout, prefix)
    holder = next((name for name in layout.holders if f'.{prefix}'.endswith(f'.{name}')), '')
    root = prefix.removesuffix(holder)
    for key in keys:
        respelled = _respell(layout, key)
        if _is_discarded(layout, key, prefix):
            found.discarded.append(key)
        elif respelled.startswith(prefix):
            name = translate(respelled.removeprefix(prefix), table)
            if name is None or name in found.names:
                found.unknown.append(key)
            else:
                found.names[name] = key
        elif not key.startswith(root):
            found.outside.append(key)
        elif name := translate(key.removeprefix(root), layout.beside):
            found.names[name] = key
        else:
            found.others[_in_mmseg(key.removeprefix(root), layout)] = key
    if layout is MMPRETRAIN and _is_classification(found):
        found.names = {
            name.replace(MMPRETRAIN_FINAL_NORM, 'norm'): key for name, key in found.names.items()
        }
        found.renamed_norm = True
    norm = found.names.get('norm.weight', '')
    found.norm_before_pooling = bool(norm) and (
        layout in (DINOV3, META)
        or (layout is TIMM and norm.removeprefix(prefix).startswith(TIMM_NORM_BEFORE_POOLING))
    )
    return found


def _is_discarded(layout: Layout, key: str, prefix: str) -> bool:
    """Whether the layout has nothing to load under a name of a file."""
    if layout.discarded is None or not key.startswith(prefix):
        return False
    return bool(re.match(layout.discarded, key.removeprefix(prefix)))


def _in_mmseg(name: str, layout: Layout) -> str:
    """Return mmseg's name for a name in the heads of a segmentor; other names as they are."""
    if SEGMENTATION_HEAD.match(name):
        for theirs, ours in layout.heads:
            name = name.replace(theirs, ours)
    return name


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
    """Return our number of axes of a tensor to which some layouts add axes of length one."""
    found = re.fullmatch(r'stages\.\d+\.\d+\.(gamma|grn\.gamma|grn\.beta|pwconv\d\.weight)', name)
    if found is None:
        return None
    return 2 if found[1].startswith('pwconv') else 1


def in_our_shape(name: str, tensor: Tensor) -> Tensor:
    """Return ``tensor`` without the axes of length one that ours does not have.

    They are the last of layer scales and pointwise weights, and the first of GRN.
    """
    dims = our_dims(name)
    if dims is None or tensor.layout != torch.strided:
        return tensor
    axis = 0 if GRN.fullmatch(name) else -1
    while tensor.dim() > dims and tensor.shape[axis] == 1:
        tensor = tensor.squeeze(axis)
    return tensor


def export(
    network: Mapping[str, Tensor], layout: Layout, inside: bool = False
) -> tuple[dict[str, Tensor], list[str]]:
    """Return tensors under the names, and in the shapes, of ``layout``.

    This is the inverse of :func:`recognize`.

    Args:
        network: Tensors under the authors' names, in our shapes: of a classifier, or of a
            backbone.
        layout: The layout to produce.
        inside: Whether the network is the backbone of a detector or segmentor.

    Returns:
        The renamed tensors, and the names of tensors that the layout has no place for.

    Raises:
        ValueError: The project of ``layout`` has no such network, or a file in it would be
            ambiguous to read.
    """
    for part, (pattern, what) in PARTS.items():
        if part not in layout.parts and any(re.match(pattern, name) for name in network):
            raise ValueError(
                f'expected a network that the layout {layout.name} has a place for, got one with '
                f'{what}; the official layout has a place for all'
            )
    norms = {name.partition('.')[0] for name in network if OUTPUT_NORM.match(name)}
    if layout is MMPRETRAIN and norms == {MMPRETRAIN_FINAL_NORM} and not inside:
        raise ValueError(
            f'expected more output norms than the fourth, or none: mmpretrain has the norm of a '
            f'classifier under the same name, {MMPRETRAIN_FINAL_NORM}; keep such a backbone in '
            'the official layout'
        )
    trunk = _trunk_prefix(network, layout, inside)
    as_convolutions = variant_name(*sizes(network)) in layout.convolutions
    exported, homeless = {}, []
    for name, tensor in network.items():
        theirs = their_name(layout, name)
        if theirs is not None:
            theirs = trunk + theirs
        else:
            theirs = translate(name, tuple((ours, theirs) for theirs, ours in layout.beside))
        if theirs is None:
            homeless.append(name)
            continue
        exported[theirs] = _in_their_shape(name, tensor, layout, as_convolutions)
        if layout.second_name and (second := translate(name, (layout.second_name,))):
            exported[second] = exported[theirs]
    return exported, homeless


def _trunk_prefix(network: Iterable[str], layout: Layout, inside: bool) -> str:
    """Return the prefix of the trunk in a file of ``layout``."""
    if inside:
        return 'backbone.'
    if not any(map(CLASSIFIER_PART.match, network)):
        return ''
    is_v2 = any(map(GRN.fullmatch, network))
    return layout.trunk if layout.trunk_v2 is None or not is_v2 else layout.trunk_v2


def _in_their_shape(name: str, tensor: Tensor, layout: Layout, as_convolutions: bool) -> Tensor:
    """Return a tensor with the axes of length one that ``layout`` adds; see :func:`our_dims`."""
    if name.endswith('.gamma') and not GRN.fullmatch(name):
        return tensor.reshape(*tensor.shape, *[1] * layout.gamma_axes)
    if GRN.fullmatch(name):
        return tensor.reshape(*[1] * layout.grn_axes, *tensor.shape)
    if our_dims(name) == 2 and as_convolutions:
        return tensor[..., None, None]
    return tensor


def export_heads(names: Iterable[str], layout: Layout) -> dict[str, str]:
    """Return the names that ``layout`` has for the parts beside the backbone of a segmentor.

    Args:
        names: mmseg's names.
        layout: The layout to produce.

    Returns:
        Their name by mmseg's, of all names; none if the parts are not UperNet's heads or the
        layout has no place for them.
    """
    names = list(names)
    if not layout.heads or not all(map(SEGMENTATION_HEAD.match, names)):
        return {}
    if not any(name.startswith(UPERNET_MARK) for name in names):
        return {}
    renamed = {}
    for name in names:
        renamed[name] = name
        for theirs, ours in layout.heads:
            renamed[name] = renamed[name].replace(ours, theirs)
    return renamed


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
