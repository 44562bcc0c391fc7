"""Train a detector or a segmentor: tools/train.py CONFIG [flags].

Models that outgrow one GPU: ``tools/dist_train.sh CONFIG N --strategy fsdp`` shards weights,
gradients and optimizer state over the processes, with mmengine's FlexibleRunner and torch's
FullyShardedDataParallel. Each ConvNeXt block is a unit; all else is one more. ``--precision``
means the same as without it (fp32 weights, autocast operations), checkpoints are whole and have
the usual names, and ``--checkpointing`` saves activations on top.
"""

from __future__ import annotations

import sys

from convnext_backbones.launch import (
    backbone_starts_from_scratch,
    build_runner,
    leave_process_group,
    load_config,
    runner_parser,
)
from convnext_backbones.records import keep_records
from convnext_backbones.resume import ResumableRandomnessHook
from convnext_backbones.training import StartMarker, add_training_flags, apply_training_flags


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = runner_parser(__doc__.splitlines()[0])
    add_training_flags(parser)
    parser.add_argument(
        '--val-loss', action='store_true', help='log the loss on the validation data as well'
    )
    args = parser.parse_args(argv)
    start = StartMarker()
    try:
        cfg = load_config(args)
        apply_training_flags(cfg, args)
        keep_records(cfg, args.val_loss)
        runner = build_runner(cfg)
        runner.register_hook(ResumableRandomnessHook())
        runner.register_hook(start)
        if backbone_starts_from_scratch(cfg):
            runner.logger.warning(
                'The backbone starts from random weights: the config names no init_cfg, no '
                'pretrained and no load_from.'
            )
        runner.train()
    except (FileNotFoundError, ValueError) as error:
        if start.passed:  # not a matter of the command or the config any more
            raise
        sys.exit(f'train: {error}')
    leave_process_group()


if __name__ == '__main__':
    main()
