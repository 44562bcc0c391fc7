"""Recognize a checkpoint's layout and translate names between layouts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from ..models.variants import VARIANTS
from .layouts import LAYOUTS, MMPRETRAIN, MMPRETRAIN_FINAL_NORM, Layout

FIELD = re.compile(r'\{(?:(\d+)\*)?([a-z])(?:\+(\d+))?\}')
# The modules that hold a ConvNeXt inside a classifier, a detector or a segmentor.
TRUNK_PREFIXES = ('backbone.', 'convnext.')
# Parameters of a classifier that a backbone has no use for: the norm after pooling, the head.
CLASSIFIER_PART = re.compile(r'(norm|head)\.')
OUTPUT_NORM = re.compile(r'norm\d+\.')
# A block that every ConvNeXt has; its name gives a layout away.
MARK = 'stages.0.0.dwconv.weight'


@dataclass
class Recognized:
    """The names of a file, sorted by what they mean.

    Attributes:
        layout: Whose names they are.
        prefix: What precedes the names of the trunk.
        names: The authors' name of a tensor -> its name in the file. The tensors of the trunk,
            ``norm{i}`` per output and a classifier's ``norm`` and ``head``.
        others: What lies beside the trunk, such as necks and heads: name counted from the root of
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
    """The layout and the prefix of every ConvNeXt among ``keys``, in the order of the file."""
    marks = [(layout, mark) for layout in LAYOUTS.values() if (mark := their_name(layout, MARK))]
    return [
        (layout, key.removesuffix(mark))
        for key, layout, mark in (
            (_respell(layout, key), layout, mark) for key in keys for layout, mark in marks
        )
        if key == mark or key.endswith(f'.{mark}')
    ]


def recognize(keys: Iterable[str], layout: Layout, prefix: str) -> Recognized:
    """Sort the names of a file, given what :func:`find_networks` found in it."""
    found = Recognized(layout, prefix)
    trunk = next((trunk for trunk in TRUNK_PREFIXES if f'.{prefix}'.endswith(f'.{trunk}')), '')
    root = prefix.removesuffix(trunk)
    for key in keys:
        respelt = _respell(layout, key)
        if respelt.startswith(prefix):
            name = our_name(layout, respelt.removeprefix(prefix))
            if name is None or name in found.names:
                found.unknown.append(key)
            else:
                found.names[name] = key
        elif key.startswith(root):
            inside = key.removeprefix(root)
            head = _translate(inside, ((layout.head, 'head.{p}'),)) if layout.head else None
            if head is None:
                found.others[inside] = key
            else:
                found.names[head] = key
        else:
            found.outside.append(key)
    if layout is MMPRETRAIN and _is_classification(found):
        found.names = {
            name.replace(MMPRETRAIN_FINAL_NORM, 'norm'): key for name, key in found.names.items()
        }
        found.renamed_norm = True
    return found


def _is_classification(found: Recognized) -> bool:
    """Whether the only output norm of an mmpretrain file is the one after pooling.

    A detector's backbone may have the fourth output norm alone, but has a neck or heads beside it.
    """
    norms = {name.partition('.')[0] for name in found.names if OUTPUT_NORM.match(name)}
    return norms == {MMPRETRAIN_FINAL_NORM} and not found.others


def our_name(layout: Layout, name: str) -> str | None:
    """The authors' name for ``name`` in the trunk of a ``layout``; None if it has none."""
    return _translate(name, layout.table)


def their_name(layout: Layout, name: str) -> str | None:
    """What ``layout`` calls the authors' ``name``, in its trunk; None if it has no place for it."""
    return _translate(name, tuple((ours, theirs) for theirs, ours in layout.table))


def our_dims(name: str) -> int | None:
    """Number of axes of a tensor that some layouts keep with axes of length one behind."""
    found = re.fullmatch(r'stages\.\d+\.\d+\.(gamma|pwconv\d\.weight)', name)
    return found and (1 if found[1] == 'gamma' else 2)


def in_our_shape(name: str, tensor: Tensor) -> Tensor:
    """``tensor`` without the trailing axes of length one that ours does not have."""
    dims = our_dims(name)
    if dims is None or tensor.layout != torch.strided:
        return tensor
    while tensor.dim() > dims and tensor.shape[-1] == 1:
        tensor = tensor.squeeze(-1)
    return tensor


def export(
    network: Mapping[str, Tensor], layout: Layout, inside: bool = False
) -> tuple[dict[str, Tensor], list[str]]:
    """Give tensors the names and shapes of ``layout``; the inverse of :func:`recognize`.

    Args:
        network: Tensors under the authors' names: of a classifier, or of a backbone.
        layout: The layout to produce.
        inside: Whether the network is the backbone of a detector or segmentor.

    Returns:
        The renamed tensors, and the names of those that the layout has no place for.

    Raises:
        ValueError: What ``layout`` would make of them could not be told apart when read.
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
            theirs = _translate(name, (('head.{p}', layout.head),))
        if theirs is None:
            homeless.append(name)
            continue
        if name.endswith('.gamma'):
            tensor = tensor[(..., *[None] * layout.gamma_axes)]
        elif our_dims(name) == 2 and as_convolutions:
            tensor = tensor[..., None, None]
        exported[theirs] = tensor
    return exported, homeless


def sizes(state: Mapping[str, Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Depths and dims of a network, from its depthwise convolutions under the authors' names."""
    blocks = [re.fullmatch(r'stages\.(\d+)\.(\d+)\.dwconv\.bias', name) for name in state]
    depths: dict[int, int] = {}
    dims: dict[int, int] = {}
    for block in filter(None, blocks):
        stage = int(block[1])
        depths[stage] = max(depths.get(stage, 0), int(block[2]) + 1)
        dims[stage] = state[block[0]].numel()
    return tuple(depths[i] for i in sorted(depths)), tuple(dims[i] for i in sorted(dims))


def variant_name(depths: tuple[int, ...], dims: tuple[int, ...]) -> str | None:
    """The name of a size; None if it has none."""
    sizes_of = ((name, (variant.depths, variant.dims)) for name, variant in VARIANTS.items())
    return next((name for name, known in sizes_of if known == (depths, dims)), None)


def _respell(layout: Layout, key: str) -> str:
    for pattern, replacement in layout.respell:
        key = re.sub(pattern, replacement, key)
    return key


def _translate(name: str, pairs: tuple[tuple[str, str], ...]) -> str | None:
    for source, target in pairs:
        values = _parse(source)(name)
        if values is not None:
            return _fill(target, values)
    return None


@cache
def _parse(template: str) -> Callable[[str], dict[str, str | int] | None]:
    """A function that reads the fields of ``template`` out of a name; None if it does not fit."""
    pattern, fields, end = '', [], 0
    for match in FIELD.finditer(template):
        pattern += re.escape(template[end : match.start()])
        pattern += '(weight|bias)' if match[2] == 'p' else r'(\d+)'
        fields.append((match[2], int(match[1] or 1), int(match[3] or 0)))
        end = match.end()
    compiled = re.compile(pattern + re.escape(template[end:]))

    def read(name: str) -> dict[str, str | int] | None:
        found = compiled.fullmatch(name)
        if found is None:
            return None
        values: dict[str, str | int] = {}
        for (letter, factor, offset), text in zip(fields, found.groups(), strict=True):
            if letter == 'p':
                values[letter] = text
                continue
            number, remainder = divmod(int(text) - offset, factor)
            if remainder or number < 0:
                return None
            values[letter] = number
        return values

    return read


def _fill(template: str, values: Mapping[str, str | int]) -> str:
    def value(match: re.Match) -> str:
        if match[2] == 'p':
            return str(values['p'])
        return str(int(match[1] or 1) * values[match[2]] + int(match[3] or 0))

    return FIELD.sub(value, template)
