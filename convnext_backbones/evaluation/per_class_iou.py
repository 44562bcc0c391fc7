"""mmseg's IoUMetric that also writes the metrics of each class to files.

Needs mmseg; :mod:`.metrics` imports it when a config asks for the metric.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mmseg.evaluation import IoUMetric

from .results import write_per_class


class PerClassIoUMetric(IoUMetric):
    """IoUMetric that writes ``<out_prefix>.json`` and ``<out_prefix>.csv``, a row per class.

    Args:
        out_prefix: Path of the files without the suffix.
        **kwargs: Arguments of IoUMetric.
    """

    def __init__(self, out_prefix: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.out_prefix = out_prefix

    def total_area_to_metrics(self, *areas: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        """Compute the metrics from the areas of all images, and write those of each class."""
        metrics = super().total_area_to_metrics(*areas, **options)
        columns = {name: values for name, values in metrics.items() if name != 'aAcc'}
        write_per_class(self.out_prefix, self.dataset_meta['classes'], columns)
        return metrics
