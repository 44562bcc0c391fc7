"""Train a detector or a segmentor: tools/train.py CONFIG [flags].

Models that outgrow one GPU: ``tools/dist_train.sh CONFIG N --strategy fsdp`` shards weights,
gradients and optimizer state over the processes, with mmengine's FlexibleRunner and torch's
FullyShardedDataParallel. Each ConvNeXt block is one unit, everything else another. ``--precision``
means the same as without sharding (fp32 weights, autocast operations), checkpoints are whole and
have the usual names, and ``--checkpointing`` saves activations in addition.
"""

from __future__ import annotations

import argparse
import sys

from convnext_backbones.checks.preflight import refuse_problems
from convnext_backbones.config.errors import config_errors, exit_with
from convnext_backbones.config.flags import add_traceback_flag, runner_parser
from convnext_backbones.config.loading import load_run_config
from convnext_backbones.engine.batch_files import NotFiniteError
from convnext_backbones.engine.processes import leave_process_group
from convnext_backbones.io.images import UnreadableFileError
from convnext_backbones.training.flags import StartMarker, add_training_flags, set_training_flags
from convnext_backbones.training.interruption import explain_write_error
from convnext_backbones.training.run import train


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
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
    parser.add_argument(
        '--plain-runner',
        action='store_true',
        help="leave mmengine's training loop, checkpoint hook and random numbers as they are: no "
        'resuming in mid-epoch, no repeated random numbers, no checkpoint on SIGTERM or Ctrl-C',
    )
    add_traceback_flag(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace, start: StartMarker) -> None:
    """Read the config, check it, and train."""
    cfg = load_run_config(args.config, args.cfg_options, args.launcher, args.work_dir)
    set_training_flags(cfg, args)
    warnings = [] if args.no_check else refuse_problems(cfg)
    train(cfg, start, warnings, args.val_loss, args.skip_bad_steps, args.plain_runner)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    args = parse(argv)
    start = StartMarker()
    try:
        with config_errors(lambda: start.passed):
            run(args, start)
    except NotFiniteError:
        sys.exit(1)  # the log has the reason
    except UnreadableFileError as error:
        exit_with('train', error, args.traceback)
    except (OSError, ValueError) as error:
        if not start.passed:
            exit_with('train', error, args.traceback)
        # An error during training is a bug, unless a file could not be written.
        sentence = explain_write_error(error, start.work_dir or '')
        if sentence is None:
            raise
        exit_with('train', error, args.traceback, sentence)
    leave_process_group()


if __name__ == '__main__':
    main()
