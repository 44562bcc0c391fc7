"""Check training settings: imports, batch size, optimizer and disk space."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

from mmengine import registry
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import Registry
from torch import nn

from ..config.errors import config_errors
from ..config.walk import walk
from ..engine.hardware import switch_amp_off
from .findings import ERROR, WARNING, Finding, Kind, one_line, several, spell

PACKAGE = 'convnext_backbones'
# Numbers that an optimizer keeps for each trained parameter.
OPTIMIZER_STATES = {'SGD': 1, 'Adam': 2, 'AdamW': 2}
GIB = 2**30


def check_imports(cfg: Config) -> Iterator[Finding]:
    """Warn about types that only our tools register; mmdet's and mmseg's need custom_imports."""
    imports = (cfg.get('custom_imports') or {}).get('imports') or ()
    names = [imports] if isinstance(imports, str) else imports
    if any(name.partition('.')[0] == PACKAGE for name in names):
        return
    ours = {
        name
        for registered in vars(registry).values()
        if isinstance(registered, Registry)
        for name, kind in registered.module_dict.items()
        # Not replacements for types of other packages, which are registered under their names.
        if kind.__module__.partition('.')[0] == PACKAGE and getattr(kind, '__name__', '') == name
    }
    places = [
        f'{place}.{key}={entry[key]!r}'
        for place, entry in walk(cfg.to_dict())
        for key in ('type', 'constructor')
        if isinstance(entry.get(key), str) and entry[key] in ours
    ]
    if places:
        kind = Kind(
            WARNING,
            f'types of {PACKAGE} without its import, unknown to the tools of mmdet and mmseg',
            f"add custom_imports = dict(imports=['{PACKAGE}'], allow_failed_imports=False); "
            "mmpretrain's ConvNeXt would be 'mmpretrain.ConvNeXt'",
        )
        yield several(kind, places, 'custom_imports')


def check_batch_size(cfg: Config, processes: int) -> Iterator[Finding]:
    """Compare the images per optimizer step with the batch size that the learning rate is for."""
    scaling = cfg.get('auto_scale_lr') or {}
    base = scaling.get('base_batch_size')
    images = (cfg.get('train_dataloader') or {}).get('batch_size')
    rate = ((cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('lr')
    if not base or not images or not rate or scaling.get('enable'):
        return
    batches = cfg.optim_wrapper.get('accumulative_counts', 1)
    total = processes * images * batches
    if total != base:
        yield Finding(
            WARNING,
            f'{total} images per step of the optimizer ({processes} processes x {images} images x '
            f'{batches} batches), at a learning rate of {rate:g} for {base}',
            'auto_scale_lr',
            f'train with --auto-scale-lr, which sets {rate * total / base:.3g}, or with {base} '
            'images per step',
        )


def check_optimizer(cfg: Config, model: nn.Module) -> Iterator[Finding]:
    """Check that the parameter groups can be built by the rules of the config."""
    if not cfg.get('optim_wrapper'):
        return
    settings = deepcopy(cfg.optim_wrapper)
    if settings.get('type') == 'AmpOptimWrapper':
        switch_amp_off(settings)  # it needs a GPU
    try:
        with config_errors():
            build_optim_wrapper(model, settings)
    except (FileNotFoundError, ValueError) as error:
        yield Finding(ERROR, one_line(error), 'optim_wrapper', 'correct this entry')
        return
    names = [name for name, _ in model.named_parameters()]
    for key in (settings.get('paramwise_cfg') or {}).get('custom_keys') or ():
        if not any(key in name for name in names):
            yield Finding(
                WARNING,
                f'the rule for {key!r} applies to no parameter: no name contains it',
                'optim_wrapper.paramwise_cfg.custom_keys',
                f'correct the key; parameters are {spell(names)}',
            )


def check_disk(cfg: Config, model: nn.Module) -> Iterator[Finding]:
    """Check that the checkpoints of a training can be written and have room."""
    folder = Path(cfg.work_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Finding(
            ERROR,
            f'a work dir that cannot be written: {one_line(error)}',
            'work_dir',
            'choose another with --work-dir',
            cfg.work_dir,
        )
        return
    if not cfg.get('train_cfg') or not cfg.get('optim_wrapper'):
        return
    size, number = checkpoint_size(cfg, model), count_checkpoints(cfg)
    if free < size * number:
        yield Finding(
            ERROR if free < size else WARNING,
            f'{free / GIB:.1f} GiB are free, but {number} checkpoints of {size / GIB:.1f} GiB will '
            'be kept',
            'work_dir',
            'choose another --work-dir, or keep fewer with '
            '--cfg-options default_hooks.checkpoint.max_keep_ckpts=2',
            cfg.work_dir,
        )


def checkpoint_size(cfg: Config, model: nn.Module) -> int:
    """Return the bytes of a checkpoint: weights, averaged weights and optimizer states."""
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = sum(param.nbytes for param in model.parameters() if param.requires_grad)
    averaged = any(hook['type'] == 'EMAHook' for hook in cfg.get('custom_hooks') or ())
    states = OPTIMIZER_STATES.get(cfg.optim_wrapper.get('optimizer', {}).get('type'), 2)
    return weights * (1 + averaged) + trained * states


def count_checkpoints(cfg: Config) -> int:
    """Return the number of checkpoints that a training keeps."""
    hook = cfg.get('default_hooks', {}).get('checkpoint') or {}
    length = cfg.train_cfg.get('max_epochs' if hook.get('by_epoch', True) else 'max_iters', 1)
    interval, kept = hook.get('interval', -1), hook.get('max_keep_ckpts', -1)
    number = math.ceil(length / interval) if interval > 0 else 1  # the last is always written
    best = hook.get('save_best') or ()
    extra = 1 if isinstance(best, str) else len(best)
    return (min(number, kept) if kept > 0 else number) + extra
