"""From a config file and command line flags to a Runner: what train, test and predict share."""

from __future__ import annotations

import argparse
import os
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.device import get_device
from mmengine.dist import init_dist, is_distributed
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import FlexibleRunner, Runner, load_checkpoint
from torch import nn

from .backbone import ConvNeXt
from .checkpoint import read_checkpoint, read_checkpoints_safely
from .classes import apply_classes
from .files import write_checkpoints_atomically
from .hardware import adapt_to_hardware, join_over_gloo
from .plain_data import SUFFIXES, check_data_formats, read_plain_config, refuse_code_in_data
from .weights import load_weights, weights_file

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
# What the tools look into themselves, before mmengine would: dicts, and lists of dicts with a type.
SECTIONS = (
    *('model', 'model.backbone', 'optim_wrapper', 'auto_scale_lr', 'randomness', 'strategy'),
    *('train_dataloader', 'val_dataloader', 'test_dataloader', 'test_dataloader.dataset'),
    *('default_hooks', 'visualizer', 'custom_imports'),
)
TYPED_LISTS = ('custom_hooks', 'visualizer.vis_backends')

# mmengine looks for the files of `mmseg::` bases in the distribution mmsegmentation, which has
# another name in OneDL; the module has the same in both stacks.
MODULE2PACKAGE['mmseg'] = 'mmseg'


@contextmanager
def config_errors(over: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Make a ValueError of whatever a wrong entry of a config lets other packages raise.

    An unknown type is a KeyError of mmengine, an unknown argument a TypeError, a wrong value often
    an AttributeError or a bare assertion. The message has one line and names the place; what was
    raised is its cause. FileNotFoundError and ValueError pass.

    Args:
        over: Says when the config has been used, and what is raised is no matter of it any more.
    """
    try:
        yield
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:
        if over():
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        detail = textwrap.shorten(str(error), 400) or 'no detail'
        raise ValueError(
            f'cannot set up what the config and its overrides ask for: {type(error).__name__}: '
            f'{detail} (raised in {place.filename}, line {place.lineno}); check the entries that '
            'this is about'
        ) from error


class OverrideAction(DictAction):
    """mmengine's ``KEY=VALUE``; what it cannot parse is an error of usage."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Parse ``values``, called by ``parser``."""
        try:
            super().__call__(parser, namespace, values, option_string)
        except Exception as error:  # an assertion, for one, where brackets are not closed
            raise argparse.ArgumentError(
                self, f'expected KEY=VALUE with paired brackets, got {" ".join(values)!r}'
            ) from error


def config_parser(description: str) -> argparse.ArgumentParser:
    """A parser with CONFIG and its overrides."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', metavar='CONFIG', help='config file, detection or segmentation')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OverrideAction,
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


@config_errors()
def load_config(args: argparse.Namespace) -> Config:
    """Read ``args.config`` and merge the flags of the parsers above into it.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: The config cannot be read, an override does not fit it, or it is not one of
            mmdet or mmseg.
    """
    path = Path(args.config)
    if not path.is_file():
        raise FileNotFoundError(f'expected a config file, found none at {args.config!r}')
    read_files_safely()
    plain = path.suffix.lower() in SUFFIXES
    if plain and 'launcher' in args:
        raise ValueError(
            f'expected a Python config to train or evaluate, got {args.config!r}; one of plain '
            'data serves tools/predict.py'
        )
    cfg = read_plain_config(path) if plain else Config.fromfile(path)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if cfg.get('default_scope') not in ('mmdet', 'mmseg'):
        raise ValueError(
            f"expected a config with default_scope='mmdet' or 'mmseg', got "
            f'{cfg.get("default_scope")!r} in {args.config!r}'
        )
    if cfg.get('model') is None:
        raise ValueError(f'expected a config with a model, found none in {args.config!r}')
    _check_sections(cfg)
    apply_classes(cfg)
    check_data_formats(cfg)
    if 'launcher' in args:
        cfg.launcher = args.launcher
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / path.stem)
    return cfg


def _check_sections(cfg: Config) -> None:
    for path in SECTIONS:
        section = _entry(cfg, path)
        if section is not None and not isinstance(section, dict):
            raise ValueError(f'expected {path} in the config to be a dict, got {section!r}')
    for path in TYPED_LISTS:
        entries = _entry(cfg, path) or []
        if not isinstance(entries, (list, tuple)) or not all(
            isinstance(entry, dict) and 'type' in entry for entry in entries
        ):
            raise ValueError(
                f'expected {path} in the config to be a list of dicts with a type, got {entries!r}'
            )


def _entry(entry, path: str):
    """What is at a dotted path of a config or of nested dicts; None where there is none."""
    for key in path.split('.'):
        entry = entry.get(key) if isinstance(entry, (dict, Config)) else None
    return entry


def read_files_safely() -> None:
    """Execute nothing of what checkpoints and data say, in the whole process from here on."""
    read_checkpoints_safely()
    refuse_code_in_data()


def check_file(path: str, what: str) -> None:
    """Raise FileNotFoundError, naming ``what`` was expected, unless ``path`` is a file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'expected {what}, found no file at {path!r}')


@config_errors()
def build_runner(cfg: Config) -> Runner | FlexibleRunner:
    """The Runner for ``cfg`` on this machine; its log says what had to be replaced.

    Several processes with a ``strategy`` in the config get mmengine's FlexibleRunner, which alone
    knows strategies. From here on, in the whole process, checkpoints are read weights-only and
    written as a whole or not at all, and pipelines name the files that they cannot read. Data that
    name files outside of their folders are refused.

    Raises:
        ValueError: The config does not make a Runner, or its launcher needs GPUs.
    """
    # Needs mmcv, which reading a config does not.
    from .images import DataRootHook, name_unreadable_files

    changes = adapt_to_hardware(cfg)
    read_files_safely()
    write_checkpoints_atomically()
    name_unreadable_files(cfg.default_scope)
    runner_type = FlexibleRunner if 'strategy' in cfg and cfg.launcher != 'none' else Runner
    runner = runner_type.from_cfg(cfg)
    runner.register_hook(DataRootHook())
    if changes:
        runner.logger.info(f'No GPU on this machine: {"; ".join(changes)}.')
    return runner


def join_process_group(cfg: Config) -> None:
    """Join the other processes, if there are any, before the Runner would.

    Raises:
        ValueError: The launcher needs GPUs.
    """
    launcher = cfg.get('launcher', 'none')
    attempt = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))
    if attempt and not is_distributed():
        # Where torchrun starts processes again, its store still has the addresses of the last ones.
        port = int(os.environ['MASTER_PORT']) + attempt
        os.environ.update(TORCHELASTIC_USE_AGENT_STORE='False', MASTER_PORT=str(port))
    if get_device() == 'cpu':
        join_over_gloo(launcher)
    elif launcher != 'none' and not is_distributed():
        init_dist(launcher, **(_entry(cfg, 'env_cfg.dist_cfg') or {}))


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
        ValueError: The config does not make a model; or the checkpoint cannot be read, would
            execute code, or does not fit.
    """
    with config_errors():
        adapt_to_hardware(cfg)
        read_files_safely()
        init_default_scope(cfg.default_scope)
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True))
    load_trained(model, checkpoint)
    trained = _entry(read_checkpoint(weights_file(checkpoint), mmap=True), 'meta.dataset_meta')
    model.dataset_meta = {**dataset.metainfo, **(trained if isinstance(trained, dict) else {})}
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
