"""Adapt a config to the machine, without an edit of the config file.

The published recipes use SyncBN, mixed precision and NCCL. None of the three works without a GPU,
so on a CPU they are replaced here, and the log says so.
"""

from __future__ import annotations

from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from ..config.walk import walk
from .processes import needs_gloo


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's DistributedDataParallel for modules on the CPU.

    mmengine 0.10.7 passes ``device_ids=[LOCAL_RANK]`` to every wrapper, which torch refuses for a
    module on the CPU. This one ignores it.
    """

    def __init__(self, module: nn.Module, device_ids: list | None = None, **kwargs: Any) -> None:
        super().__init__(module=module, device_ids=None, **kwargs)


def adapt_to_hardware(cfg: Config) -> list[str]:
    """Replace everything in ``cfg`` that cannot run without a GPU; does nothing if there is one.

    Args:
        cfg: A config as the Runner takes it; changed in place.

    Returns:
        The replacements, in words for the log.

    Raises:
        ValueError: The launcher in ``cfg`` needs GPUs.
    """
    if get_device() != 'cpu':
        return []
    changes = []
    if _replace_sync_bn(cfg.model):
        changes.append('SyncBN became BN')
    wrapper = cfg.get('optim_wrapper')
    if wrapper is not None and wrapper.get('type') == 'AmpOptimWrapper':
        switch_amp_off(wrapper)
        changes.append('mixed precision is off')
    if needs_gloo(cfg.get('launcher', 'none')):
        if 'strategy' not in cfg:
            cfg.model_wrapper_cfg = dict(
                type=CPUDistributedDataParallel.__name__,
                broadcast_buffers=False,
                find_unused_parameters=cfg.get('find_unused_parameters', False),
            )
        changes.append('processes talk over gloo')
    return changes


def switch_amp_off(optim_wrapper: ConfigDict) -> None:
    """Turn the config of an AmpOptimWrapper into that of an OptimWrapper, in place."""
    optim_wrapper.type = 'OptimWrapper'
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        optim_wrapper.pop(key, None)


def _replace_sync_bn(model: ConfigDict) -> bool:
    """Turn every SyncBN in a model's config into BN and return whether there was one."""
    found = [part for _, part in walk(model) if part.get('type') == 'SyncBN']
    for part in found:
        part['type'] = 'BN'
    return bool(found)
