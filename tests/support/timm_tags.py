"""Files that timm writes for each of its tags, against our models that load them.

Needs timm; the tests are in tests/peers. Tags of one architecture with as many classes have the
same names, shapes and computation, so that one comparison stands for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from convnext_backbones import VARIANTS, ConvNeXt, ConvNeXtClassifier, load_weights
from convnext_backbones.weights.published import find_published
from support.peer_models import Differences, compare, randomize

# Sizes of which a few blocks are built, unless all are asked for.
SHORTENED = ('small', 'base', 'large', 'xlarge', 'huge', 'xxlarge')
DEPTHS = (1, 1, 2, 1)
WIDEST = 1536  # wider ones get an eighth of their channels


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes:
        tensors: Tensors that were loaded into a classifier; 0 if it was refused.
        reason: Why it was refused.
        logits: Against timm's classifier.
        maps: Against timm's feature maps, with our norms on both.
    """

    tensors: int
    reason: str = ''
    logits: Differences | None = None
    maps: Differences | None = None

    def largest(self) -> float:
        return max(
            *self.logits.outputs, *self.logits.gradients, *self.maps.outputs, *self.maps.gradients
        )


def all_tags() -> list[str]:
    """Every ConvNeXt of timm by its tag, also those without weights."""
    import timm

    return timm.list_models('*convnext*', include_tags=True)


def case_of(tag: str) -> tuple[str, int]:
    """The architecture and the number of classes."""
    import timm

    return tag.partition('.')[0], timm.get_pretrained_cfg(tag).num_classes


def is_shortened(tag: str) -> bool:
    """Whether :func:`outcome` builds a few blocks only, unless it is told otherwise."""
    return find_published(f'timm/{tag}').arch in SHORTENED


def outcome(tag: str, folder: Path, shortened: bool = True) -> Outcome:
    """Write the file of a tag, of random weights, and load it."""
    case = (*case_of(tag), shortened)
    if case not in _outcomes:
        _outcomes[case] = _compute(tag, folder, shortened)
    return _outcomes[case]


_outcomes: dict[tuple[str, int, bool], Outcome] = {}


def _compute(tag: str, folder: Path, shortened: bool) -> Outcome:
    import timm

    published = find_published(f'timm/{tag}')
    kwargs = {}
    if shortened and is_shortened(tag):
        kwargs['depths'] = DEPTHS
        dims = VARIANTS[published.arch].dims
        if dims[-1] > WIDEST:
            kwargs['dims'] = [dim // 8 for dim in dims]
    theirs = timm.create_model(tag, pretrained=False, **kwargs)
    randomize(theirs)
    path = folder / f'{tag}.pth'
    torch.save(theirs.state_dict(), path)
    options = dict(published.options)
    head = {key: options.pop(key) for key in [*options] if key.startswith('head_')}
    options |= dict(
        depths=[len(stage.blocks) for stage in theirs.stages],
        dims=[info['num_chs'] for info in theirs.feature_info],
    )
    if published.arch in VARIANTS:
        options['norm_eps'] = VARIANTS[published.arch].norm_eps
    with torch.device('meta'):
        classifier = ConvNeXtClassifier(num_classes=published.classes, **options, **head)
        backbone = ConvNeXt(**options)
    randomize(classifier)
    randomize(backbone)
    try:
        report = load_weights(classifier, path)
        assert not report.missing and not report.dropped
        load_weights(backbone, path)
    except ValueError as error:
        return Outcome(0, str(error).partition(': ')[2])
    finally:
        path.unlink()
    return Outcome(
        len(report.loaded),
        logits=compare(lambda x: [classifier(x)], lambda x: [theirs(x)], len(report.loaded)),
        maps=compare(backbone, lambda x: _maps(theirs, backbone, x), len(report.loaded)),
    )


def _maps(theirs: nn.Module, ours: ConvNeXt, x: torch.Tensor) -> list[torch.Tensor]:
    maps = theirs.forward_intermediates(x, intermediates_only=True)
    return [getattr(ours, f'norm{i}')(map_) for i, map_ in enumerate(maps)]
