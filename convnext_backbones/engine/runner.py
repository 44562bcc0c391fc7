"""Build mmengine's Runner from a config."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner

from ..config.errors import config_errors
from ..io.mmengine_patches import read_files_safely, write_checkpoints_atomically
from .hardware import adapt_to_hardware


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
    from .transforms import DataRootHook, name_unreadable_files

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
