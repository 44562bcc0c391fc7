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
    heads = dict(classifying_heads(model))
    first_of: dict[int, Source] = {}
    for source in sources:
        entry = f'{source.entry}.metainfo'
        if not source.classes:
            got = source.dataset.metainfo.get('classes')
            yield Finding(
                ERROR,
                f'expected a list of names as classes, got {got!r}',
                entry,
                "write metainfo=dict(classes=('a', ...)); with one class, the comma is needed too",
            )
            continue
        number = len(source.classes)
        first = first_of.setdefault(number, source)
        wrong = [f'{name}: {size}' for name, size in heads.items() if size != number]
        if wrong and source is first:
            kind = Kind(
                ERROR,
                f'heads for a number of classes other than the {number} of {entry}, '
                f'{spell(source.classes)}',
                f'set num_classes={number} in the heads, or all classes in the metainfo',
            )
            yield several(kind, wrong, 'model')
        if source.classes != first.classes:
            yield Finding(
                ERROR,
                f'classes {spell(source.classes)} other than those of {first.entry}, '
                f'{spell(first.classes)}',
                entry,
                'give all datasets the same classes in the same order',
            )


def classifying_heads(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of classes of each head that predicts the data's classes."""
    for name, module in model.named_modules():
        own = re.sub(r'(\.\d+)+$', '', name).rpartition('.')[2]  # heads of a cascade have numbers
        number = getattr(module, 'num_classes', None)
        counts = own.endswith('head') and own not in OTHER_CLASSES
        if counts and isinstance(number, int) and not getattr(module, 'class_agnostic', False):
            yield name, number
