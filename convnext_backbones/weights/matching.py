"""Match the tensors of a file to the parameters of a model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from ..io.wording import first_names
from ..models.convnext import ConvNeXt, ConvNeXtClassifier
from .explain import (
    Comparison,
    difference_in_size,
    find_surprises,
    foreign_networks,
    write_notes,
)
from .layouts import LAYOUTS, TIMM
from .names import (
    CLASSIFIER_PART,
    OUTPUT_NORM,
    Recognized,
    find_networks,
    in_our_shape,
    recognize,
)
from .options import STEM
from .report import BACKBONE, LoadReport
from .rows import PublishedWeights

# The parameters of a norm.
NORM_PARAMETERS = ('weight', 'bias')
NO_BIAS = 'the projection of the file has no bias: head.bias is zero'
OTHER_ARCHITECTURE = 'it is probably of another architecture'


def match_weights(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str | os.PathLike,
    prefix: str | None = None,
    published: PublishedWeights | None = None,
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Find the place of every tensor of a file in ``model``, without changing the model.

    Args:
        model: As in :func:`~convnext_backbones.load_weights`.
        tensors: The contents of the file, by name.
        source: The file, for messages.
        prefix: As in :func:`~convnext_backbones.load_weights`.
        published: What is known of the file, if it was given by its name.

    Returns:
        The report, and the tensors to copy under the names of the model.

    Raises:
        TypeError: ``model`` has no ConvNeXt of this package.
        ValueError: The file has no ConvNeXt, or several, or nothing of it fits.
    """
    source = os.fspath(source)
    model = unwrap(model)
    convnext = _convnext_in(model)
    root = '' if convnext is model else BACKBONE
    target = model.state_dict()
    found = only_network(tensors, source, prefix)
    report = LoadReport(source, found.layout.name, unexpected=[*found.unknown])
    report.dropped += found.discarded
    offered = {root + name: key for name, key in _own_names(found, convnext, published).items()}
    report.dropped += found.outside
    if root:
        offered |= found.others
    else:
        report.dropped += found.others.values()
    sources = {name: tensors[key] for name, key in offered.items()}
    matched = _fit_all(sources, root, target, report)
    for name in [name for name in sources if name not in target]:
        known = name.startswith(root) and _was_built_without(convnext, name.removeprefix(root))
        (report.dropped if known else report.unexpected).append(offered[name])
    if _is_projection(found) and 'head.weight' in matched:
        matched['head.bias'] = torch.zeros_like(target['head.bias'])
        report.notes.append(NO_BIAS)
    report.loaded += matched
    report.missing += (name for name in target if name not in sources and name not in matched)
    report.notes += _note_on_final_norm(matched, found, root)

    network = {name: in_our_shape(name, tensors[key]) for name, key in found.names.items()}
    if not any(root + name in matched for name in network):
        reason = difference_in_size(network, convnext) or OTHER_ARCHITECTURE
        raise ValueError(
            f'nothing of {source!r} ({found.layout.name} layout) fits into '
            f'{type(model).__name__}; its first keys are {first_names(tensors)}; {reason}'
        )
    case = Comparison(report, found, network, convnext, bool(root), sources, target, published)
    report.surprises += find_surprises(case)
    report.notes += write_notes(case)
    return report, matched


def _own_names(
    found: Recognized,
    convnext: ConvNeXt | ConvNeXtClassifier,
    published: PublishedWeights | None,
) -> dict[str, str]:
    """Return the names of ``convnext`` for the tensors of a file, and their names in the file.

    They are the authors', but the final norm becomes that of the last output where it was trained
    on every position of the last map.
    """
    names = dict(found.names)
    last = f'norm{len(convnext.variant.depths) - 1}'
    dense = found.norm_before_pooling or (published is not None and published.dense_norm)
    if dense and hasattr(convnext, last) and f'{last}.weight' not in names:
        for parameter in NORM_PARAMETERS:
            if f'norm.{parameter}' in names:
                names[f'{last}.{parameter}'] = names.pop(f'norm.{parameter}')
    return names


def _note_on_final_norm(matched: Iterable[str], found: Recognized, root: str) -> list[str]:
    """Return a note if an output norm was filled from the final norm of the file."""
    names = [name.removeprefix(root) for name in matched]
    taken = [name for name in names if OUTPUT_NORM.match(name) and name not in found.names]
    if not taken:
        return []
    return [
        'the final norm of this file was trained on every position of the last map: it fills '
        f'{taken[0].partition(".")[0]}; the norms of the other outputs keep their values'
    ]


def _is_projection(found: Recognized) -> bool:
    """Whether the head of the file is the projection of open_clip, which has no bias."""
    has_weight = 'head.weight' in found.names
    return found.layout is TIMM and has_weight and 'head.bias' not in found.names


def _fit_all(
    sources: Mapping[str, Tensor], root: str, target: Mapping[str, Tensor], report: LoadReport
) -> dict[str, Tensor]:
    """Return the tensors of a file that fit into their places; see :func:`_fit`."""
    fitting = {
        name: _fit(tensor, name, name.removeprefix(root), target[name], report)
        for name, tensor in sources.items()
        if name in target
    }
    return {name: tensor for name, tensor in fitting.items() if tensor is not None}


def _fit(
    original: Tensor, name: str, own_name: str, place: Tensor, report: LoadReport
) -> Tensor | None:
    """Return a tensor of a file in the shape of its place, and note in the report what was changed.

    Args:
        original: The tensor.
        name: Its name in the model.
        own_name: Its name in the ConvNeXt.
        place: The parameter to fill.
        report: Changed in place.

    Returns:
        None if the tensor does not fit.
    """
    tensor = in_our_shape(own_name, original)
    if tensor.shape != original.shape:
        report.reshaped.append(name)
    if own_name == STEM and _differs_in_channels(tensor, place):
        tensor = adapt_stem(tensor.to(place.dtype), place.shape[1])
        report.adapted.append(name)
    if not _alike(tensor, place):
        report.mismatched.append(name)
        return None
    if original.dtype != place.dtype:
        report.converted.append(name)
    if not tensor.to(place.dtype).isfinite().all():
        report.not_finite.append(name)
    return tensor


def adapt_stem(weight: Tensor, channels: int) -> Tensor:
    """Convert the weight of a stem for RGB to another number of input channels.

    More than three channels repeat R, G and B in turn, fewer get their average. The result is
    scaled by 3 / ``channels``, so that a gray image gives a response of the same scale.

    Args:
        weight: The weight, of shape (C, 3, k, k).
        channels: Number of channels of the new input.

    Returns:
        A weight of shape (C, channels, k, k).
    """
    if channels < 3:
        weight = weight.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    else:
        weight = weight[:, [i % 3 for i in range(channels)]]
    return weight * (3 / channels)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside of mmengine's wrapper for distributed training, if there is one."""
    inner = model.module if is_model_wrapper(model) else model
    assert isinstance(inner, nn.Module)
    return inner


def _convnext_in(model: nn.Module) -> ConvNeXt | ConvNeXtClassifier:
    """Return the ConvNeXt that ``model`` is, or has as its backbone."""
    is_ours = isinstance(model, (ConvNeXt, ConvNeXtClassifier))
    convnext = model if is_ours else getattr(model, 'backbone', None)
    if not isinstance(convnext, (ConvNeXt, ConvNeXtClassifier) if is_ours else ConvNeXt):
        raise TypeError(
            'expected a ConvNeXt, a ConvNeXtClassifier, or a detector or segmentor with a '
            f'ConvNeXt of this package as its backbone, got {type(model).__name__} with the '
            f'backbone {type(convnext).__name__}'
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            'expected a model that holds its parameters, got one on the meta device; call its '
            "to_empty(device='cpu') first"
        )
    return convnext


def only_network(tensors: Mapping[str, Tensor], source: str, prefix: str | None) -> Recognized:
    """Return the names of the only ConvNeXt in a file, or of the one at ``prefix``.

    Raises:
        ValueError: There is none, or there are several.
    """
    networks = find_networks(tensors)
    if prefix is not None:
        networks = [network for network in networks if network[1] == prefix]
    if len(networks) > 1:
        places = ', '.join(repr(place) for _, place in networks)
        raise ValueError(
            f'expected one ConvNeXt in {source!r}, found {len(networks)}, at the prefixes '
            f'{places}; choose one with prefix='
        )
    if not networks:
        where = '' if prefix is None else f' at the prefix {prefix!r}'
        unknown = f'{OTHER_ARCHITECTURE}, or holds a part of the network only'
        causes = foreign_networks(tensors) or [unknown]
        raise ValueError(
            f'found no ConvNeXt in {source!r}{where}: its names are of none of the layouts '
            f'{", ".join(LAYOUTS)}; its first keys are {first_names(tensors)}; '
            f'{causes[-1]}'
        )
    return recognize(tensors, *networks[0])


def in_own_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a detector or segmentor with the authors' names for its backbone.

    Files without a ConvNeXt as the backbone, or with several, come back as they are.

    Args:
        tensors: The contents of a file, by name.
    """
    networks = find_networks(tensors)
    if len(networks) != 1 or networks[0][1].removeprefix('module.') != BACKBONE:
        return dict(tensors)
    found = recognize(tensors, *networks[0])
    theirs = set(found.names.values())
    renamed = {name: tensor for name, tensor in tensors.items() if name not in theirs}
    for own, name in found.names.items():
        renamed[BACKBONE + own] = in_our_shape(own, tensors[name])
    return renamed


def _was_built_without(convnext: ConvNeXt | ConvNeXtClassifier, name: str) -> bool:
    """Whether ``convnext`` was built without the part of a network to which ``name`` belongs."""
    if isinstance(convnext, ConvNeXtClassifier):
        return convnext.head is None and name.startswith(('head.', 'pre_logits.'))
    if stage := re.match(r'(?:stages|downsample_layers)\.(\d+)\.', name):
        return len(convnext.stages) <= int(stage[1]) < len(convnext.variant.depths)
    return bool(CLASSIFIER_PART.match(name) or OUTPUT_NORM.match(name))


def _differs_in_channels(weight: Tensor, place: Tensor) -> bool:
    """Whether ``weight`` fits into ``place`` but for being made for RGB."""
    return (
        weight.shape[1:2] == (3,)
        and place.shape[1] != 3
        and weight.layout == torch.strided
        and weight.is_floating_point()
        and weight[:, :1].shape == place[:, :1].shape
    )


def _alike(tensor: Tensor, place: Tensor) -> bool:
    """Whether the values of ``tensor`` can be copied into ``place``."""
    return (
        tensor.shape == place.shape
        and tensor.is_floating_point() == place.is_floating_point()
        and tensor.layout == place.layout
        and not tensor.is_meta
    )
