"""Match the tensors of a file to the parameters of a model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from ..models.convnext import ConvNeXt, ConvNeXtClassifier
from .layouts import LAYOUTS, MMPRETRAIN_FINAL_NORM
from .names import (
    CLASSIFIER_PART,
    OUTPUT_NORM,
    Recognized,
    find_networks,
    in_our_shape,
    recognize,
    sizes,
    variant_name,
)
from .report import BACKBONE, LoadReport

STEM = 'downsample_layers.0.0.weight'
# What a file without any ConvNeXt of ours may be, by its names.
FOREIGN = (
    (r'(^|\.)grn\.|conv_depthwise', 'it looks like a ConvNeXt V2, which has other blocks'),
    (r'(^|\.)layer1\.0\.conv1\.', 'it looks like a ResNet'),
    (r'(^|\.)(patch_embed|cls_token|relative_position)', 'it looks like a vision transformer'),
)
# How many names a message spells out.
SHOWN = 3


def match_weights(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str | os.PathLike,
    prefix: str | None = None,
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Find the place of every tensor of a file in ``model``, and change nothing.

    Args:
        model: As in :func:`load_weights`.
        tensors: What the file holds, by name.
        source: The file, for messages.
        prefix: As in :func:`load_weights`.

    Returns:
        The report, and the tensors to copy under the names of the model.

    Raises:
        TypeError: ``model`` is of no use here.
        ValueError: No ConvNeXt was recognized, several were, or nothing fits.
    """
    source = os.fspath(source)
    model = unwrap(model)
    convnext = _convnext_in(model)
    root = '' if convnext is model else BACKBONE
    target = model.state_dict()
    found = only_network(tensors, source, prefix)
    report = LoadReport(
        source, found.layout.name, unexpected=[*found.unknown], dropped=[*found.outside]
    )
    offered = {root + name: key for name, key in found.names.items()}
    if root:
        offered |= found.others
    else:
        report.dropped += found.others.values()

    matched = {}
    for name, key in offered.items():
        if name not in target:
            left_out = name.startswith(root) and _left_out(name.removeprefix(root), convnext)
            (report.dropped if left_out else report.unexpected).append(key)
            continue
        place, tensor = target[name], in_our_shape(name.removeprefix(root), tensors[key])
        if tensor.shape != tensors[key].shape:
            report.reshaped.append(name)
        if name == root + STEM and _differs_in_channels(tensor, place):
            tensor = adapt_stem(tensor.to(place.dtype), place.shape[1])
            report.adapted.append(name)
        if not _alike(tensor, place):
            report.mismatched.append(name)
            continue
        if tensors[key].dtype != place.dtype:
            report.converted.append(name)
        if not tensor.to(place.dtype).isfinite().all():
            report.not_finite.append(name)
        matched[name] = tensor
    report.loaded += matched
    report.missing += (name for name in target if name not in offered)

    network = {name: tensors[key] for name, key in found.names.items()}
    difference = _difference_in_size(network, convnext)
    if not any(root + name in matched for name in network):
        raise ValueError(
            f'nothing of {source!r} ({found.layout.name} layout) fits into '
            f'{type(model).__name__}; its first keys are {_first(tensors)}; '
            f'{difference or "it is probably of another architecture"}'
        )
    report.surprises += _surprises(report, found, expect_norms=bool(root))
    if report.mismatched:
        name = report.mismatched[0]
        report.surprises.append(
            f'{name} is {_describe(tensors[offered[name]])} in the file and '
            f'{_describe(target[name])} in the model'
        )
    if report.surprises and difference:
        report.surprises.append(difference)
    report.notes += _notes(report, found, tensors, offered, target)
    return report, matched


def adapt_stem(weight: Tensor, channels: int) -> Tensor:
    """Turn the weight of a stem for RGB into that for another number of channels.

    More than three repeat R, G and B in turn, fewer get their average; all are scaled by three
    over their number, so that a gray image gives a response of the same scale.

    Args:
        weight: Of shape (C, 3, 4, 4).
        channels: Channels of the new input.

    Returns:
        Of shape (C, channels, 4, 4).
    """
    if channels < 3:
        weight = weight.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    else:
        weight = weight[:, [i % 3 for i in range(channels)]]
    return weight * (3 / channels)


def unwrap(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def _convnext_in(model: nn.Module) -> ConvNeXt | ConvNeXtClassifier:
    """The ConvNeXt that ``model`` is or has as its backbone."""
    convnext = model
    if not isinstance(model, (ConvNeXt, ConvNeXtClassifier)):
        convnext = getattr(model, 'backbone', None)
        if not isinstance(convnext, ConvNeXt):
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
    """The names of the ConvNeXt in a file: of the only one, or of that at ``prefix``.

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
        cause = 'it is probably of another architecture, or holds a part of the network only'
        for pattern, foreign in FOREIGN:
            if any(re.search(pattern, key) for key in tensors):
                cause = foreign
        raise ValueError(
            f'found no ConvNeXt in {source!r}{where}: its names are of none of the layouts '
            f'{", ".join(LAYOUTS)}; its first keys are {_first(tensors)}; {cause}'
        )
    return recognize(tensors, *networks[0])


def _left_out(name: str, convnext: ConvNeXt | ConvNeXtClassifier) -> bool:
    """Whether ``convnext`` was built without the part of a network that ``name`` belongs to."""
    if isinstance(convnext, ConvNeXtClassifier):
        return False
    if stage := re.match(r'(?:stages|downsample_layers)\.(\d+)\.', name):
        return len(convnext.stages) <= int(stage[1]) < len(convnext.variant.depths)
    return bool(CLASSIFIER_PART.match(name) or OUTPUT_NORM.match(name))


def _differs_in_channels(weight: Tensor, place: Tensor) -> bool:
    """Whether RGB is the only difference between the weights of two stems."""
    return (
        weight.shape[1:2] == (3,)
        and place.shape[1] != 3
        and weight.layout == torch.strided
        and weight.is_floating_point()
        and weight[:, :1].shape == place[:, :1].shape
    )


def _alike(tensor: Tensor, place: Tensor) -> bool:
    """Whether the values of one can go into the other."""
    return (
        tensor.shape == place.shape
        and tensor.is_floating_point() == place.is_floating_point()
        and tensor.layout == place.layout
        and not tensor.is_meta
    )


def _difference_in_size(
    network: Mapping[str, Tensor], convnext: ConvNeXt | ConvNeXtClassifier
) -> str | None:
    """How the sizes of a file differ from those of a model, in words."""
    depths, dims = sizes(network)
    wanted = convnext.variant
    alike = (depths, dims) == (wanted.depths[: len(depths)], wanted.dims[: len(dims)])
    if alike and len(depths) >= len(convnext.stages):
        return None
    arch = variant_name(depths, dims)
    hint = f' (arch={arch!r})' if arch else ''
    return (
        f'the file has depths {depths} and dims {dims}{hint}, the model {wanted.depths} and '
        f'{wanted.dims}'
    )


def _surprises(report: LoadReport, found: Recognized, expect_norms: bool) -> list[str]:
    """What does not fit, and what is likely behind it."""
    missing = report.missing
    if not expect_norms and not any(map(OUTPUT_NORM.match, found.names)):
        missing = [name for name in missing if not OUTPUT_NORM.match(name)]
    surprises = [
        f'{len(names)} {what} ({_first(names)})'
        for names, what in (
            (missing, 'missing'),
            (report.unexpected, 'unexpected'),
            (report.mismatched, 'of another shape or type'),
            (report.not_finite, 'with NaN or infinity'),
        )
        if names
    ]
    scale = next(theirs for theirs, ours in found.layout.table if ours.endswith('.gamma'))
    if any(key.endswith(scale.rpartition('.')[2]) for key in report.unexpected):
        surprises.append('the model has no layer scale, build it with layer_scale_init_value=1.0')
    if any(name.endswith('.gamma') for name in missing):
        surprises.append('the file has no layer scale, build with layer_scale_init_value=0')
    if expect_norms and not found.others:
        surprises.append('the file holds a backbone only, load it into model.backbone')
    surprises += [
        cause
        for pattern, cause in FOREIGN
        if any(re.search(pattern, key) for key in report.unexpected)
    ]
    return surprises


def _notes(
    report: LoadReport,
    found: Recognized,
    tensors: Mapping[str, Tensor],
    offered: Mapping[str, str],
    target: Mapping[str, Tensor],
) -> list[str]:
    notes = []
    if found.renamed_norm:
        notes.append(
            f'{MMPRETRAIN_FINAL_NORM} of this file is the norm of a classifier after pooling, '
            'which mmpretrain calls so; it is not taken for the norm of the fourth output'
        )
    for name in report.adapted:
        channels = target[name].shape[1]
        how = 'repeated in turn' if channels > 3 else 'averaged'
        notes.append(
            f'for {channels} input channels, the weights of R, G and B were {how} and scaled by '
            f'3/{channels}'
        )
    if report.converted:
        name = report.converted[0]
        notes.append(
            f'{len(report.converted)} tensors were converted, such as {name} from '
            f'{tensors[offered[name]].dtype} to {target[name].dtype}'
        )
    return notes


def _describe(tensor: Tensor) -> str:
    return f'{tuple(tensor.shape)} of {tensor.dtype}'


def _first(names: Iterable[str]) -> str:
    names = [*names]
    # They are of the file, and may hold line breaks.
    return ', '.join(repr(n)[1:-1] for n in names[:SHOWN]) + (', ...' if len(names) > SHOWN else '')
