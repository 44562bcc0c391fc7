"""From a config file and command line flags to a Runner: what train, test and predict share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import FlexibleRunner, Runner, load_checkpoint
from torch import nn

from .backbone import ConvNeXt
from .checkpoint import read_checkpoint, read_checkpoints_safely
from .hardware import adapt_to_hardware
from .weights import load_weights, weights_file

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


def load_trained(model: nn.Module, checkpoint: str, strict: bool = True) -> None:
    """Fill a detector or a segmentor with trained weights; a ConvNeXt's must fit entirely.

    Args:
        model: What a config builds; wrappers of DDP and of test-time augmentation are looked
            through.
        checkpoint: The name of published weights, a file or a URL; read weights-only. With a
            backbone that is not of this package a file, of which mmengine takes what fits.
        strict: Whether what does not fit is an error, or a warning.

    Raises:
        FileNotFoundError: There is no such name or file.
        ValueError: The weights cannot be read, would execute code, or do not fit.
    """
    while hasattr(model, 'module'):
        model = model.module
    if isinstance(getattr(model, 'backbone', None), ConvNeXt):
        print_log(str(load_weights(model, checkpoint, strict=strict)), logger='current')
    else:
        check_file(checkpoint, 'a checkpoint')
        load_checkpoint(model, checkpoint, map_location='cpu')


def build_model(cfg: Config, checkpoint: str, device: str) -> nn.Module:
    """The detector or segmentor of ``cfg`` in evaluation mode, with trained weights.

    It serves mmdet's ``inference_detector`` or mmseg's ``inference_model``. Its
    ``dataset_meta``, names and colours of the classes, is the checkpoint's, or else that of the
    config's test data.

    Args:
        cfg: A detection or segmentation config.
        checkpoint: As in :func:`load_trained`.
        device: Where the model goes.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The checkpoint cannot be read, would execute code, or does not fit.
    """
    adapt_to_hardware(cfg)
    read_checkpoints_safely()
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    load_trained(model, checkpoint)
    dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True))
    trained = read_checkpoint(weights_file(checkpoint), mmap=True).get('meta') or {}
    model.dataset_meta = {**dataset.metainfo, **trained.get('dataset_meta', {})}
    model.cfg = cfg
    return model.to(device).eval()


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
