"""A transform of label maps that a config may name; it needs no mmcv."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.registry import TRANSFORMS

from ..io.label_maps import UNLABELED


@TRANSFORMS.register_module()
class IgnoreLabels:
    """Let mmseg's LoadAnnotations, which follows, leave out labels that are no class.

    The setting ``ignore_labels`` of a config puts it into every pipeline.

    Args:
        labels: Values of the label maps, as they are in the files.
    """

    def __init__(self, labels: Sequence[int]) -> None:
        self.labels = list(labels)

    def __call__(self, results: dict) -> dict:
        """Add the labels to the mapping that LoadAnnotations applies, after reduce_zero_label."""
        shift = 1 if results.get('reduce_zero_label') else 0
        ignored = {value - shift: UNLABELED for value in self.labels if value >= shift}
        return results | dict(label_map={**(results.get('label_map') or {}), **ignored})

    def __repr__(self) -> str:
        return f'{type(self).__name__}(labels={self.labels})'
