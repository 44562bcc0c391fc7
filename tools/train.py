"""Train a detector or a segmentor: tools/train.py CONFIG [flags].

Models that outgrow one GPU: ``tools/dist_train.sh CONFIG N --strategy fsdp`` shards weights,
gradients and optimizer state over the processes, with mmengine's FlexibleRunner and torch's
FullyShardedDataParallel. Each ConvNeXt block is a unit; all else is one more. ``--precision``
means the same as without it (fp32 weights, autocast operations), checkpoints are whole and have
the usual names, and ``--checkpointing`` saves activations on top.
"""

from __future__ import annotations

import argparse
import sys

from convnext_backbones.checks.preflight import refuse_problems
from convnext_backbones.config.errors import config_errors
from convnext_backbones.config.flags import runner_parser
from convnext_backbones.config.loading import load_run_config
from convnext_backbones.engine.batch_files import NotFiniteError, batches_named
from convnext_backbones.engine.processes import leave_process_group
from convnext_backbones.engine.runner import backbone_starts_from_scratch, build_runner
from convnext_backbones.io.images import UnreadableFileError
from convnext_backbones.training.finite_numbers import FiniteNumbersHook
from convnext_backbones.training.flags import StartMarker, add_training_flags, set_training_flags
from convnext_backbones.training.interruption import InterruptionHook, explain_write_error
from convnext_backbones.training.records import set_records
from convnext_backbones.training.resume import PositionHook, ResumableRandomnessHook, set_resumable


def train(args: argparse.Namespace, start: StartMarker) -> None:
    """Train as the command line says; ``start`` notes when that begins."""
    cfg = load_run_config(args.config, args.cfg_options, args.launcher, args.work_dir)
    set_training_flags(cfg, args)
    doubts = [] if args.no_check else refuse_problems(cfg)
    set_resumable(cfg)
    set_records(cfg, args.val_loss)
    runner = build_runner(cfg)
    interruption = InterruptionHook()
    for hook in (
        *(interruption, PositionHook(), ResumableRandomnessHook()),
        *(FiniteNumbersHook(args.skip_bad_steps), start),
    ):
        runner.register_hook(hook)
    if backbone_starts_from_scratch(cfg):
        runner.logger.warning(
            'The backbone starts from random weights: the config names no init_cfg, no '
            'pretrained and no load_from.'
        )
    for doubt in doubts:
        runner.logger.warning(str(doubt))
    with interruption, batches_named(runner):
        runner.train()


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = runner_parser(__doc__.splitlines()[0])
    add_training_flags(parser)
    parser.add_argument(
        '--val-loss', action='store_true', help='log the loss on the validation data as well'
    )
    parser.add_argument(
        '--no-check',
        action='store_true',
        help='train without the quick check of config and data; see tools/check.py',
    )
    args = parser.parse_args(argv)
    start = StartMarker()
    try:
        with config_errors(lambda: start.passed):
            train(args, start)
    except NotFiniteError:
        sys.exit(1)  # the log says why
    except UnreadableFileError as error:
        sys.exit(f'train: {error}')
    except (OSError, ValueError) as error:
        # Once training has started, it is not a matter of the command or the config any more.
        sentence = explain_write_error(error, start.work_dir) if start.passed else str(error)
        if sentence is None:
            raise
        sys.exit(f'train: {sentence}')
    leave_process_group()


if __name__ == '__main__':
    main()
