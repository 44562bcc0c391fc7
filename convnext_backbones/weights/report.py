"""Report on every tensor of a file and of a model."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from .names import OUTPUT_NORM

# The attribute of a detector or segmentor that holds its ConvNeXt.
BACKBONE = 'backbone.'


@dataclass
class LoadReport:
    """The outcome for every tensor of a file and of a model.

    ``print(report)`` gives the counts, in all and per stage. Names are those of the model, except
    in ``unexpected`` and ``dropped``, which the model does not have.

    Attributes:
        source: The file.
        layout: The recognized layout, such as ``timm``; ``sparse`` for checkpoints of one's own
            pretraining of V2, ``keras`` for files of Keras.
        loaded: Tensors of the model that were filled.
        missing: Tensors of the model that the file does not have; they keep their values.
        mismatched: Tensors that both have, skipped because shape or type differ.
        unexpected: Tensors of the file that the model has no place for.
        dropped: Tensors of the file skipped on purpose: norm and head of a classifier, neck and
            heads of a detector, stages and norms that the model was built without, other networks,
            second names of a tensor.
        reshaped: Loaded without axes of length one, such as those of 1x1 convolutions.
        adapted: Loaded into another number of input channels.
        converted: Loaded from another floating-point type.
        not_finite: Loaded with NaN or infinity in them.
        notes: Sentences about things detected or changed during loading, logged as warnings.
        surprises: Phrases about what does not fit, and why; an error unless ``strict=False``.
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
        """Return, by part of the model, how many tensors were loaded, and how many were not."""
        loaded = Counter(map(_part, self.loaded))
        absent = Counter(map(_part, self.missing + self.mismatched))
        parts = sorted(
            {*loaded, *absent}, key=lambda part: (part != 'stem', part[:5] != 'stage', part)
        )
        return {part: (loaded[part], absent[part]) for part in parts}

    def counts(self) -> str:
        """Return the numbers that are not zero, in words."""
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


def _part(name: str) -> str:
    """Return the part of a model in which a tensor is counted."""
    name = name.removeprefix(BACKBONE)
    if name.startswith('downsample_layers.0.'):
        return 'stem'
    if stage := re.match(r'(?:stages|downsample_layers)\.(\d+)\.', name):
        return f'stage {stage[1]}'
    return 'output norms' if OUTPUT_NORM.match(name) else name.partition('.')[0]
