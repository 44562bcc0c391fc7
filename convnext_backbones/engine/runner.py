"""Build mmengine's Runner from a config."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import FlexibleRunner, Runner

from ..config.errors import config_errors
from ..io.mmengine_patches import read_files_safely, write_checkpoints_atomically
from ..ops.providers import serving, serving_description
from .hardware import adapt_to_hardware
from .processes import join_over_gloo


@config_errors()
def build_runner(cfg: Config) -> Runner | FlexibleRunner:
    """Return the Runner for ``cfg`` on this machine, and log what it runs on.

    If ``cfg`` has a ``strategy`` and there are several processes, it is mmengine's FlexibleRunner,
    which alone supports strategies. From here on, in the whole process, checkpoints are read
    weights-only and written atomically, and pipelines name the files that they cannot read. Data
    that name files outside of their folders are refused.

    Args:
        cfg: A config with ``work_dir`` and ``launcher``; changed in place on a machine without a
            GPU. The processes are joined if they are not yet.

    Raises:
        ValueError: The config does not make a Runner, or its launcher needs GPUs.
    """
    # Needs mmcv; whatever else imports this module does not.
    from .transforms import DataRootHook, name_unreadable_files

    changes = adapt_to_hardware(cfg)
    if get_device() == 'cpu':
        join_over_gloo(cfg.get('launcher', 'none'))
    read_files_safely()
    write_checkpoints_atomically()
    name_unreadable_files(cfg.default_scope)
    runner_type = FlexibleRunner if 'strategy' in cfg and cfg.launcher != 'none' else Runner
    runner = runner_type.from_cfg(cfg)
    runner.register_hook(DataRootHook())
    if serving():
        runner.logger.info(f"mmcv's operators are computed by {serving_description()}.")
    if changes:
        runner.logger.info(f'No GPU on this machine: {"; ".join(changes)}.')
    return runner


def backbone_starts_from_scratch(cfg: Config) -> bool:
    """Whether nothing in ``cfg`` gives the backbone initial weights."""
    backbone = cfg.model.get('backbone') or {}
    sources = [
        backbone.get('init_cfg'),
        backbone.get('pretrained'),
        cfg.model.get('init_cfg'),
        cfg.model.get('pretrained'),
        cfg.get('load_from'),
    ]
    return not cfg.get('resume') and not any(sources)
