"""Compare the classes of a model's heads with those of the data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from torch import nn

from ..config.walk import CLASS_AGNOSTIC
from .findings import ERROR, Finding, Kind, several, spell
from .sources import Source

# Heads with classes of their own, not the data's.
OTHER_CLASSES = (*CLASS_AGNOSTIC, 'semantic_head')


def check_classes(model: nn.Module, sources: Iterable[Source]) -> Iterator[Finding]:
    """Compare the classes of datasets with one another, and their number with that of heads."""
    heads = dict(_classifying_heads(model))
    first_of: dict[int, Source] = {}
    for source in sources:
        place = f'{source.place}.metainfo'
        if not source.classes:
            got = source.dataset.metainfo.get('classes')
            yield Finding(
                ERROR,
                f'expected a list of names as classes, got {got!r}',
                place,
                "write metainfo=dict(classes=('a', ...)); with one class, the comma is needed too",
            )
            continue
        number = len(source.classes)
        first = first_of.setdefault(number, source)
        wrong = [f'{name}: {size}' for name, size in heads.items() if size != number]
        if wrong and source is first:
            kind = Kind(
                ERROR,
                f'heads for another number of classes than the {number} of {place}, '
                f'{spell(source.classes)}',
                f'set num_classes={number} in the heads, or all classes in the metainfo',
            )
            yield several(kind, 'model', wrong)
        if source.classes != first.classes:
            yield Finding(
                ERROR,
                f'classes {spell(source.classes)} other than those of {first.place}, '
                f'{spell(first.classes)}',
                place,
                'give all datasets the same classes in the same order',
            )


def _classifying_heads(model: nn.Module) -> Iterator[tuple[str, int]]:
    """The heads of a model that tell the classes of the data apart, and for how many they are."""
    for name, module in model.named_modules():
        own = re.sub(r'(\.\d+)+$', '', name).rpartition('.')[2]  # heads of a cascade have numbers
        number = getattr(module, 'num_classes', None)
        counts = own.endswith('head') and own not in OTHER_CLASSES
        if counts and isinstance(number, int) and not getattr(module, 'class_agnostic', False):
            yield name, number
