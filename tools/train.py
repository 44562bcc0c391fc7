"""Train a detector or a segmentor: tools/train.py CONFIG [flags]."""

from __future__ import annotations

import sys

from mmengine.config import Config

from convnext_backbones.launch import (
    backbone_starts_from_scratch,
    build_runner,
    check_file,
    leave_process_group,
    load_config,
    runner_parser,
)


def apply_flags(cfg: Config, resume: str | None, amp: bool, auto_scale_lr: bool) -> None:
    """Write the flags into ``cfg``.

    Raises:
        FileNotFoundError: The checkpoint to resume from does not exist.
        ValueError: ``auto_scale_lr`` without a base batch size in the config.
    """
    if amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError(
                'expected auto_scale_lr=dict(base_batch_size=...) in the config for '
                '--auto-scale-lr, found none; add the batch size that the learning rate is for'
            )
        cfg.auto_scale_lr.enable = True
    if resume is not None:
        cfg.resume = True
        if resume == 'auto':
            cfg.load_from = None  # the Runner takes the newest checkpoint of the work dir
        else:
            check_file(resume, 'a checkpoint to resume from')
            cfg.load_from = resume


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = runner_parser(__doc__)
    parser.add_argument('--amp', action='store_true', help='mixed precision (GPUs only)')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='continue from PATH, or from the newest checkpoint of the work dir',
    )
    args = parser.parse_args(argv)
    try:
        cfg = load_config(args)
        apply_flags(cfg, args.resume, args.amp, args.auto_scale_lr)
        runner = build_runner(cfg)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'train: {error}')
    if backbone_starts_from_scratch(cfg):
        runner.logger.warning(
            'The backbone starts from random weights: the config names no init_cfg, no pretrained '
            'and no load_from.'
        )
    runner.train()
    leave_process_group()


if __name__ == '__main__':
    main()
