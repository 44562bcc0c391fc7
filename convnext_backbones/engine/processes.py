"""Join, leave and count the processes of a distributed run."""

from __future__ import annotations

import os

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import init_dist, is_distributed
from torch.distributed import init_process_group, is_initialized

from ..config.walk import entry_at

# By launcher, the variables with the number of processes and the rank of this one.
LAUNCHER_VARIABLES = {
    'pytorch': ('WORLD_SIZE', 'RANK'),
    'slurm': ('SLURM_NTASKS', 'SLURM_PROCID'),
    'mpi': ('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'),
}


def count_processes(launcher: str | None) -> tuple[int, int]:
    """Return the number of processes and the rank of this one, before they join a group."""
    if launcher not in LAUNCHER_VARIABLES:
        return 1, 0
    size, rank = LAUNCHER_VARIABLES[launcher]
    return int(os.environ.get(size, 1)), int(os.environ.get(rank, 0))


def join_process_group(cfg: Config) -> None:
    """Join the other processes, if there are any, earlier than the Runner would.

    Raises:
        ValueError: The launcher needs GPUs, and there are none.
    """
    launcher = cfg.get('launcher', 'none')
    attempt = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))
    if attempt and not is_distributed():
        # After a restart torchrun's store still has the addresses of the processes before it.
        port = int(os.environ['MASTER_PORT']) + attempt
        os.environ.update(TORCHELASTIC_USE_AGENT_STORE='False', MASTER_PORT=str(port))
    if get_device() == 'cpu':
        join_over_gloo(launcher)
    elif launcher != 'none' and not is_distributed():
        init_dist(launcher, **(entry_at(cfg, 'env_cfg.dist_cfg') or {}))


def leave_process_group() -> None:
    """Wait for the other processes and leave the group, if there is one.

    Without this call gloo's threads occasionally abort the interpreter at its exit.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def needs_gloo(launcher: str) -> bool:
    """Whether processes on a machine without a GPU have to be joined over gloo.

    Raises:
        ValueError: The launcher needs GPUs.
    """
    if launcher not in ('none', 'pytorch'):
        raise ValueError(
            f"expected launcher 'none' or 'pytorch' on a machine without a GPU, got {launcher!r}; "
            'start the processes with tools/dist_train.sh or torchrun'
        )
    return launcher == 'pytorch'


def join_over_gloo(launcher: str) -> None:
    """Join the other processes, if there are any, on a machine without a GPU.

    Raises:
        ValueError: The launcher needs GPUs.
    """
    if needs_gloo(launcher) and not is_initialized():
        # mmengine's init_dist calls torch.cuda.set_device with every backend.
        init_process_group('gloo')
