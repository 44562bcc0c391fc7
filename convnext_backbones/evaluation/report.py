"""The page that an evaluation leaves beside its metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from ..config.walk import type_name
from ..reports.training_page import REPORT
from ..reports.training_runs import ENVIRONMENT
from .flags import COCO_METRICS, IOU_METRICS, coco_tasks, evaluators

# In the work dir of a training, whose own report has the other name.
REPORT_BESIDE_TRAINING = 'evaluation.html'
# In what the metrics of a config may differ: what they measure, and where they write it.
FREE = ('type', 'metric', 'iou_metrics', 'prefix', 'outfile_prefix', 'out_prefix', 'output_dir')


def why_no_report(cfg: Config) -> str | None:
    """Return why this evaluation has no report, as a part of a sentence; None if it has one.

    Args:
        cfg: A config with the metrics.
    """
    known = COCO_METRICS if cfg.default_scope == 'mmdet' else IOU_METRICS
    metrics = evaluators(cfg)
    others = [type_name(metric) for metric in metrics if type_name(metric) not in known]
    if others or not metrics:
        found = others[0] if others else 'no metric'
        return f'it is made for {" and ".join(known)}, and the config evaluates with {found}'
    if any(metric.get('format_only') for metric in metrics):
        return 'with format_only the predictions are written, and not compared with annotations'
    if cfg.default_scope == 'mmdet' and not coco_tasks(cfg):
        return 'the config evaluates proposals, which have no classes'
    options = [{k: v for k, v in metric.items() if k not in FREE} for metric in metrics]
    if any(other != options[0] for other in options):
        return 'the metrics of the config have different options, and the page shows one kind'
    return None


def write_report(
    cfg: Config, dataset: BaseDataset, records: Sequence[dict] | None, metrics: Mapping[str, Any]
) -> Path | None:
    """Write the report of an evaluation into the work dir.

    An evaluation is worth more than its report: whatever fails here is logged as a warning.

    Args:
        cfg: A config with the test data and the metrics.
        dataset: The test data.
        records: The predictions, as :class:`.predictions.DumpPredictions` keeps them; None if no
            report is wanted.
        metrics: The evaluator's metrics.

    Returns:
        The path of the page; None if there is none.
    """
    path = report_path(cfg.work_dir)
    try:
        path.unlink(missing_ok=True)  # an earlier one would be taken for this evaluation's
        if records is None:
            return None
        reason = why_no_report(cfg)
        if reason:
            print_log(f'There is no report: {reason}.', 'current')
            return None
        # Needs mmcv; whatever else imports this module does not.
        from ..engine.transforms import DataRootHook

        DataRootHook().check(dataset)  # the page shows the files that annotations name
        if cfg.default_scope == 'mmdet':
            from .detection_report import write_detection_report as write
        else:
            from .segmentation_report import write_segmentation_report as write
        write(cfg, dataset, records, metrics, path)
    except Exception as error:  # what unusual data make libraries raise is open-ended
        print_log(
            f'There is no report, because it failed with {type(error).__name__}: {error}. The '
            'metrics are complete.',
            'current',
            logging.WARNING,
        )
        return None
    print_log(f'The report is in {path}', 'current')
    return path


def report_path(work_dir: str) -> Path:
    """Return the file for the report: ``report.html``, or another where a training has its own."""
    folder = Path(work_dir)
    is_training = (folder / ENVIRONMENT).is_file()
    return folder / (REPORT_BESIDE_TRAINING if is_training else REPORT)
