"""Describe the software and hardware of a run."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import torch
from mmengine.runner import Runner

from ..ops.providers import serving
from ..version import __version__

CPU_TABLE = Path('/proc/cpuinfo')  # Linux only
GIT_SECONDS = 30  # timeout, so that a checkout on a slow disk does not delay a training


def describe_environment(runner: Runner) -> dict:
    """Return what a training depends on apart from its config, ready for JSON.

    Args:
        runner: A runner whose training is about to start.

    Returns:
        Start time, command line, seed, first step, and groups of versions, hardware and git
        state; who computes mmcv's operators.
    """
    modules = ('numpy', 'torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg')
    versions = {name: getattr(sys.modules.get(name), '__version__', None) for name in modules}
    devices = range(torch.cuda.device_count())
    return dict(
        started=now(),
        command=shlex.join(sys.argv),
        seed=runner.seed,
        first_step=runner.iter,
        versions=dict(python=platform.python_version(), convnext_backbones=__version__, **versions),
        operators=serving(),
        hardware=dict(
            gpus=[torch.cuda.get_device_name(device) for device in devices],
            cpu=cpu_name(),
            cpus=os.cpu_count(),
            threads=torch.get_num_threads(),
            processes=runner.world_size,
        ),
        git=dict(
            package=git_state(Path(__file__)),
            config=git_state(Path(runner.cfg.filename)) if runner.cfg.filename else None,
        ),
    )


def now() -> str:
    """Return the time with its offset, such as '2026-03-01T12:00:00+01:00'."""
    return datetime.now().astimezone().isoformat(timespec='seconds')


def cpu_name() -> str:
    """Return the processor's model, such as 'Intel(R) Xeon(R) Platinum 8480C'; or just its kind."""
    with suppress(OSError):
        found = re.search(r'^model name\s*:\s*(.+)$', CPU_TABLE.read_text(), re.M)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def git_state(path: Path) -> dict | None:
    """Return the commit of the checkout that contains a file, and whether it has local changes.

    Args:
        path: A file of the checkout.

    Returns:
        ``commit`` and ``dirty``. None if there is no git or no checkout, and for a file that git
        ignores, because a virtual environment inside a checkout does not belong to its commit.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess:
        command = ['git', '-C', str(path.resolve().parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS)

    try:
        head = git('rev-parse', 'HEAD')
        ignored = git('check-ignore', '--quiet', path.name)
        changes = git('status', '--porcelain')
    except (OSError, subprocess.SubprocessError):
        return None
    if head.returncode or changes.returncode or ignored.returncode == 0:
        return None
    return dict(commit=head.stdout.strip(), dirty=bool(changes.stdout))
