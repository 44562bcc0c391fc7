"""Explain in words what does not fit between a file and a model, and the likely cause."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..io.wording import first_names
from ..models.convnext import ConvNeXtClassifier
from .layouts import MMPRETRAIN_FINAL_NORM
from .names import CLASSIFIER_PART, HEAD_PART, OUTPUT_NORM, Recognized, sizes, variant_name
from .options import ConvNeXtModel, hidden_differences, visible_differences
from .report import LoadReport
from .rows import CLIP, IMAGENET, NORMALIZATIONS, PublishedWeights

# Names that reveal a network that is not a ConvNeXt of this package.
FOREIGN = (
    (r'(^|\.)layer1\.0\.conv1\.', 'it looks like a ResNet'),
    (r'(^|\.)(patch_embed|cls_token|relative_position)', 'it looks like a vision transformer'),
)
# The place of the trunk in CLIP models of open_clip.
CLIP_PREFIX = 'visual.trunk.'


@dataclass
class Comparison:
    """A file beside a model.

    Attributes:
        report: The outcome for every tensor.
        found: The names in the file.
        network: The tensors of the ConvNeXt in the file under the authors' names.
        convnext: The ConvNeXt of the model.
        inside: Whether the model is a detector or segmentor around it.
        sources: The tensors of the file under the names of the model.
        target: The tensors of the model.
        published: What is known of the file, if it was given by its name.
    """

    report: LoadReport
    found: Recognized
    network: Mapping[str, Tensor]
    convnext: ConvNeXtModel
    inside: bool
    sources: Mapping[str, Tensor]
    target: Mapping[str, Tensor]
    published: PublishedWeights | None = None


def foreign_networks(keys: Iterable[str]) -> list[str]:
    """Return what the names of a file look like, for each kind of network in :data:`FOREIGN`."""
    names = list(keys)
    return [cause for pattern, cause in FOREIGN if any(re.search(pattern, key) for key in names)]


def difference_in_size(network: Mapping[str, Tensor], convnext: ConvNeXtModel) -> str | None:
    """Return how the sizes of a file differ from those of a model; None if they do not.

    Args:
        network: The tensors of the file under the authors' names.
        convnext: The model.
    """
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


def new_head(case: Comparison) -> list[str]:
    """Return the tensors of a classifier that keep their values for a new set of classes.

    They are those of the head if the file has another number of classes, and head and final norm,
    as far as they are missing, if it has no head.
    """
    model, report = case.convnext, case.report
    if not isinstance(model, ConvNeXtClassifier) or model.head is None or report.unexpected:
        return []
    if not any(map(HEAD_PART.match, case.network)):
        return [name for name in report.missing if CLASSIFIER_PART.match(name)]
    names = ['head.weight', 'head.bias']
    differ_in_classes = all(
        name in report.mismatched
        and case.sources[name].is_floating_point()
        and case.sources[name].dim()
        and len(case.sources[name]) != len(case.target[name])
        and case.sources[name].shape[1:] == case.target[name].shape[1:]
        for name in names
    )
    return names if differ_in_classes else []


def find_surprises(case: Comparison) -> list[str]:
    """Return phrases about what does not fit, and about likely causes."""
    report, found = case.report, case.found
    kept = new_head(case)
    missing = [name for name in report.missing if name not in kept]
    mismatched = [name for name in report.mismatched if name not in kept]
    if not case.inside and not any(map(OUTPUT_NORM.match, found.names)):
        missing = [name for name in missing if not OUTPUT_NORM.match(name)]
    surprises = [
        f'{len(names)} {what} ({first_names(names)})'
        for names, what in (
            (missing, 'missing'),
            (report.unexpected, 'unexpected'),
            (mismatched, 'of another shape or type'),
            (report.not_finite, 'with NaN or infinity'),
        )
        if names
    ]
    causes = hidden_differences(found, case.network, case.convnext)
    if missing or report.unexpected or mismatched:
        causes += visible_differences(case.network, case.convnext, other_classes=bool(kept))
    if surprises and not causes and case.published and case.published.obstacle:
        causes = [case.published.obstacle]
    surprises += causes
    if case.inside and not found.others:
        surprises.append('the file holds a backbone only, load it into model.backbone')
    surprises += foreign_networks(report.unexpected)
    if mismatched:
        name = mismatched[0]
        theirs, ours = describe(case.sources[name]), describe(case.target[name])
        surprises.append(f'{name} is {theirs} in the file and {ours} in the model')
    difference = difference_in_size(case.network, case.convnext)
    if surprises and difference:
        surprises.append(difference)
    return surprises


def write_notes(case: Comparison) -> list[str]:
    """Return sentences about things that were detected or changed during loading."""
    report = case.report
    notes = _note_on_new_head(case)
    if case.found.renamed_norm:
        notes.append(
            f'{MMPRETRAIN_FINAL_NORM} of this file is the norm of a classifier after pooling, '
            'which has this name in mmpretrain; it is not used as the norm of the fourth output'
        )
    for name in report.adapted:
        channels = case.target[name].shape[1]
        how = 'repeated in turn' if channels > 3 else 'averaged'
        notes.append(
            f'for {channels} input channels, the weights of R, G and B were {how} and scaled by '
            f'3/{channels}'
        )
    if report.converted:
        name = report.converted[0]
        notes.append(
            f'{len(report.converted)} tensors were converted, such as {name} from '
            f'{case.sources[name].dtype} to {case.target[name].dtype}'
        )
    return notes + _note_on_pixels(case)


def _note_on_new_head(case: Comparison) -> list[str]:
    """Return a note if the head of a classifier keeps its initial values."""
    names = new_head(case)
    if not names:
        return []
    if not case.report.mismatched:
        return [f'the file has no head: {first_names(names)} keep the values that they had']
    theirs, ours = (len(tensors['head.bias']) for tensors in (case.sources, case.target))
    return [
        f'the file has {theirs} classes and the model {ours}: head keeps the values that it had'
    ]


def _note_on_pixels(case: Comparison) -> list[str]:
    """Return a note if the weights were trained with another mean and std than ImageNet's."""
    name = IMAGENET
    if case.published is not None:
        name = case.published.normalization
    elif f'.{case.found.prefix}'.endswith(f'.{CLIP_PREFIX}'):
        name = CLIP
    if name == IMAGENET:
        return []
    mean, std = NORMALIZATIONS[name]
    return [
        f'these weights were trained with the mean {list(mean)} and the std {list(std)} of R, G '
        f'and B ({name}), not those of ImageNet: set them in the data_preprocessor'
    ]


def describe(tensor: Tensor) -> str:
    """Return shape and type of a tensor, for a message."""
    return f'{tuple(tensor.shape)} of {tensor.dtype}'
