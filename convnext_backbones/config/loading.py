"""Read and check a config file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..io.mmengine_patches import mmseg_bases_found
from .channels import set_channels
from .classes import set_classes
from .errors import config_errors
from .labels import set_labels
from .plain import check_data_formats, is_plain, read_plain_config
from .roadmap import set_road
from .walk import entry_at

# Sections that the tools read before mmengine checks them: dicts, and lists of dicts with a type.
SECTIONS = (
    'model',
    'model.backbone',
    'optim_wrapper',
    'auto_scale_lr',
    'randomness',
    'strategy',
    'train_dataloader',
    'val_dataloader',
    'test_dataloader',
    'test_dataloader.dataset',
    'default_hooks',
    'visualizer',
    'custom_imports',
)
TYPED_LISTS = ('custom_hooks', 'visualizer.vis_backends')


@config_errors()
def load_config(path: str | os.PathLike, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read and check a detection or segmentation config; apply ``classes``, labels and channels.

    Args:
        path: A Python file, which is executed, or plain data in JSON or YAML, which is not.
        overrides: Values by dotted key, as ``--cfg-options`` gives them.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: The config cannot be read, an override does not fit it, or it is not a config
            for mmdet or mmseg.
    """
    source = os.fspath(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f'expected a config file, found none at {source!r}')
    with mmseg_bases_found():
        cfg = read_plain_config(path) if is_plain(path) else Config.fromfile(path)
    if overrides:
        cfg.merge_from_dict(dict(overrides))
    if cfg.get('default_scope') not in ('mmdet', 'mmseg'):
        raise ValueError(
            f"expected a config with default_scope='mmdet' or 'mmseg', got "
            f'{cfg.get("default_scope")!r} in {source!r}'
        )
    if cfg.get('model') is None:
        raise ValueError(f'expected a config with a model, found none in {source!r}')
    _check_sections(cfg)
    set_classes(cfg)
    set_labels(cfg)
    set_channels(cfg)
    set_road(cfg)
    check_data_formats(cfg)
    return cfg


@config_errors()
def load_run_config(
    path: str | os.PathLike,
    overrides: Mapping[str, Any] | None = None,
    launcher: str = 'none',
    work_dir: str | None = None,
) -> Config:
    """Read a config to train or evaluate with: :func:`load_config` plus ``launcher``, ``work_dir``.

    Args:
        path: A Python file.
        overrides: As in :func:`load_config`.
        launcher: What started the processes, one of ``config.flags.LAUNCHERS``.
        work_dir: Folder for logs and checkpoints; by default the config's, or
            ``work_dirs/NAME_OF_THE_CONFIG``.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: As in :func:`load_config`; or the config is plain data, which has no training
            or evaluation settings.
    """
    if is_plain(path) and Path(path).is_file():
        raise ValueError(
            f'expected a Python config to train or evaluate, got {os.fspath(path)!r}; plain data '
            'is for tools/predict.py'
        )
    cfg = load_config(path, overrides)
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(path).stem)
    return cfg


def _check_sections(cfg: Config) -> None:
    """Raise ValueError for sections of another form than the tools expect."""
    for path in SECTIONS:
        section = entry_at(cfg, path)
        if section is not None and not isinstance(section, dict):
            raise ValueError(f'expected {path} in the config to be a dict, got {section!r}')
    for path in TYPED_LISTS:
        entries = entry_at(cfg, path) or []
        if not isinstance(entries, (list, tuple)) or not all(
            isinstance(entry, dict) and 'type' in entry for entry in entries
        ):
            raise ValueError(
                f'expected {path} in the config to be a list of dicts with a type, got {entries!r}'
            )
