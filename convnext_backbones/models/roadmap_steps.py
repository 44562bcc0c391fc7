"""The road from ResNet to ConvNeXt: the only table of its steps.

"A ConvNet for the 2020s" (Liu et al., CVPR 2022), section 2 and appendix C. Each row of
:data:`STEPS` states what it changes against the step that it follows. The paper does not print
every detail of the steps between; where its multiply-adds leave a choice, it is named at the field.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

# Regime -> the networks at the two ends of the road, and the Transformer of the same cost.
REGIMES = {
    'T': ('ResNet-50', 'ConvNeXt-T', 'Swin-T'),
    'B': ('ResNet-200', 'ConvNeXt-B', 'Swin-B'),
}
EXPANSION = 4  # the wide channels of a block over its narrow ones
STAGES = 4
REDUCING, INVERTED, MOVED_UP = 'reducing', 'inverted', 'moved up'


@dataclass(frozen=True)
class Printed:
    """What the paper prints for a step, in table 10 (regime T) or 11 (regime B).

    Attributes:
        accuracy: ImageNet-1K top-1 accuracy in percent; the mean of three trainings in regime T.
        gmacs: Multiply-adds in 1e9, which the paper calls GFLOPs.
        deviation: Standard deviation of the accuracy; None for a single training.
    """

    accuracy: float
    gmacs: float
    deviation: float | None = None


@dataclass(frozen=True)
class Step:
    """One network of the road. The values of the first, a ResNet, are the defaults.

    Attributes:
        title: The paper's name of the step.
        change: What it changes, in one sentence.
        follows: Name of the step that it changes; empty for the first.
        printed: What the paper prints, by regime.
        depths: Blocks per stage, by regime.
        width: Channels C of the first stage, by regime; each stage doubles them.
        patch_stem: A 4x4 convolution of stride 4 instead of a 7x7 convolution and a max pool. No
            norm and no activation follow it before the last step, which adds the norm.
        block: ``reducing``: 1x1 from 4C to C, spatial, 1x1 to 4C. ``inverted``: 1x1 from C to 4C,
            spatial at 4C, 1x1 to C. ``moved up``: spatial at C, 1x1 to 4C, 1x1 to C.
        depthwise: Whether the spatial convolution is depthwise.
        kernel_size: Of the spatial convolution.
        gelu: GELU instead of ReLU.
        few_activations: One activation per block, between the two 1x1 convolutions, and none after
            the sum.
        few_norms: One norm per block, after the spatial convolution. The norms of the shortcut
            convolutions stay.
        layer_norm: LayerNorm over the channels instead of BatchNorm.
        separate_downsampling: Layers of their own halve the maps, with a norm before each, after
            the stem and at the end: the network is a ConvNeXt.
        enhanced_recipe: The paper's training recipe, of which the network has the initial values
            and layer scale. The paper states layer scale for the whole road, not for each step.
    """

    title: str
    change: str
    follows: str
    printed: Mapping[str, Printed]
    depths: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: {'T': (3, 4, 6, 3), 'B': (3, 24, 36, 3)}
    )
    width: Mapping[str, int] = field(default_factory=lambda: {'T': 64, 'B': 64})
    patch_stem: bool = False
    block: str = REDUCING
    depthwise: bool = False
    kernel_size: int = 3
    gelu: bool = False
    few_activations: bool = False
    few_norms: bool = False
    layer_norm: bool = False
    separate_downsampling: bool = False
    enhanced_recipe: bool = False


# Regime -> the Transformer at the end of the paper's tables.
SWIN = {'T': Printed(81.30, 4.50), 'B': Printed(83.50, 15.43)}
FIRST = Step(
    'ResNet',
    'ResNet as published, with the stride of a stage on its first 3x3 convolution',
    '',
    {'T': Printed(76.13, 4.09), 'B': Printed(78.20, 15.01)},
)
# fmt: off
# Name, title, change in words, what changes; table 10: accuracy, deviation, multiply-adds;
# table 11: accuracy, multiply-adds.
ROWS: tuple[tuple[str, str, str, dict[str, Any], tuple, tuple], ...] = (
    ('enhanced_recipe', 'enhanced recipe', 'the same network, trained as a Transformer is',
     dict(enhanced_recipe=True), (78.82, 0.07, 4.09), (81.14, 15.01)),
    ('stage_ratio', 'stage ratio', 'blocks per stage 3, 3, 9, 3; in regime B 3, 3, 27, 3 and a '
     'width of 84',
     dict(depths={'T': (3, 3, 9, 3), 'B': (3, 3, 27, 3)}, width={'T': 64, 'B': 84}),
     (79.36, 0.07, 4.53), (81.33, 14.52)),
    ('patchify_stem', '"patchify" stem', 'a 4x4 convolution of stride 4 as the stem',
     dict(patch_stem=True), (79.51, 0.18, 4.42), (81.59, 14.38)),
    ('depthwise_conv', 'depthwise conv', 'the 3x3 convolutions become depthwise',
     dict(depthwise=True), (78.28, 0.08, 2.35), (80.54, 7.23)),
    ('increase_width', 'increase width', "a width of 96, Swin-T's; in regime B 128",
     dict(width={'T': 96, 'B': 128}), (80.50, 0.02, 5.27), (81.85, 16.76)),
    ('inverting_dimensions', 'inverting dimensions',
     'blocks are wide inside and narrow outside, and the depthwise convolution is at the wide part',
     dict(block=INVERTED), (80.64, 0.03, 4.64), (82.64, 15.68)),
    ('move_up_depthwise_conv', 'move up depthwise conv',
     'the depthwise convolution comes first, at the narrow part',
     dict(block=MOVED_UP), (79.92, 0.08, 4.07), (82.04, 14.63)),
    ('kernel_size_5', 'kernel size 5', 'depthwise convolutions of 5x5',
     dict(kernel_size=5), (80.35, 0.08, 4.10), (82.32, 14.70)),
    ('kernel_size_7', 'kernel size 7', 'depthwise convolutions of 7x7',
     dict(kernel_size=7), (80.57, 0.14, 4.15), (82.30, 14.81)),
    ('kernel_size_9', 'kernel size 9', 'depthwise convolutions of 9x9; the road goes on from 7x7',
     dict(kernel_size=9), (80.57, 0.06, 4.21), (82.27, 14.95)),
    ('kernel_size_11', 'kernel size 11', 'depthwise convolutions of 11x11, not on the road either',
     dict(kernel_size=11), (80.47, 0.11, 4.29), (82.18, 15.13)),
    ('gelu', 'ReLU to GELU', 'GELU in place of ReLU',
     dict(gelu=True), (80.62, 0.14, 4.15), (82.19, 14.81)),
    ('fewer_activations', 'fewer activations',
     'one activation per block, between the two 1x1 convolutions',
     dict(few_activations=True), (81.27, 0.06, 4.15), (82.71, 14.81)),
    ('fewer_norms', 'fewer norms', 'one norm per block, after the depthwise convolution',
     dict(few_norms=True), (81.41, 0.09, 4.15), (83.17, 14.81)),
    ('layer_norm', 'BN to LN', 'LayerNorm in place of BatchNorm',
     dict(layer_norm=True), (81.47, 0.09, 4.46), (83.35, 14.81)),
    ('convnext', 'separate downsampling conv',
     'a 2x2 convolution of stride 2 before each stage, with a norm; no strided blocks',
     dict(separate_downsampling=True), (81.97, 0.06, 4.49), (83.60, 15.35)),
)
# fmt: on
# The kernel sizes 9 and 11 were tried, and the road goes on from 7.
LEADS_BACK = {'gelu': 'kernel_size_7'}


def _build_road() -> dict[str, Step]:
    road, last = {'resnet': FIRST}, 'resnet'
    for name, title, change, changes, (accuracy, deviation, gmacs), in_b in ROWS:
        follows = LEADS_BACK.get(name, last)
        printed = {'T': Printed(accuracy, gmacs, deviation), 'B': Printed(*in_b)}
        road[name] = replace(
            road[follows],
            title=title,
            change=change,
            follows=follows,
            printed=printed,
            **changes,
        )
        last = name
    return road


STEPS: dict[str, Step] = _build_road()


def find_step(step: str | int) -> str:
    """Return the name of a step.

    Args:
        step: A name of :data:`STEPS`, or its number from 0 to 16.

    Raises:
        TypeError: ``step`` is neither a name nor a number.
        ValueError: There is no such step.
    """
    names = list(STEPS)
    if isinstance(step, bool) or not isinstance(step, (str, int)):
        raise TypeError(f'expected a name or number of a step, got {step!r}')
    if isinstance(step, int):
        if not 0 <= step < len(names):
            raise ValueError(f'expected a step from 0 to {len(names) - 1}, got {step}')
        return names[step]
    if step not in STEPS:
        close = difflib.get_close_matches(step, names, n=1)
        hint = f'; did you mean {close[0]!r}?' if close else ''
        raise ValueError(f'expected a step out of {", ".join(names)}, got {step!r}{hint}')
    return step


def title_of(name: str, regime: str) -> str:
    """Return a step in words; the ends of the road are named after the networks of a regime."""
    first, last, _ = REGIMES[regime]
    if name == 'resnet':
        return first
    return f'{STEPS[name].title} ({last})' if name == 'convnext' else STEPS[name].title


def is_on_the_road(name: str) -> bool:
    """Whether a step leads to ConvNeXt; kernel sizes 9 and 11 do not."""
    last = 'convnext'
    while last and last != name:
        last = STEPS[last].follows
    return bool(last)


@dataclass(frozen=True)
class Sizes:
    """The sizes of a step in a regime.

    Attributes:
        depths: Blocks per stage.
        dims: Narrow channels C per stage.
        out_channels: Channels of the maps per stage: 4C in blocks that reduce, C in the others.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    out_channels: tuple[int, ...]


def find_sizes(step: str | int, regime: str = 'T', width_factor: float = 1.0) -> Sizes:
    """Return the sizes of a step.

    Args:
        step: As in :func:`find_step`.
        regime: ``T`` or ``B``, the columns of :data:`REGIMES`.
        width_factor: Multiplies the width, which is rounded to a whole number of at least 1.

    Raises:
        TypeError, ValueError: There is no such step or regime.
    """
    row = STEPS[find_step(step)]
    if regime not in REGIMES:
        raise ValueError(f'expected a regime out of {", ".join(REGIMES)}, got {regime!r}')
    width = max(1, round(row.width[regime] * width_factor))
    dims = tuple(width * 2**i for i in range(STAGES))
    expansion = EXPANSION if row.block == REDUCING else 1
    return Sizes(row.depths[regime], dims, tuple(expansion * dim for dim in dims))
