"""Picture the blocks of the road from ResNet to ConvNeXt in text, read off the networks."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from ..models.block import Block
from ..models.layers import LayerNorm
from ..models.roadmap import RoadmapNet
from ..models.roadmap_steps import STEPS, title_of

WIRE = ' ─ '
LEGEND = (
    'k x k convolutions with their output channels; dw: depthwise; / 2: of stride 2; BN, LN: batch '
    'and layer norm; scale: layer scale. The lower line is the shortcut.'
)


def layer_text(module: nn.Module) -> str:
    """Return a layer in a few letters; empty for one that does nothing here."""
    if isinstance(module, nn.Conv2d):
        size = module.kernel_size[0]
        depthwise = ' dw' if module.groups > 1 else ''
        stride = f' / {module.stride[0]}' if module.stride[0] > 1 else ''
        return f'{size}x{size}{depthwise}{stride}, {module.out_channels}'
    if isinstance(module, nn.Linear):  # over the channels of a map: a 1x1 convolution
        return f'1x1, {module.out_features}'
    kinds = {nn.BatchNorm2d: 'BN', LayerNorm: 'LN', nn.ReLU: 'ReLU', nn.GELU: 'GELU'}
    return next((text for kind, text in kinds.items() if isinstance(module, kind)), '')


def block_picture(block: nn.Module, in_channels: int) -> str:
    """Return a block as two lines, its branch and its shortcut.

    Args:
        block: Of a step.
        in_channels: Channels of the map that it gets.
    """
    last = 'act3'  # runs after the sum
    layers = [m for name, m in block.named_children() if name not in ('downsample', last)]
    branch = [text for text in map(layer_text, layers) if text]
    if getattr(block, 'gamma', None) is not None:
        branch.append('scale')
    after = layer_text(getattr(block, last, nn.Identity()))
    start = f'{in_channels:4} ─┬─ '
    upper = f'{start}{WIRE.join(branch)} ─ '
    shortcut = getattr(block, 'downsample', None)
    around = '' if shortcut is None else f' {WIRE.join(map(layer_text, shortcut))} '
    lower = f'{" " * start.index("┬")}└─{around}'.ljust(len(upper), '─') + '┘'
    return f'{upper}+{WIRE + after if after else ""}\n{lower}'


def block_pictures(regime: str = 'T') -> str:
    """Return the blocks that halve the map and the ordinary ones, of stage 2 at every step.

    A step whose blocks are those of the step before has no picture.

    Args:
        regime: ``T`` or ``B``.
    """
    parts: list[str] = [LEGEND]
    before = ''
    for number, name in enumerate(STEPS):
        with torch.device('meta'):
            net = RoadmapNet(name, regime, out_indices=(0, 1))
        channels, (halving, second, *_) = net.out_channels, _second_stage(net)
        first = block_picture(halving, channels[0])
        if isinstance(halving, Block):  # a layer of its own halves the map
            downsampling = WIRE.join(map(layer_text, net.downsample_layers[1].children()))
            first = f'{channels[0]:4} ─ {downsampling}'
        ordinary = block_picture(second, channels[1])
        picture = f'{first}\n{ordinary}'
        if picture != before:
            parts.append(f'{number} {title_of(name, regime)}: {STEPS[name].change}\n\n{picture}')
        before = picture
    return '\n\n'.join(parts)


def _second_stage(net: RoadmapNet) -> nn.Sequential:
    name = 'stages.1' if hasattr(net, 'stages') else 'layer2'
    return cast(nn.Sequential, net.get_submodule(name))
