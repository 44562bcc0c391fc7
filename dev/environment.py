"""The virtual environment that the setup fills, and the machine that it needs for that.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Importing is not enough: an extension may load and still lack the device that it is for.
RUN_OPS = """
import sys, mmcv, torch
from mmcv.ops import nms, roi_align
assert mmcv.__version__ == sys.argv[1], f'mmcv is {mmcv.__version__}'
for device in ['cpu'] + ['cuda'] * torch.cuda.is_available():
    boxes = torch.tensor([[0., 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30]], device=device)
    _, kept = nms(boxes, torch.tensor([.9, .8, .7], device=device), 0.5)
    assert kept.tolist() == [0, 2], f'nms on {device} kept {kept.tolist()}'
    crops = roi_align(torch.ones(1, 2, 8, 8, device=device), boxes.new_tensor([[0, 1, 1, 5, 5]]), 2)
    assert crops.eq(1).all(), f'roi_align on {device} is wrong'
"""


class SetupError(Exception):
    """A problem that stops the setup, as a sentence for its user."""


def check_host(tested_python: str) -> None:
    """Raise if this machine lacks something that pip cannot install."""
    wanted = tuple(int(number) for number in tested_python.split('.'))
    if sys.version_info[:2] < wanted:
        raise SetupError(
            f'the tested versions need Python {tested_python} or newer, and {sys.executable} is '
            f'{platform.python_version()}: install it and name it with PYTHON=python{tested_python}'
        )
    version = '{}.{}'.format(*sys.version_info)
    if not all(importlib.util.find_spec(module) for module in ('venv', 'ensurepip')):
        raise SetupError(
            f'this Python cannot create environments: install its venv module '
            f'(apt-get install python{version}-venv)'
        )
    if not (Path(sysconfig.get_path('include')) / 'Python.h').exists():
        raise SetupError(
            f'Python.h is missing, which mmcv is compiled with: install the headers of Python '
            f'(apt-get install python{version}-dev)'
        )
    if not shutil.which(os.environ.get('CXX', 'c++')):
        raise SetupError(
            'there is no C++ compiler, which mmcv is compiled with: install one '
            '(apt-get install g++)'
        )


class Venv:
    """A virtual environment, and the ways in which the setup runs its interpreter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.python = root / 'bin' / 'python'
        # mmcv's build looks for ninja on PATH, and compiles on one core if it finds none.
        self.variables = {
            **os.environ,
            'PATH': f'{root / "bin"}{os.pathsep}{os.environ.get("PATH", "")}',
            'PIP_DISABLE_PIP_VERSION_CHECK': '1',
            'PIP_ROOT_USER_ACTION': 'ignore',
        }

    def ask(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run code in a fresh process and return its outcome."""
        command = [str(self.python), '-c', code, *arguments]
        # Not in the checkout, whose folders would be imported in place of installed packages.
        return subprocess.run(
            command, env=self.variables, cwd=self.root, capture_output=True, text=True
        )

    def pip(self, *arguments: str | Path) -> None:
        """Run pip; its errors go to the terminal in full."""
        command = [str(self.python), '-m', 'pip', *map(str, arguments)]
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

    def ops_error(self, mmcv: str) -> str:
        """Run the ops of this mmcv in a fresh process; return the last line of an error, if any."""
        run = self.ask(RUN_OPS, mmcv.partition('==')[2])
        if run.returncode == 0:
            return ''
        return (run.stderr.strip().splitlines() or [f'exit status {run.returncode}'])[-1]

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
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'      another setup is running here, waiting for it ({path})', flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
