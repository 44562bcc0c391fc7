"""The virtual environment that the setup fills, and the machine that it needs for that.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parents[1]
VARIABLE = 'CONVNEXT_BACKBONES_OPS'
# Importing is not enough: an extension may load and still lack the device that it is for. This must
# run before convnext_backbones is installed too, and without its import afterwards.
RUN_OPS = """
import sys, mmcv, torch
from mmcv.ops import nms, roi_align
version, provider = sys.argv[1:]
extension = sys.modules['mmcv._ext']
serving = getattr(extension, 'provider', 'mmcv')
assert version in ('', mmcv.__version__), f'mmcv is {mmcv.__version__}'
assert provider in ('', serving), f'the ops are those of {serving}'
for device in ['cpu'] + ['cuda'] * torch.cuda.is_available():
    boxes = torch.tensor([[0., 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30]], device=device)
    _, kept = nms(boxes, torch.tensor([.9, .8, .7], device=device), 0.5)
    assert kept.tolist() == [0, 2], f'nms on {device} kept {kept.tolist()}'
    crops = roi_align(torch.ones(1, 2, 8, 8, device=device), boxes.new_tensor([[0, 1, 1, 5, 5]]), 2)
    assert crops.eq(1).all(), f'roi_align on {device} is wrong'
print(getattr(extension, 'description', 'compiled mmcv'))
"""
FIND_COMPILED = """
from importlib.machinery import PathFinder
mmcv = PathFinder.find_spec('mmcv')
print(mmcv and PathFinder.find_spec('mmcv._ext', mmcv.submodule_search_locations) or '')
"""


class SetupError(Exception):
    """A problem that stops the setup, as a sentence for its user."""


def check_host(pythons: Sequence[str], compiles: bool) -> None:
    """Raise if this machine lacks something that pip cannot install.

    Args:
        pythons: The tested versions of Python, the one to recommend first.
        compiles: Whether mmcv is going to be compiled.
    """
    ordered = sorted(pythons, key=_numbers)
    if not _numbers(ordered[0]) <= sys.version_info[:2] <= _numbers(ordered[-1]):
        raise SetupError(
            f'the tested versions are for Python {ordered[0]} to {ordered[-1]}, and '
            f'{sys.executable} is {platform.python_version()}: name another one with '
            f'PYTHON=python{pythons[0]}'
        )
    version = '{}.{}'.format(*sys.version_info)
    if not all(importlib.util.find_spec(module) for module in ('venv', 'ensurepip')):
        raise SetupError(
            f'this Python cannot create environments: install its venv module '
            f'(apt-get install python{version}-venv)'
        )
    if not compiles:
        return
    if not (Path(sysconfig.get_path('include')) / 'Python.h').exists():
        raise SetupError(
            f'Python.h is missing, which mmcv is compiled with: install the headers of Python '
            f'(apt-get install python{version}-dev)'
        )
    if not shutil.which(os.environ.get('CXX', 'c++')):
        raise SetupError(
            'there is no C++ compiler, which mmcv is compiled with: install one '
            '(apt-get install g++), or set up without OPS=mmcv'
        )


def _numbers(version: str) -> tuple[int, ...]:
    """Return ``3.11`` as numbers, which can be compared."""
    return tuple(int(number) for number in version.split('.'))


class Venv:
    """A virtual environment, and the ways in which the setup runs its interpreter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        programs = root / ('Scripts' if os.name == 'nt' else 'bin')
        self.python = programs / ('python.exe' if os.name == 'nt' else 'python')
        # mmcv's build looks for ninja on PATH, and compiles on one core if it finds none.
        self.variables = {
            **os.environ,
            'PATH': f'{programs}{os.pathsep}{os.environ.get("PATH", "")}',
            'PIP_DISABLE_PIP_VERSION_CHECK': '1',
            'PIP_ROOT_USER_ACTION': 'ignore',
        }

    def ask(self, code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run code in a fresh process, with more environment variables, and return its outcome."""
        command = [str(self.python), '-c', code, *arguments]
        environment = {**self.variables, **variables}
        # Not in the checkout, whose folders would be imported in place of installed packages.
        return subprocess.run(
            command, env=environment, cwd=self.root, capture_output=True, text=True
        )

    def pip(self, *arguments: str | Path) -> None:
        """Run pip; its errors go to the terminal in full."""
        command = [str(self.python), '-m', 'pip', *map(str, arguments)]
        if arguments[0] == 'install':
            # Python compiles what it imports; to compile the rest too is much of pip's time.
            command.append('--no-compile')
        if subprocess.run(command, env=self.variables, cwd=ROOT).returncode:
            raise SetupError(f'pip failed, see above: {" ".join(command)}')

    def interpreter(self) -> str:
        """Return the full version of the interpreter, empty if there is none that runs."""
        if not self.python.exists():
            return ''
        return self.ask('import sys; print(sys.version)').stdout.strip()

    def installed(self, distribution: str) -> str:
        """Return the version of an installed distribution, empty if there is none."""
        code = 'import sys; from importlib import metadata; print(metadata.version(sys.argv[1]))'
        return self.ask(code, distribution).stdout.strip()

    def has_compiled_ops(self) -> bool:
        """Whether mmcv's compiled module is there; it may not run."""
        return bool(self.ask(FIND_COMPILED).stdout.strip())

    def run_ops(self, version: str = '', provider: str = '') -> tuple[str, str]:
        """Run mmcv's ops in a fresh process.

        Args:
            version: Version that mmcv must have; by default any.
            provider: Who must compute the ops; by default the best that runs.

        Returns:
            Who computed them, and the last line of an error; one of both is empty.
        """
        variables = {VARIABLE: provider} if provider else {}
        run = self.ask(RUN_OPS, version, provider, **variables)
        if run.returncode == 0:
            return run.stdout.strip(), ''
        return '', (run.stderr.strip().splitlines() or [f'exit status {run.returncode}'])[-1]

    def ops_error(self, mmcv: str) -> str:
        """Run the compiled ops of this mmcv; return the last line of an error, if any."""
        return self.run_ops(mmcv.partition('==')[2], 'mmcv')[1]

    def wheel_error(self, wheel: Path, mmcv: str) -> str:
        """Install a wheel of mmcv and run its ops; return the last line of an error, if any."""
        options = ['install', '-qq', '--no-deps', '--force-reinstall']
        command = [str(self.python), '-m', 'pip', *options, str(wheel)]
        run = subprocess.run(command, env=self.variables, capture_output=True, text=True)
        if run.returncode:
            return (run.stderr.strip().splitlines() or ['pip failed'])[-1]
        return self.ops_error(mmcv)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the system releases it if the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as file:
        if not _lock(file):
            print(f'      another setup is running here, waiting for it ({path})', flush=True)
            while not _lock(file):
                time.sleep(0.2)
        yield


def _lock(file: IO[str]) -> bool:
    """Try to lock a file; it is unlocked when it is closed."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except (BlockingIOError, PermissionError):  # of Linux and macOS, of Windows
        return False
    return True
