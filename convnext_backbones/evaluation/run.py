"""Run an evaluation: from a config and a checkpoint to the metrics."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process

from ..engine.batch_files import batches_named
from ..engine.build import load_trained
from ..engine.runner import build_runner
from ..inference.exported import exported_model, is_exported
from ..inference.optimize import optimize_for_inference
from ..reports.training_runs import CONFIG, ENVIRONMENT
from .flags import (
    add_evaluation_flags,
    prepare_prediction_dump,
    set_evaluation_flags,
    set_tta,
)
from .predictions import DumpPredictions
from .report import why_no_report, write_report
from .results import write_metrics

EVALUATED = 'evaluated_'  # what mmengine's copy of a recorded config is called


def add_test_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``tools/test.py`` that :func:`set_test_flags` and :func:`evaluate` read."""
    parser.add_argument('--show-dir', metavar='DIR', help='draw the predictions into DIR')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument(
        '--dump', metavar='FILE', help='keep the predictions in FILE, for tools/evaluate.py'
    )
    parser.add_argument(
        '--optimize', action='store_true', help='the faster form for CPUs; equal up to rounding'
    )
    add_evaluation_flags(parser)


def set_test_flags(cfg: Config, args: argparse.Namespace) -> None:
    """Apply the flags to ``cfg``, in place.

    Raises:
        ValueError: A flag does not fit the config or the other flags.
    """
    if args.optimize and cfg.launcher != 'none':
        raise ValueError(
            f"expected --launcher 'none' with --optimize, got {cfg.launcher!r}; the faster form "
            'is for one process on a CPU'
        )
    cfg.pop('strategy', None)  # sharding is only useful with an optimizer
    if args.show_dir:
        set_drawing(cfg, args.show_dir)
    if args.tta:
        set_tta(cfg)
    set_evaluation_flags(cfg, args)
    if args.dump:
        prepare_prediction_dump(cfg, args.dump)


def set_drawing(cfg: Config, folder: str) -> None:
    """Draw every prediction into ``folder``."""
    cfg.default_hooks.visualization.draw = True
    if cfg.default_scope == 'mmdet':
        cfg.default_hooks.visualization.test_out_dir = os.path.abspath(folder)
    else:
        cfg.default_hooks.visualization.interval = 1  # mmseg's default draws every 50th batch
        cfg.visualizer.save_dir = folder


def evaluate(
    cfg: Config,
    checkpoint: str,
    tta: bool = False,
    optimize: bool = False,
    dump: str | None = None,
    report: bool = True,
) -> Path | None:
    """Evaluate a checkpoint on the test data and write metrics and report into the work dir.

    Args:
        cfg: A config after :func:`set_test_flags`.
        checkpoint: Name of published weights, a file or a URL; or a folder with an exported model.
        tta: Whether the config was switched to test-time augmentation.
        optimize: Evaluate the faster form for CPUs.
        dump: A file to keep the predictions in, for :func:`.predictions.evaluate_predictions`.
        report: Whether to write a report, if there is one for the metrics of ``cfg``.

    Returns:
        The path of the metrics; None in all processes but the first.

    Raises:
        FileNotFoundError: There is no such checkpoint, or the data are missing.
        ValueError: The config or the checkpoint cannot be used.
    """
    keep_records(cfg)
    runner = build_runner(cfg)
    # mmdet's augmented detectors have no mask head, but the checkpoint has weights for it.
    without_masks = tta and cfg.default_scope == 'mmdet'
    if is_exported(checkpoint):
        wrapped = runner.model.module if tta else runner.model
        exported = exported_model(wrapped, checkpoint)
        if tta:
            runner.model.module = exported
        else:
            runner.model = exported
    else:
        load_trained(runner.model, checkpoint, strict=not without_masks)
    if optimize:
        runner.model = optimize_for_inference(runner.model)
    if without_masks:
        runner.logger.info('Test-time augmentation merges boxes: masks are not evaluated.')
    keeper = DumpPredictions(dump)
    if dump or (report and why_no_report(cfg) is None):
        # Not by the config, which is saved, and would keep predictions wherever it is used again.
        evaluator = runner.test_loop.evaluator
        keeper.dataset_meta = evaluator.dataset_meta
        evaluator.metrics.insert(0, keeper)  # the first encodes the masks for all
    with batches_named(runner):
        metrics = runner.test()
    if not is_main_process():
        return None
    if dump:
        runner.logger.info(f'Predictions are in {dump}')
    path = write_metrics(cfg.work_dir, metrics)
    runner.logger.info(f'Metrics are in {path}')
    dataset = runner.test_dataloader.dataset
    write_report(cfg, dataset, keeper.records if report else None, metrics)
    return path


def keep_records(cfg: Config) -> None:
    """Keep mmengine from writing the config over the one that a training recorded.

    mmengine writes the config of every run into the work dir, under the name that it has. Of a
    training, :data:`CONFIG` says how it ran.
    """
    folder = Path(cfg.work_dir)
    if Path(cfg.filename or '').name == CONFIG and (folder / ENVIRONMENT).is_file():
        # A Config takes new attributes for entries.
        object.__setattr__(cfg, '_filename', f'{EVALUATED}{CONFIG}')
