"""Evaluate a detector or a segmentor: tools/test.py CONFIG CHECKPOINT [flags].

WORK_DIR gets metrics.json, and for a segmentor per_class.json and per_class.csv.
"""

from __future__ import annotations

import os
import sys

from mmengine.config import Config
from mmengine.dist import is_main_process

from convnext_backbones.config.flags import runner_parser
from convnext_backbones.config.loading import load_run_config
from convnext_backbones.engine.batch_files import batches_named
from convnext_backbones.engine.build import load_trained
from convnext_backbones.engine.processes import leave_process_group
from convnext_backbones.engine.runner import build_runner
from convnext_backbones.evaluation.flags import (
    add_evaluation_flags,
    set_evaluation_flags,
    set_prediction_dump,
    set_tta,
)
from convnext_backbones.evaluation.results import write_metrics
from convnext_backbones.inference.optimize import optimize_for_inference


def draw_to(cfg: Config, folder: str) -> None:
    """Draw every prediction into ``folder``."""
    cfg.default_hooks.visualization.draw = True
    if cfg.default_scope == 'mmdet':
        cfg.default_hooks.visualization.test_out_dir = os.path.abspath(folder)
    else:
        cfg.default_hooks.visualization.interval = 1  # mmseg draws every 50th batch by itself
        cfg.visualizer.save_dir = folder


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = runner_parser(__doc__.splitlines()[0])
    parser.add_argument(
        'checkpoint', metavar='CHECKPOINT', help='weights to evaluate: file, published name or URL'
    )
    parser.add_argument('--show-dir', metavar='DIR', help='draw the predictions here')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument(
        '--dump', metavar='FILE', help='keep the predictions for tools/evaluate.py, in this file'
    )
    parser.add_argument(
        '--optimize', action='store_true', help='the faster form for CPUs; equal to rounding'
    )
    add_evaluation_flags(parser)
    args = parser.parse_args(argv)
    try:
        cfg = load_run_config(args.config, args.cfg_options, args.launcher, args.work_dir)
        if args.optimize and args.launcher != 'none':
            raise ValueError(
                f"expected --launcher 'none' with --optimize, got {args.launcher!r}; the faster "
                'form is for one process on a CPU'
            )
        cfg.pop('strategy', None)  # sharding is for the states of an optimizer
        if args.show_dir:
            draw_to(cfg, args.show_dir)
        if args.tta:
            set_tta(cfg)
        set_evaluation_flags(cfg, args)
        if args.dump:
            set_prediction_dump(cfg, args.dump)
        runner = build_runner(cfg)
        # mmdet's augmented detectors are built without mask head; that of the file is left over.
        maskless = args.tta and cfg.default_scope == 'mmdet'
        load_trained(runner.model, args.checkpoint, strict=not maskless)
        if args.optimize:
            runner.model = optimize_for_inference(runner.model)
        if args.tta and cfg.default_scope == 'mmdet':
            runner.logger.info('Test-time augmentation merges boxes: masks are not evaluated.')
        with batches_named(runner):
            metrics = runner.test()
    except (FileNotFoundError, TypeError, ValueError) as error:
        sys.exit(f'test: {error}')
    if is_main_process():
        if args.dump:
            runner.logger.info(f'Predictions are in {args.dump}')
        runner.logger.info(f'Metrics are in {write_metrics(cfg.work_dir, metrics)}')
    leave_process_group()


if __name__ == '__main__':
    main()
