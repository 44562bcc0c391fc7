"""From a config file and command line flags to a Runner: what train, test and predict share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import FlexibleRunner, Runner
from torch import nn

from .checkpoint import read_checkpoints_safely
from .hardware import adapt_to_hardware

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def config_parser(description: str) -> argparse.ArgumentParser:
    """A parser with CONFIG and its overrides."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', metavar='CONFIG', help='config file, detection or segmentation')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override entries of the config, such as train_dataloader.batch_size=4',
    )
    return parser


def runner_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the flags that every OpenMMLab tool with a Runner has."""
    parser = config_parser(description)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none')
    # torchrun sets the environment variable; older launchers pass the flag.
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """Read ``args.config`` and merge the flags of the parsers above into it.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: The config cannot be read, or is not one of mmdet or mmseg.
    """
    path = Path(args.config)
    if not path.is_file():
        raise FileNotFoundError(f'expected a config file, found none at {args.config!r}')
    cfg = Config.fromfile(path)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if cfg.get('default_scope') not in ('mmdet', 'mmseg'):
        raise ValueError(
            f"expected a config with default_scope='mmdet' or 'mmseg', got "
            f'{cfg.get("default_scope")!r} in {args.config!r}'
        )
    if 'model' not in cfg:
        raise ValueError(f'expected a config with a model, found none in {args.config!r}')
    if 'launcher' in args:
        cfg.launcher = args.launcher
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / path.stem)
    return cfg


def check_file(path: str, what: str) -> None:
    """Raise FileNotFoundError, naming ``what`` was expected, unless ``path`` is a file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'expected {what}, found no file at {path!r}')


def build_runner(cfg: Config) -> Runner | FlexibleRunner:
    """The Runner for ``cfg`` on this machine; its log says what had to be replaced.

    Several processes with a ``strategy`` in the config get mmengine's FlexibleRunner, which alone
    knows strategies. Checkpoints are read weights-only from here on, in the whole process.
    """
    changes = adapt_to_hardware(cfg)
    read_checkpoints_safely()
    runner_type = FlexibleRunner if 'strategy' in cfg and cfg.launcher != 'none' else Runner
    runner = runner_type.from_cfg(cfg)
    if changes:
        runner.logger.info(f'No GPU on this machine: {"; ".join(changes)}.')
    return runner


def leave_process_group() -> None:
    """Wait for the other processes and leave the group, where there is one.

    Left to the exit of the interpreter, the threads of gloo now and then abort it.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def build_model(cfg: Config, checkpoint: str, device: str) -> nn.Module:
    """The detector or segmentor of ``cfg`` in evaluation mode, with the weights of a checkpoint.

    Args:
        cfg: A detection or segmentation config.
        checkpoint: A file that this package's tools wrote, read weights-only.
        device: Where the model goes.

    Raises:
        ValueError: The checkpoint cannot be read or would execute code.
    """
    adapt_to_hardware(cfg)
    read_checkpoints_safely()
    if cfg.default_scope == 'mmdet':
        from mmdet.apis import init_detector as init
    else:
        from mmseg.apis import init_model as init
    return init(cfg, checkpoint, device=device)


def backbone_starts_from_scratch(cfg: Config) -> bool:
    """Whether nothing in ``cfg`` gives the backbone weights to start from."""
    backbone = cfg.model.get('backbone') or {}
    inits: Sequence = (
        backbone.get('init_cfg'),
        backbone.get('pretrained'),
        cfg.model.get('init_cfg'),
        cfg.model.get('pretrained'),
        cfg.get('load_from'),
    )
    return not cfg.get('resume') and not any(inits)
