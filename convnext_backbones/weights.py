"""Pretrained weights: where they are published, how they get into a model, and what was loaded.

``load_weights`` reads a file of any layout of :mod:`.layouts` into a backbone, a classifier, or a
whole detector or segmentor, and returns a report. Weights that do not fit are an error, so that
no training starts "as if from scratch" unnoticed.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from .backbone import ConvNeXt, ConvNeXtClassifier
from .checkpoint import check_container, named_tensors, read_checkpoint
from .download import find_or_fetch, is_url
from .layouts import (
    CLASSIFIER_PART,
    LAYOUTS,
    MMPRETRAIN_FINAL_NORM,
    OUTPUT_NORM,
    Recognised,
    find_networks,
    in_our_shape,
    recognise,
    sizes,
    variant_name,
)

# Where a detector or segmentor has its ConvNeXt.
BACKBONE = 'backbone.'
STEM = 'downsample_layers.0.0.weight'
# What a file without any ConvNeXt of ours may be, by its names.
FOREIGN = (
    (r'(^|\.)grn\.|conv_depthwise', 'it looks like a ConvNeXt V2, which has other blocks'),
    (r'(^|\.)layer1\.0\.conv1\.', 'it looks like a ResNet'),
    (r'(^|\.)(patch_embed|cls_token|relative_position)', 'it looks like a vision transformer'),
)
# How many names a message spells out.
SHOWN = 3


@dataclass(frozen=True)
class PublishedWeights:
    """A file of the authors.

    Attributes:
        url: Where it is.
        size: In bytes; None where it is not known.
        sha256: Its digest; None where it is not known.
    """

    url: str
    size: int | None = None
    sha256: str | None = None


# The model zoo of https://github.com/facebookresearch/ConvNeXt, by folder. The authors publish
# neither sizes nor digests. Detectors and segmentors start from the files without `_ema`.
PUBLISHED: dict[str, PublishedWeights] = {
    name: PublishedWeights(f'https://dl.fbaipublicfiles.com/convnext/{folder}{name}.pth')
    for folder, names in {
        '': (
            'convnext_tiny_1k_224',
            'convnext_small_1k_224',
            'convnext_base_1k_224',
            'convnext_tiny_1k_224_ema',
            'convnext_small_1k_224_ema',
            'convnext_base_1k_224_ema',
            'convnext_large_1k_224_ema',
            'convnext_base_1k_384',
            'convnext_large_1k_384',
            'convnext_tiny_22k_224',
            'convnext_small_22k_224',
            'convnext_base_22k_224',
            'convnext_large_22k_224',
            'convnext_xlarge_22k_224',
            'convnext_tiny_22k_1k_224',
            'convnext_small_22k_1k_224',
            'convnext_base_22k_1k_224',
            'convnext_large_22k_1k_224',
            'convnext_xlarge_22k_1k_224_ema',
            'convnext_tiny_22k_1k_384',
            'convnext_small_22k_1k_384',
            'convnext_base_22k_1k_384',
            'convnext_large_22k_1k_384',
            'convnext_xlarge_22k_1k_384_ema',
        ),
        'coco/': (
            'mask_rcnn_convnext_tiny_1k_3x',
            'cascade_mask_rcnn_convnext_tiny_1k_3x',
            'cascade_mask_rcnn_convnext_small_1k_3x',
            'cascade_mask_rcnn_convnext_base_1k_3x',
            'cascade_mask_rcnn_convnext_base_22k_3x',
            'cascade_mask_rcnn_convnext_large_22k_3x',
            'cascade_mask_rcnn_convnext_xlarge_22k_3x',
        ),
        'ade20k/': (
            'upernet_convnext_tiny_1k_512x512',
            'upernet_convnext_small_1k_512x512',
            'upernet_convnext_base_1k_512x512',
            'upernet_convnext_base_22k_640x640',
            'upernet_convnext_large_22k_640x640',
            'upernet_convnext_xlarge_22k_640x640',
        ),
    }.items()
    for name in names
}


def weights_file(source: str | os.PathLike) -> Path:
    """The local file of ``source``; see :func:`~convnext_backbones.download.find_or_fetch`.

    Args:
        source: A name of :data:`PUBLISHED`, the path of a file, or a URL.

    Raises:
        FileNotFoundError: There is no such name or file, or it may not be downloaded.
        ValueError: The URL cannot be used, or the download failed.
    """
    source = os.fspath(source)
    published = PUBLISHED.get(source)
    if published is not None:
        return find_or_fetch(
            published.url, published.size, published.sha256, check_container, official=True
        )
    if is_url(source):
        return find_or_fetch(source, check=check_container)
    path = Path(source).expanduser()
    if not path.exists():
        close = difflib.get_close_matches(path.stem, PUBLISHED, n=1)
        hint = f'did you mean {close[0]!r}?' if close else 'see convnext_backbones.PUBLISHED'
        raise FileNotFoundError(
            f'expected the name of published weights, a file or a URL, found nothing at '
            f'{source!r}; {hint}'
        )
    return path


@dataclass
class LoadReport:
    """What became of every tensor of a file and of a model.

    ``print(report)`` gives the counts, in all and per stage. Names are those of the model, except
    in ``unexpected`` and ``dropped``, which the model does not have.

    Attributes:
        source: The file.
        layout: The recognised layout: official, mmpretrain, timm, torchvision or transformers.
        loaded: Tensors of the model that were filled.
        missing: Tensors of the model that the file does not have; they keep their values.
        mismatched: Tensors that both have, left out because shape or type differ.
        unexpected: Tensors of the file that the model has no place for.
        dropped: Tensors of the file left out on purpose: norm and head of a classifier, neck and
            heads of a detector, stages and norms that the model was built without.
        reshaped: Loaded without the axes of length one that the file keeps, such as those of 1x1
            convolutions.
        adapted: Loaded into another number of input channels.
        converted: Loaded from another floating-point type.
        not_finite: Loaded with NaN or infinity in them.
        notes: Sentences on what was detected or changed on the way, logged as warnings.
        surprises: Phrases on what does not fit and why; an error unless ``strict=False``.
    """

    source: str
    layout: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)

    def per_stage(self) -> dict[str, tuple[int, int]]:
        """Part of the model -> number of its tensors that were loaded, and that were not."""
        loaded = Counter(map(_part, self.loaded))
        absent = Counter(map(_part, self.missing + self.mismatched))
        parts = sorted(
            {*loaded, *absent}, key=lambda part: (part != 'stem', part[:5] != 'stage', part)
        )
        return {part: (loaded[part], absent[part]) for part in parts}

    def counts(self) -> str:
        """The numbers that are not zero, in words."""
        fates = ('loaded', 'missing', 'mismatched', 'unexpected', 'dropped')
        changes = ('reshaped', 'adapted', 'converted', 'not_finite')
        numbers = {fate: len(getattr(self, fate)) for fate in fates + changes}
        return ', '.join(f'{number} {fate}' for fate, number in numbers.items() if number)

    def __str__(self) -> str:
        stages = ', '.join(
            f'{part} {loaded}' + (f' of {loaded + absent}' if absent else '')
            for part, (loaded, absent) in self.per_stage().items()
        )
        return '\n'.join(
            [f'{self.source} ({self.layout} layout): {self.counts()}', f'loaded: {stages}']
            + self.notes
            + self.surprises
        )


def load_weights(
    model: nn.Module,
    source: str | os.PathLike,
    *,
    strict: bool = True,
    ema: bool = False,
    prefix: str | None = None,
) -> LoadReport:
    """Fill a model with the weights of a file, and report on every tensor.

    Expected, and silent, is a file that fills the model; and, for a backbone, one without output
    norms, such as a classifier's: ``norm0`` to ``norm3`` then keep their initial values, as in
    the authors' code. Otherwise the model stays as it was, unless ``strict=False``.

    A stem built for another number of channels than three gets the weights of R, G and B in turn,
    or their average where it has fewer than three; see :func:`adapt_stem`.

    Args:
        model: A :class:`ConvNeXt`, a :class:`ConvNeXtClassifier`, or a detector or segmentor of
            mmdet or mmseg whose ``backbone`` is a ConvNeXt; a wrapper for distributed training
            around any of them is looked through.
        source: A name of :data:`PUBLISHED`, the path of a file, or a URL.
        strict: Whether what does not fit is an error; otherwise it is logged as a warning. That
            nothing fits at all is always an error.
        ema: Take the averaged weights (``model_ema``) of a training checkpoint.
        prefix: Which network to take from a file with several, such as ``'teacher.backbone.'``.

    Raises:
        FileNotFoundError: There is no such name or file.
        TypeError: ``model`` is none of the above.
        ValueError: The file cannot be read, would execute code, holds no ConvNeXt, or does not
            fit.
    """
    path = weights_file(source)
    tensors = named_tensors(read_checkpoint(path, mmap=True), path, ema)
    report, matched = match_weights(model, tensors, path, prefix)
    if report.surprises and strict:
        raise ValueError(
            f'cannot load {report.source!r} ({report.layout} layout) into '
            f'{type(model).__name__}: {"; ".join(report.surprises)}; strict=False loads the '
            f'{len(report.loaded)} tensors that fit'
        )
    if report.surprises or report.notes:
        print_log(str(report), logger='current', level=logging.WARNING)
    target = _unwrap(model).state_dict()
    with torch.no_grad():
        for name, tensor in matched.items():
            target[name].copy_(tensor)
    return report


@WEIGHT_INITIALIZERS.register_module()
class PretrainedConvNeXt:
    """``init_cfg=dict(type='PretrainedConvNeXt', checkpoint=...)`` of a backbone.

    Nothing is read or downloaded before ``init_weights`` runs, which mmengine's Runner calls at
    the start of training.

    Args:
        checkpoint: A name of :data:`PUBLISHED`, the path of a file, or a URL.
        strict: As in :func:`load_weights`; so are the errors.
        ema: As in :func:`load_weights`.
        prefix: As in :func:`load_weights`.
    """

    def __init__(
        self, checkpoint: str, strict: bool = True, ema: bool = False, prefix: str | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.options = dict(strict=strict, ema=ema, prefix=prefix)

    def __call__(self, module: nn.Module) -> None:
        """Fill ``module``, a ConvNeXt."""
        name = type(self).__name__
        if not isinstance(module, (ConvNeXt, ConvNeXtClassifier)):
            raise ValueError(
                f'expected {name} in the init_cfg of a ConvNeXt, got it in that of '
                f'{type(module).__name__}, which initialises its parts after it; give a whole '
                'detector or segmentor its weights with load_from'
            )
        if isinstance(module.init_cfg, list) and module.init_cfg[-1]['type'] not in (
            name,
            type(self),
        ):
            raise ValueError(
                f'expected {name} at the end of init_cfg, got '
                f'{module.init_cfg[-1]["type"]!r} there, which would draw the weights anew'
            )
        report = load_weights(module, self.checkpoint, **self.options)
        print_log(str(report), logger='current', level=logging.INFO)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'{name}: load from {self.checkpoint}')


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
        ValueError: No ConvNeXt was recognised, several were, or nothing fits.
    """
    source = os.fspath(source)
    model = _unwrap(model)
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
    over their number, so that a grey image gives a response of the same scale.

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


def _unwrap(model: nn.Module) -> nn.Module:
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


def only_network(tensors: Mapping[str, Tensor], source: str, prefix: str | None) -> Recognised:
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
    return recognise(tensors, *networks[0])


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


def _surprises(report: LoadReport, found: Recognised, expect_norms: bool) -> list[str]:
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
    found: Recognised,
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


def _part(name: str) -> str:
    """Which part of a model a tensor is counted in."""
    name = name.removeprefix(BACKBONE)
    if name.startswith('downsample_layers.0.'):
        return 'stem'
    if stage := re.match(r'(?:stages|downsample_layers)\.(\d+)\.', name):
        return f'stage {stage[1]}'
    return 'output norms' if OUTPUT_NORM.match(name) else name.partition('.')[0]


def _describe(tensor: Tensor) -> str:
    return f'{tuple(tensor.shape)} of {tensor.dtype}'


def _first(names: Iterable[str]) -> str:
    names = [*names]
    # They are of the file, and may hold line breaks.
    return ', '.join(repr(n)[1:-1] for n in names[:SHOWN]) + (', ...' if len(names) > SHOWN else '')
