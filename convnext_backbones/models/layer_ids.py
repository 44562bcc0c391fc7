"""Layer ids for layer-wise learning-rate decay."""

from __future__ import annotations

import math
from collections.abc import Sequence

# The authors count this many blocks of the third stage, the deep one, as one layer.
BLOCKS_PER_LAYER = 3


def count_layers(depths: Sequence[int]) -> int:
    """Return the number of layers in the authors' count: 6 for tiny, 12 for small to xlarge.

    One for each of the first two stages, one per three blocks of the third, one for the fourth.
    The stem is layer 0, output norms and heads are one above the last.

    Raises:
        ValueError: The backbone does not have four stages, for which the authors give no rule.
    """
    if len(depths) != 4:
        raise ValueError(
            f'expected a backbone of four stages for layer-wise decay, got depths {tuple(depths)}; '
            'the authors give no rule for others'
        )
    return 3 + math.ceil(depths[2] / BLOCKS_PER_LAYER)


def layer_id(name: str, num_layers: int, decay_type: str) -> int:
    """Return the layer of a backbone parameter, from 0 for the stem.

    Args:
        name: Name in the backbone, such as ``stages.2.4.gamma``.
        num_layers: From :func:`count_layers`.
        decay_type: ``layer_wise``, or ``stage_wise`` with one layer per stage.

    Raises:
        ValueError: No rule covers the name.
    """
    kind, *rest = name.split('.')
    if kind == 'downsample_layers':
        return 0 if decay_type == 'stage_wise' else (0, 2, 3, num_layers)[int(rest[0])]
    if kind == 'stages':
        stage, block = int(rest[0]), int(rest[1])
        if decay_type == 'stage_wise':
            return stage + 1
        return (1, 2, 3 + block // BLOCKS_PER_LAYER, num_layers)[stage]
    if kind in ('norm0', 'norm1', 'norm2', 'norm3'):
        return num_layers + 1
    raise ValueError(
        f'no learning-rate rule covers the backbone parameter {name!r}, which would train at the '
        "heads' rate; expected names below downsample_layers, stages or norm0 to norm3"
    )
