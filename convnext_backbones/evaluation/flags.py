"""Flags that change how a config evaluates."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config, ConfigDict

from .results import PER_CLASS_FILES

COCO_METRICS = ('CocoMetric', 'FastCocoMetric')
IOU_METRICS = ('IoUMetric', 'PerClassIoUMetric')


def add_evaluation_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that evaluate predictions, wherever they come from."""
    parser.add_argument('--out', metavar='DIR', help='keep the predictions here, as JSON or PNG')
    parser.add_argument(
        '--fast-eval', action='store_true', help='COCO numbers through faster-coco-eval'
    )
    parser.add_argument('--classwise', action='store_true', help='AP of each class, for detectors')


def set_evaluation_flags(cfg: Config, args: argparse.Namespace) -> None:
    """Change the metrics of ``cfg`` as the flags above say; segmentors get their per-class files.

    Raises:
        ValueError: The config evaluates with a metric that a flag does not apply to.
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
            # mmengine demands that metrics of one kind differ in their prefixes.
            name = '_'.join(filter(None, [PER_CLASS_FILES, metric.get('prefix')]))
            metric.out_prefix = os.path.join(cfg.work_dir, name)


def evaluators(cfg: Config) -> list[ConfigDict]:
    """The metrics of the test loop; a config names one, or a list."""
    metrics = cfg.test_evaluator
    return list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]


def named_metrics(cfg: Config, names: Sequence[str], flag: str) -> list[ConfigDict]:
    """The metrics of the test loop, if all are of the given types.

    Raises:
        ValueError: One is not.
    """
    metrics = evaluators(cfg)
    for metric in metrics:
        if metric.type not in names:
            raise ValueError(f'expected {" or ".join(names)} for {flag}, got {metric.type!r}')
    return metrics


def set_prediction_folder(cfg: Config, folder: str) -> None:
    """Keep the predictions for evaluation elsewhere: COCO result files, or label map images.

    Raises:
        ValueError: The config evaluates with a metric that writes neither.
    """
    os.makedirs(folder, exist_ok=True)
    for metric in named_metrics(cfg, COCO_METRICS + IOU_METRICS, '--out'):
        if metric.type in COCO_METRICS:
            metric.outfile_prefix = os.path.join(folder, 'predictions')
        else:
            metric.output_dir = folder


def set_prediction_dump(cfg: Config, path: str) -> None:
    """Keep the predictions for :func:`evaluate_predictions`.

    Raises:
        ValueError: The config evaluates with a metric that cannot be computed from such a file.
    """
    metrics = named_metrics(cfg, COCO_METRICS + IOU_METRICS, '--dump')
    Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
    cfg.test_evaluator = [*metrics, dict(type='DumpPredictions', out_file=path)]


def set_tta(cfg: Config) -> None:
    """Switch ``cfg`` to test-time augmentation.

    ``tta_test_cfg`` replaces the model's ``test_cfg`` where the config has one: the authors'
    segmentors see whole images here, and windows of them otherwise.

    Raises:
        ValueError: The config does not say how to augment.
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
        # mmdet merges boxes over augmentations, and asserts that there are no masks to merge.
        roi_head = cfg.model.module.get('roi_head', {})
        roi_head.pop('mask_head', None)
        roi_head.pop('mask_roi_extractor', None)
        for metric in evaluators(cfg):
            metric.metric = 'bbox'
