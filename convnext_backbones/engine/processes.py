"""Join, leave and count the processes of a distributed run."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, init_dist, is_distributed, is_main_process
from torch.distributed import init_process_group, is_initialized

from ..config.walk import entry_at

# By launcher, the variables that tell a process how many there are, and which one it is.
LAUNCHER_VARIABLES = {
    'pytorch': ('WORLD_SIZE', 'RANK'),
    'slurm': ('SLURM_NTASKS', 'SLURM_PROCID'),
    'mpi': ('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'),
}
T = TypeVar('T')


def count_processes(launcher: str | None) -> tuple[int, int]:
    """The number of processes of a run, and the rank of this one, before they know one another."""
    if launcher not in LAUNCHER_VARIABLES:
        return 1, 0
    size, rank = LAUNCHER_VARIABLES[launcher]
    return int(os.environ.get(size, 1)), int(os.environ.get(rank, 0))


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
        init_dist(launcher, **(entry_at(cfg, 'env_cfg.dist_cfg') or {}))


def leave_process_group() -> None:
    """Wait for the other processes and leave the group, where there is one.

    Left to the exit of the interpreter, the threads of gloo now and then abort it.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def join_over_gloo(launcher: str) -> bool:
    """Join the other processes on machines without a GPU; whether there are any.

    Raises:
        ValueError: The launcher needs GPUs.
    """
    if launcher not in ('none', 'pytorch'):
        raise ValueError(
            f"expected launcher 'none' or 'pytorch' on a machine without a GPU, got {launcher!r}; "
            'start the processes with tools/dist_train.sh or torchrun'
        )
    if launcher == 'pytorch' and not is_initialized():
        # mmengine's own start calls torch.cuda.set_device whatever the backend.
        init_process_group('gloo')
    return launcher == 'pytorch'


def decide_together(decide: Callable[[], T]) -> T:
    """What ``decide`` returns, or raises, in the first process, in all processes.

    Files that one node has just written, or removed, may look different from another.
    """
    outcome: list = [None, None]
    if is_main_process():
        try:
            outcome[0] = decide()
        except (FileNotFoundError, ValueError) as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    result, error = outcome
    if error is not None:
        raise error
    return result
