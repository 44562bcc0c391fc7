"""From a config file and command line flags to a Runner: what train, test and predict share."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config

from ..io.mmengine_patches import mmseg_bases_found
from .classes import set_classes
from .errors import config_errors
from .plain import SUFFIXES, check_data_formats, read_plain_config
from .walk import entry_at

# What the tools look into themselves, before mmengine would: dicts, and lists of dicts with a type.
SECTIONS = (
    *('model', 'model.backbone', 'optim_wrapper', 'auto_scale_lr', 'randomness', 'strategy'),
    *('train_dataloader', 'val_dataloader', 'test_dataloader', 'test_dataloader.dataset'),
    *('default_hooks', 'visualizer', 'custom_imports'),
)
TYPED_LISTS = ('custom_hooks', 'visualizer.vis_backends')


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
    plain = path.suffix.lower() in SUFFIXES
    if plain and 'launcher' in args:
        raise ValueError(
            f'expected a Python config to train or evaluate, got {args.config!r}; one of plain '
            'data serves tools/predict.py'
        )
    with mmseg_bases_found():
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
    set_classes(cfg)
    check_data_formats(cfg)
    if 'launcher' in args:
        cfg.launcher = args.launcher
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / path.stem)
    return cfg


def _check_sections(cfg: Config) -> None:
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
