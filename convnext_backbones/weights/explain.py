"""Explain in words what does not fit between a file and a model, and the likely cause."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..io.wording import first_names
from ..models.convnext import ConvNeXt, ConvNeXtClassifier
from .layouts import MMPRETRAIN_FINAL_NORM
from .names import OUTPUT_NORM, Recognized, sizes, variant_name
from .report import LoadReport

# Names that reveal a network that is not a ConvNeXt of this package.
FOREIGN = (
    (r'(^|\.)grn\.|conv_depthwise', 'it looks like a ConvNeXt V2, which has other blocks'),
    (r'(^|\.)layer1\.0\.conv1\.', 'it looks like a ResNet'),
    (r'(^|\.)(patch_embed|cls_token|relative_position)', 'it looks like a vision transformer'),
)


def foreign_networks(keys: Iterable[str]) -> list[str]:
    """Return what the names of a file look like, for each kind of network in :data:`FOREIGN`."""
    names = list(keys)
    return [cause for pattern, cause in FOREIGN if any(re.search(pattern, key) for key in names)]


def difference_in_size(
    network: Mapping[str, Tensor], convnext: ConvNeXt | ConvNeXtClassifier
) -> str | None:
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


def find_surprises(
    report: LoadReport,
    found: Recognized,
    expect_norms: bool,
    sources: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
) -> list[str]:
    """Return phrases about what does not fit, and about likely causes.

    Args:
        report: The outcome for every tensor.
        found: The names in the file.
        expect_norms: Whether the file should have output norms, as that of a detector.
        sources: The tensors of the file under the names of the model.
        target: The tensors of the model.
    """
    missing = report.missing
    if not expect_norms and not any(map(OUTPUT_NORM.match, found.names)):
        missing = [name for name in missing if not OUTPUT_NORM.match(name)]
    surprises = [
        f'{len(names)} {what} ({first_names(names)})'
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
    surprises += foreign_networks(report.unexpected)
    if report.mismatched:
        name = report.mismatched[0]
        theirs, ours = describe(sources[name]), describe(target[name])
        surprises.append(f'{name} is {theirs} in the file and {ours} in the model')
    return surprises


def write_notes(
    report: LoadReport,
    found: Recognized,
    sources: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
) -> list[str]:
    """Return sentences about things that were detected or changed during loading."""
    notes = []
    if found.renamed_norm:
        notes.append(
            f'{MMPRETRAIN_FINAL_NORM} of this file is the norm of a classifier after pooling, '
            'which has this name in mmpretrain; it is not used as the norm of the fourth output'
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
            f'{sources[name].dtype} to {target[name].dtype}'
        )
    return notes


def describe(tensor: Tensor) -> str:
    """Return shape and type of a tensor, for a message."""
    return f'{tuple(tensor.shape)} of {tensor.dtype}'
