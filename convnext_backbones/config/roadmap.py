"""The channels of a RoadmapNet: one entry of a config chooses a step, and the rest follows."""

from __future__ import annotations

from mmengine.config import Config

from ..models.arguments import normalize_out_indices
from ..models.roadmap_steps import STAGES, find_sizes
from .maps import follow_backbone
from .walk import type_name, walk

BACKBONE = 'RoadmapNet'


def set_road(cfg: Config) -> None:
    """Let the neck and the heads of each network read the maps of its RoadmapNet.

    The number of channels differs from step to step, so that without this ``model.backbone.step``
    alone would not fit. Configs without a RoadmapNet do not change.

    Args:
        cfg: A config with a model; its neck and heads are changed in place.

    Raises:
        TypeError, ValueError: There is no such step or regime, or the neck is not made for a
            pyramid.
    """
    for _, part in walk(cfg.model, 'model'):
        backbone = part.get('backbone')
        if not isinstance(backbone, dict) or type_name(backbone) != BACKBONE:
            continue
        sizes = find_sizes(
            backbone.get('step', ''), backbone.get('regime', 'T'), backbone.get('width_factor', 1.0)
        )
        stages = normalize_out_indices(backbone.get('out_indices', tuple(range(STAGES))), STAGES)
        follow_backbone(part, stages, sizes.out_channels)
