"""A model of random weights in the form in which a training leaves one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from support.miniatures import leave_configs_unformatted, miniature


def leave_untrained(task: str, folder: Path) -> tuple[Path, Path]:
    """Write a miniature config and a checkpoint of its model; their paths.

    Args:
        task: ``det`` or ``seg``.
        folder: Where to.
    """
    cfg = miniature(task, folder, length=2)
    init_default_scope(cfg.default_scope)
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave_configs_unformatted(monkeypatch)
        cfg.dump(folder / f'{task}.py')
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), folder / f'{task}.pth')
    return folder / f'{task}.py', folder / f'{task}.pth'
