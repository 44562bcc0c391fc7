"""Count the steps from ResNet to ConvNeXt, and compare them with the paper's tables 10 and 11.

The paper's figures are the multiply-adds of convolutions and linear layers, one each, for one image
of 224 x 224 pixels, the classifier included. Nothing else is counted: no bias, norm, activation,
pooling, layer scale or sum.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from rich import box
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..models.roadmap import RoadmapClassifier
from ..models.roadmap_steps import REGIMES, STEPS, SWIN, Printed, is_on_the_road, title_of
from .tables import as_text, make_table

IMAGE = (1, 3, 224, 224)
FORMATS = ('text', 'markdown', 'json')
CONVENTION = (
    'GMACs: 1e9 multiply-adds of one image of 224 x 224 pixels, which the paper calls GFLOPs, in '
    'convolutions and linear layers, the classifier included. Parameters: without layer scale, '
    'whose parameters are in the next column. Accuracies are those of the authors, top-1 on '
    'ImageNet-1K; we have not trained these networks on it.'
)
# Where table 10 differs from the counts, and why.
SLIPPED_CELLS = {('layer_norm', 'T'), ('convnext', 'T')}
SLIPPED = (
    'Counting gives 4.15 and 4.46 where table 10 prints 4.46 and 4.49, and 4.49 for Swin-T where '
    'it prints 4.50: the last figures read as one column that slipped up by a row, a 4.15 lost, '
    "and Swin-T's cell filled with the 4.5 that Swin's authors print. Table 11 has no such rise at "
    'BN to LN, which adds no convolution. This is our inference; the authors do not state it.'
)
# The kinds of layers of :func:`kind_of`, in the order in which tables have them.
KINDS = ('stem', 'spatial', 'pointwise', 'shortcut', 'downsampling', 'head')


@dataclass(frozen=True)
class Count:
    """The cost of a step in a regime.

    Attributes:
        step: Name of the step.
        regime: ``T`` or ``B``.
        macs: Multiply-adds by kind of layer, see :func:`kind_of`.
        params: Parameters without layer scale.
        layer_scale: Parameters of layer scale.
    """

    step: str
    regime: str
    macs: dict[str, int]
    params: int
    layer_scale: int

    @property
    def total(self) -> int:
        """Multiply-adds of all layers."""
        return sum(self.macs.values())

    @property
    def printed(self) -> Printed:
        """What the paper prints."""
        return STEPS[self.step].printed[self.regime]

    @property
    def agrees(self) -> bool:
        """Whether the count, rounded as the paper rounds, is the printed figure."""
        return f'{self.total / 1e9:.2f}' == f'{self.printed.gmacs:.2f}'


def kind_of(name: str, module: nn.Module) -> str:
    """Return what a convolution or linear layer of a step is for, one of :data:`KINDS`.

    Args:
        name: Its name in the network.
        module: The layer.
    """
    if name in ('conv1', 'downsample_layers.0.0'):
        return 'stem'
    if name in ('fc', 'head'):
        return 'head'
    if name.startswith('downsample_layers'):
        return 'downsampling'
    if '.downsample.' in name:
        return 'shortcut'
    is_spatial = isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
    return 'spatial' if is_spatial else 'pointwise'


def count_step(step: str, regime: str = 'T') -> Count:
    """Count a step on the meta device, which computes shapes but no numbers.

    Args:
        step: Name of the step.
        regime: ``T`` or ``B``.

    Raises:
        ValueError: There is no such step or regime.
    """
    with torch.device('meta'):
        net = RoadmapClassifier(step, regime).eval()
        image = torch.empty(IMAGE)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(image)
    operations = counter.get_flop_counts()
    macs = dict.fromkeys(KINDS, 0)
    for name, module in net.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            found = operations.get(f'{type(net).__name__}.{name}', {})
            macs[kind_of(name, module)] += sum(found.values()) // 2
    sizes = {name: parameter.numel() for name, parameter in net.named_parameters()}
    scale = sum(size for name, size in sizes.items() if name.endswith('.gamma'))
    return Count(step, regime, macs, sum(sizes.values()) - scale, scale)


def count_road(regimes: Iterable[str] = tuple(REGIMES)) -> list[Count]:
    """Count all steps of some regimes, in the order of the table."""
    return [count_step(step, regime) for regime in regimes for step in STEPS]


def differing(counts: Iterable[Count]) -> list[Count]:
    """Return the counts that are not the printed figures."""
    return [count for count in counts if not count.agrees]


def accuracy_text(printed: Printed) -> str:
    """Return an accuracy as the paper prints it, with its deviation if there is one."""
    deviation = '' if printed.deviation is None else f' ± {printed.deviation:.2f}'
    return f'{printed.accuracy:.2f}{deviation}'


def steps_table(counts: Sequence[Count], style: box.Box) -> str:
    """Return the table of one regime."""
    headings = (
        'step', 'GMACs', 'printed', 'parameters', 'layer scale', "accuracy, the authors'",
    )  # fmt: skip
    rows = []
    for number, count in enumerate(counts):
        title = title_of(count.step, count.regime)
        aside = '' if is_on_the_road(count.step) else ' (not on the road)'
        rows.append(
            (
                f'{number} {title}{aside}',
                f'{count.total / 1e9:.2f}',
                f'{count.printed.gmacs:.2f}{"" if count.agrees else " (differs)"}',
                f'{count.params:,}',
                f'{count.layer_scale:,}',
                accuracy_text(count.printed),
            )
        )
    regime = counts[0].regime
    swin = SWIN[regime]
    rows.append(
        (REGIMES[regime][2], '', f'{swin.gmacs:.2f}', '', '', accuracy_text(swin)),
    )
    return as_text(make_table(headings, rows, style))


def kinds_table(counts: Sequence[Count], style: box.Box) -> str:
    """Return where the multiply-adds of each step are, in 1e6, by kind of layer."""
    rows = []
    for number, count in enumerate(counts):
        cells = [f'{macs / 1e6:.1f}' if macs else '-' for macs in count.macs.values()]
        rows.append((f'{number} {count.step}', *cells, f'{count.total / 1e6:.1f}'))
    return as_text(make_table(('millions of multiply-adds', *KINDS, 'all'), rows, style))


def notes(counts: Sequence[Count]) -> list[str]:
    """Return how the figures were made, which cells differ from the paper's, and why."""
    found = differing(counts)
    if not found:
        return [CONVENTION, 'All cells agree with the printed ones.']
    cells = ', '.join(
        f'{count.step} in regime {count.regime} ({count.total / 1e9:.2f}, printed '
        f'{count.printed.gmacs:.2f})'
        for count in found
    )
    said = [CONVENTION, f'{len(found)} of {len(counts)} cells differ: {cells}.']
    return [*said, SLIPPED] if {(one.step, one.regime) for one in found} == SLIPPED_CELLS else said


def render(counts: Sequence[Count], form: str, with_kinds: bool = False) -> str:
    """Return the tables of all regimes among some counts.

    Args:
        counts: Of whole regimes, as :func:`count_road` returns them.
        form: One of :data:`FORMATS`.
        with_kinds: Whether to add where the multiply-adds are; JSON always has it.
    """
    if form == 'json':
        return json.dumps(_as_data(counts), indent=1)
    style = box.MARKDOWN if form == 'markdown' else box.SIMPLE_HEAD
    parts = []
    for regime in dict.fromkeys(count.regime for count in counts):
        chosen = [count for count in counts if count.regime == regime]
        first, last, _ = REGIMES[regime]
        parts.append(f'Regime {regime}, from {first} to {last}')
        parts.append(steps_table(chosen, style))
        if with_kinds:
            parts.append(kinds_table(chosen, style))
    return '\n\n'.join([*parts, *notes(counts)])


def _as_data(counts: Sequence[Count]) -> dict:
    steps = [
        dict(
            step=count.step,
            regime=count.regime,
            change=STEPS[count.step].change,
            follows=STEPS[count.step].follows,
            on_the_road=is_on_the_road(count.step),
            macs=count.total,
            macs_by_kind=count.macs,
            params=count.params,
            layer_scale_params=count.layer_scale,
            printed_gmacs=count.printed.gmacs,
            agrees=count.agrees,
            authors_accuracy=count.printed.accuracy,
            authors_deviation=count.printed.deviation,
        )
        for count in counts
    ]
    return dict(notes=notes(counts), steps=steps)
