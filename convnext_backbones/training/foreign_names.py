"""Start from detectors and segmentors that were trained with another project's ConvNeXt."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ..models.convnext import ConvNeXt
from ..weights.matching import in_own_names


class ForeignNamesHook(Hook):
    """Rename the backbone's tensors in the checkpoint that ``load_from`` names.

    mmengine fills a model by name, so that a backbone of mmpretrain's names would start from random
    weights, with a warning.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Change the weights of ``checkpoint`` in place."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not isinstance(getattr(model, 'backbone', None), ConvNeXt):
            return
        state = checkpoint.get('state_dict', checkpoint)
        renamed = in_own_names(state)
        state.clear()
        state.update(renamed)
