"""Evaluate a detector or a segmentor: tools/test.py CONFIG CHECKPOINT [flags]."""

from __future__ import annotations

import json
import os
import sys
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process

from convnext_backbones.launch import (
    build_runner,
    check_file,
    leave_process_group,
    load_config,
    runner_parser,
)

METRICS_FILE = 'metrics.json'


def evaluators(cfg: Config) -> list[ConfigDict]:
    """The metrics of the test loop; a config names one, or a list."""
    metrics = cfg.test_evaluator
    return list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]


def draw_to(cfg: Config, folder: str) -> None:
    """Draw every prediction into ``folder``."""
    cfg.default_hooks.visualization.draw = True
    if cfg.default_scope == 'mmdet':
        cfg.default_hooks.visualization.test_out_dir = os.path.abspath(folder)
    else:
        cfg.default_hooks.visualization.interval = 1  # mmseg draws every 50th batch by itself
        cfg.visualizer.save_dir = folder


def write_predictions_to(cfg: Config, folder: str) -> None:
    """Keep the predictions for evaluation elsewhere: COCO result files, or label map images.

    Raises:
        ValueError: The config evaluates with a metric that writes neither.
    """
    os.makedirs(folder, exist_ok=True)
    for metric in evaluators(cfg):
        if metric.type == 'CocoMetric':
            metric.outfile_prefix = os.path.join(folder, 'predictions')
        elif metric.type == 'IoUMetric':
            metric.output_dir = folder
        else:
            raise ValueError(f'expected CocoMetric or IoUMetric for --out, got {metric.type!r}')


def use_tta(cfg: Config) -> None:
    """Switch ``cfg`` to test-time augmentation.

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
    cfg.model = ConfigDict(**deepcopy(cfg.tta_model), module=cfg.model)
    if cfg.default_scope == 'mmdet':
        # mmdet merges boxes over augmentations, and asserts that there are no masks to merge.
        roi_head = cfg.model.module.get('roi_head', {})
        roi_head.pop('mask_head', None)
        roi_head.pop('mask_roi_extractor', None)
        for metric in evaluators(cfg):
            metric.metric = 'bbox'


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = runner_parser(__doc__)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='weights to evaluate')
    parser.add_argument('--out', metavar='DIR', help='keep the predictions here, as JSON or PNG')
    parser.add_argument('--show-dir', metavar='DIR', help='draw the predictions here')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    args = parser.parse_args(argv)
    try:
        check_file(args.checkpoint, 'a checkpoint')
        cfg = load_config(args)
        cfg.load_from = args.checkpoint
        if args.show_dir:
            draw_to(cfg, args.show_dir)
        if args.out:
            write_predictions_to(cfg, args.out)
        if args.tta:
            use_tta(cfg)
        runner = build_runner(cfg)
        if args.tta and cfg.default_scope == 'mmdet':
            runner.logger.info('Test-time augmentation merges boxes: masks are not evaluated.')
        metrics = runner.test()
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'test: {error}')
    if is_main_process():
        path = Path(cfg.work_dir) / METRICS_FILE
        temporary = path.with_suffix('.tmp')
        temporary.write_text(json.dumps(metrics, indent=2, default=float))
        os.replace(temporary, path)
        runner.logger.info(f'Metrics are in {path}')
    leave_process_group()


if __name__ == '__main__':
    main()
