"""Flags that change how a config evaluates."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..config.walk import type_name
from .results import PER_CLASS_FILES

COCO_METRICS = ('CocoMetric', 'FastCocoMetric')
IOU_METRICS = ('IoUMetric', 'PerClassIoUMetric')


def add_evaluation_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that change how predictions are evaluated, however they were made."""
    parser.add_argument('--out', metavar='DIR', help='write the predictions here, as JSON or PNG')
    parser.add_argument(
        '--fast-eval', action='store_true', help='compute COCO metrics with faster-coco-eval'
    )
    parser.add_argument('--classwise', action='store_true', help='AP of each class, for detectors')
    parser.add_argument('--no-report', action='store_true', help='write no report.html')


def set_evaluation_flags(cfg: Config, args: argparse.Namespace) -> None:
    """Apply the flags of :func:`add_evaluation_flags` to the metrics of ``cfg``.

    Segmentors also write their metrics of each class to files in the work dir.

    Raises:
        ValueError: A flag does not apply to a metric of the config.
    """
    if args.classwise:
        for metric in named_metrics(cfg, COCO_METRICS, '--classwise'):
            metric.classwise = True
    if args.fast_eval:
        for metric in named_metrics(cfg, COCO_METRICS, '--fast-eval'):
            metric.type = 'FastCocoMetric'
    if args.out:
        set_prediction_folder(cfg, args.out)
    for metric in evaluators(cfg):
        if metric.type == 'IoUMetric':
            metric.type = 'PerClassIoUMetric'
            # mmengine requires different prefixes for two metrics of one type.
            name = '_'.join(filter(None, [PER_CLASS_FILES, metric.get('prefix')]))
            metric.out_prefix = os.path.join(cfg.work_dir, name)


def evaluators(cfg: Config) -> list[ConfigDict]:
    """Return the metrics of the test loop; a config names one metric or a list."""
    metrics = cfg.test_evaluator
    return list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]


def named_metrics(cfg: Config, names: Sequence[str], flag: str) -> list[ConfigDict]:
    """Return the metrics of the test loop if all are of the given types.

    Args:
        cfg: The config.
        names: Types that the flag supports.
        flag: The flag, for the message.

    Raises:
        ValueError: A metric is of another type.
    """
    metrics = evaluators(cfg)
    for metric in metrics:
        if metric.type not in names:
            raise ValueError(f'expected {" or ".join(names)} for {flag}, got {metric.type!r}')
    return metrics


def coco_metrics(cfg: Config) -> list[ConfigDict]:
    """Return the CocoMetrics of the test loop."""
    return [metric for metric in evaluators(cfg) if type_name(metric) in COCO_METRICS]


def coco_tasks(cfg: Config) -> list[str]:
    """Return what the CocoMetrics evaluate by class, ``bbox`` and ``segm``; not proposals."""
    named: set[str] = set()
    for metric in coco_metrics(cfg):
        tasks = metric.get('metric', 'bbox')
        named.update([tasks] if isinstance(tasks, str) else tasks)
    return [task for task in ('bbox', 'segm') if task in named]


def set_prediction_folder(cfg: Config, folder: str) -> None:
    """Write the predictions to ``folder``: as COCO result files, or as label map images.

    Raises:
        ValueError: A metric of the config writes neither.
    """
    os.makedirs(folder, exist_ok=True)
    for metric in named_metrics(cfg, COCO_METRICS + IOU_METRICS, '--out'):
        if metric.type in COCO_METRICS:
            metric.outfile_prefix = os.path.join(folder, 'predictions')
        else:
            metric.output_dir = folder


def prepare_prediction_dump(cfg: Config, path: str) -> None:
    """Make the folder of a file that keeps the predictions.

    Raises:
        ValueError: A metric of the config cannot be computed from such a file.
    """
    named_metrics(cfg, COCO_METRICS + IOU_METRICS, '--dump')
    Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)


def set_tta(cfg: Config) -> None:
    """Switch ``cfg`` to test-time augmentation.

    A config's ``tta_test_cfg`` replaces the ``test_cfg`` of its model: the authors' segmentors see
    whole images with augmentation, and windows of them without.

    Raises:
        ValueError: The config does not define the augmentation.
    """
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise ValueError(
            f'expected tta_model and tta_pipeline in the config for --tta, found no '
            f'{" and no ".join(missing)}'
        )
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    if 'tta_test_cfg' in cfg:
        cfg.model.test_cfg = cfg.tta_test_cfg
    cfg.model = ConfigDict(**deepcopy(cfg.tta_model), module=cfg.model)
    if cfg.default_scope == 'mmdet':
        # mmdet merges the boxes of all augmentations, but asserts that there are no masks.
        roi_head = cfg.model.module.get('roi_head', {})
        roi_head.pop('mask_head', None)
        roi_head.pop('mask_roi_extractor', None)
        for metric in evaluators(cfg):
            metric.metric = 'bbox'
