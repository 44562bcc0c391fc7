"""Builds the environment that the demo and the tests run in: ``make setup``.

Creates the virtual environment, or completes an existing one, with the versions that a stack is
tested with, OpenMMLab's or a fork's, and compiles mmcv with its ops. A stamp inside the
environment makes the next call return at once; an interrupted call goes on where it stopped.

The compiled mmcv wheel is kept outside the checkout, in ``$CONVNEXT_BACKBONES_CACHE`` (by default
``~/.cache/convnext_backbones``), and enters that cache only after its ops ran.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
STEPS = 6
STAMP = '.convnext_backbones_setup.json'
TORCH_FACTS = """
import json, re, torch
from importlib import metadata
from torch.utils.cpp_extension import CUDA_HOME
requires = metadata.requires('torch') or []
print(json.dumps({
    'version': metadata.version('torch'),
    'build': torch.__version__,
    'requires': [re.match(r'[\\w.-]+', line)[0] for line in requires],
    'gpu_without_compiler': torch.cuda.is_available() and CUDA_HOME is None,
}))
"""
# Importing is not enough: an extension may load and still have lost the device that it is for.
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
# What the installed package needs for its development, by the names of OpenMMLab's stack.
REQUIREMENTS = """
import re
from importlib import metadata
for line in metadata.requires('convnext_backbones'):
    if 'extra' not in line or re.search('extra == .dev', line):
        print(re.match(r'[\\w.-]+', line)[0])
"""


class SetupError(Exception):
    """What stops the set-up, in a sentence for its user."""


def _load_doctor() -> ModuleType:
    """The doctor, who reads the tables of versions, from its file: its package needs torch."""
    spec = importlib.util.spec_from_file_location('doctor', ROOT / 'convnext_backbones/doctor.py')
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


doctor = _load_doctor()


def is_version(installed: str, wanted: str) -> bool:
    """Whether an installed version is the wanted one; its local tag counts only if asked for."""
    return wanted in (installed, installed.partition('+')[0])


def constraints(table: str, torch: str, torch_requires: Collection[str] = ()) -> str:
    """The table as pip constraints for an environment with this torch.

    Another torch than the tested one requires other versions of its own dependencies, so their
    lines are left out.
    """
    tested = is_version(torch, doctor.read_table(table)['torch'])
    loose = set() if tested else {doctor.normalize(name) for name in torch_requires}
    lines = []
    for line in table.splitlines():
        name = doctor.normalize(line.partition('==')[0])
        if name == 'torch':
            lines.append(f'torch=={torch}')
        elif name not in loose:
            lines.append(line)
    return '\n'.join([*lines, ''])


def fingerprint(interpreter: str, stack: str) -> str:
    """A hash of everything but TORCH that decides what the set-up does."""
    table = doctor.stack_table(stack)
    inputs = [table, (ROOT / 'setup.py').read_text(), interpreter, str(ROOT)]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def is_ready(stamp: Path, inputs: str, torch: str) -> bool:
    """Whether a finished set-up left this stamp, from the same inputs and with this torch.

    Without a wish for one (``torch`` empty) every torch will do.
    """
    try:
        done = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return False
    return done['inputs'] == inputs and (not torch or is_version(done['torch'], torch))


def check_host(tested_python: str) -> None:
    """Raises for what this machine lacks and no pip can install."""
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
    """A virtual environment, and the ways in which the set-up runs its interpreter."""

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
        """Runs code in a fresh process and returns what came of it."""
        command = [str(self.python), '-c', code, *arguments]
        # Not in the checkout, whose folders are no installation.
        return subprocess.run(
            command, env=self.variables, cwd=self.root, capture_output=True, text=True
        )

    def pip(self, *arguments: str | Path) -> None:
        """Runs pip; its errors go to the terminal in full."""
        command = [str(self.python), '-m', 'pip', *map(str, arguments)]
        if subprocess.run(command, env=self.variables, cwd=ROOT).returncode:
            raise SetupError(f'pip failed, see above: {" ".join(command)}')

    def interpreter(self) -> str:
        """The full version of the interpreter, empty if there is none that runs."""
        if not self.python.exists():
            return ''
        return self.ask('import sys; print(sys.version)').stdout.strip()

    def installed(self, distribution: str) -> str:
        """The version of an installed distribution, empty if there is none."""
        code = 'import sys; from importlib import metadata; print(metadata.version(sys.argv[1]))'
        return self.ask(code, distribution).stdout.strip()

    def ops_error(self, mmcv: str) -> str:
        """Runs the ops of this mmcv in a fresh process; the last line of the error, if any."""
        run = self.ask(RUN_OPS, mmcv.partition('==')[2])
        if run.returncode == 0:
            return ''
        return (run.stderr.strip().splitlines() or [f'exit status {run.returncode}'])[-1]

    def wheel_error(self, wheel: Path, mmcv: str) -> str:
        """Installs a wheel of mmcv and runs its ops; the last line of the error, if any."""
        options = ['install', '-qq', '--no-deps', '--force-reinstall']
        command = [str(self.python), '-m', 'pip', *options, str(wheel)]
        run = subprocess.run(command, env=self.variables, capture_output=True, text=True)
        if run.returncode:
            return (run.stderr.strip().splitlines() or ['pip failed'])[-1]
        return self.ops_error(mmcv)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes; the system releases it if the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'      another set-up is at work here, waiting for it ({path})', flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def wheel_folder(torch_build: str, mmcv: str, python_tag: str) -> Path:
    """Where wheels of mmcv for this Python, torch (with its local tag) and machine are kept."""
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    cache = os.environ.get('CONVNEXT_BACKBONES_CACHE') or Path(home) / 'convnext_backbones'
    key = f'{python_tag}-torch{torch_build}-{mmcv.replace("==", "")}-{platform.machine()}'
    return Path(cache).expanduser().absolute() / 'wheels' / key


def parse_step(line: str) -> tuple[int, int] | None:
    """Reads ninja's ``[12/77]`` out of a line of pip's verbose output."""
    match = re.match(r'\s*\[(\d+)/(\d+)\]\s', line)
    return (int(match[1]), int(match[2])) if match else None


class Progress:
    """Shows the steps of a build: one line, rewritten, on a terminal; elsewhere every tenth."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock = stream, clock
        self.start = clock()
        self.shown_tenth = 0

    def feed(self, line: str) -> None:
        """Takes a line of the build's output."""
        step = parse_step(line)
        if step is None:
            return
        done, total = step
        elapsed = self.clock() - self.start
        text = (
            f'      compiling {done}/{total}, {minutes(elapsed)} elapsed, '
            f'about {minutes(elapsed / done * (total - done))} to go'
        )
        tenth = 10 * done // total
        if self.stream.isatty():
            self.stream.write(f'\r{text}\x1b[K' + '\n' * (done == total))
        elif tenth > self.shown_tenth:
            self.stream.write(f'{text}\n')
        self.shown_tenth = tenth
        self.stream.flush()


def minutes(seconds: float) -> str:
    """Formats a duration as ``12:34``."""
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


def build_mmcv(venv: Venv, mmcv: str, folder: Path, log: Path) -> Path:
    """Compiles mmcv, given as ``NAME==VERSION``, into a folder and returns the wheel."""
    # pip's own cache of wheels does not know for which torch a wheel was built.
    name = mmcv.partition('==')[0]
    options = ['--no-build-isolation', '--no-deps', '--no-cache-dir', '--no-binary', name]
    command = [str(venv.python), '-m', 'pip', 'wheel', '-v', *options]
    command += ['--wheel-dir', str(folder), mmcv]
    variables = {'MAX_JOBS': str(os.cpu_count() or 1), **venv.variables, 'MMCV_WITH_OPS': '1'}
    print(f'      compiling with MAX_JOBS={variables["MAX_JOBS"]}, log in {log}', flush=True)
    tail: deque[str] = deque(maxlen=30)
    progress = Progress(sys.stdout)
    process = subprocess.Popen(
        command,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
    )
    with log.open('w') as file, process:
        for line in process.stdout:
            file.write(line)
            tail.append(line)
            progress.feed(line)
    if process.returncode:
        raise SetupError(f'mmcv does not compile; full log in {log}, its end:\n\n{"".join(tail)}')
    return next(folder.glob('*.whl'))


def provide_mmcv(
    venv: Venv,
    mmcv: str,
    folder: Path,
    build: Callable[[Venv, str, Path, Path], Path] = build_mmcv,
) -> str:
    """Installs an mmcv whose ops run, and says where it came from."""
    if not venv.ops_error(mmcv):
        return 'already installed'
    with locked(folder / 'lock'):
        for wheel in folder.glob('*.whl'):
            error = venv.wheel_error(wheel, mmcv)
            if not error:
                return f'from {wheel}'
            print(f'      the cached wheel is deleted and built again, it fails: {error}')
            wheel.unlink()
        with tempfile.TemporaryDirectory(dir=folder, prefix='build-') as temporary:
            wheel = build(venv, mmcv, Path(temporary), folder / 'build.log')
            error = venv.wheel_error(wheel, mmcv)
            if error:
                raise SetupError(
                    f'mmcv compiled, but its ops fail: {error} (log in {folder / "build.log"})'
                )
            # Whoever looks into the cache sees a whole, tried wheel or none.
            os.replace(wheel, folder / wheel.name)
        return f'compiled, kept in {folder}'


class Steps:
    """Prints a heading per step, with the time since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.number = 0

    def heading(self, text: str) -> None:
        """Announces the next step."""
        self.number += 1
        print(f'[{self.number}/{STEPS}] {self.elapsed()}  {text}', flush=True)

    def elapsed(self) -> str:
        """The time since the start."""
        return minutes(time.monotonic() - self.start)


def create(venv: Venv) -> None:
    """Creates the environment, or fixes one whose creation was interrupted."""
    if not venv.interpreter():
        subprocess.run([sys.executable, '-m', 'venv', str(venv.root)], check=True)
    elif venv.ask('import pip').returncode:
        subprocess.run([str(venv.python), '-m', 'ensurepip', '--default-pip'], check=True)


def refuse_other_stacks(venv: Venv, stack: str) -> None:
    """Raises if the environment has distributions of another stack, whose modules are the same."""
    for name in sorted(doctor.foreign_to(stack)):
        if venv.installed(name):
            raise SetupError(
                f'{venv.root} has {name}, which is not of the stack {stack}: name its stack with '
                'STACK=, or another environment with VENV='
            )


def install_torch(venv: Venv, wanted: str, tested: str) -> None:
    """Installs torch unless the environment has it; its dependencies as tested if it is."""
    # On a terminal pip shows the download, which is some hundred megabytes.
    options: list[str | Path] = [] if sys.stdout.isatty() else ['-qq']
    if is_version(tested, wanted):
        options += ['-c', doctor.TABLE]
    venv.pip('install', *options, f'torch=={wanted}')


def torch_facts(venv: Venv) -> dict:
    """What the following steps have to know of the installed torch."""
    run = venv.ask(TORCH_FACTS)
    if run.returncode:
        raise SetupError(f'the installed torch does not work:\n{run.stderr}')
    facts = json.loads(run.stdout)
    if facts['gpu_without_compiler']:
        raise SetupError(
            'torch sees a GPU, but there is no CUDA compiler to build the ops of mmcv with: '
            'install the CUDA toolkit, or set CUDA_VISIBLE_DEVICES= to build for the CPU alone'
        )
    return facts


def install_package(venv: Venv, stack: str, torch: dict) -> None:
    """Installs this package, editable, and all it needs but mmcv, from the stack."""
    venv.pip('install', '-qq', '--no-build-isolation', '--no-deps', '-e', ROOT)
    names = doctor.read_stacks()[stack]
    needs = [names.get(name, name) for name in venv.ask(REQUIREMENTS).stdout.split()]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / 'constraints.txt'
        table = doctor.stack_table(stack)
        path.write_text(constraints(table, torch['version'], torch['requires']))
        # A fork's distributions are not those that the metadata of this package name.
        options = ['-qq', '--no-build-isolation', '--no-warn-conflicts', '-c', path]
        venv.pip('install', *options, *needs)


def run_doctor(venv: Venv) -> None:
    """Lets the doctor of the new environment have the last word."""
    command = [str(venv.python), '-m', 'convnext_backbones.doctor']
    if subprocess.run(command, cwd=ROOT, env=venv.variables).returncode:
        raise SetupError('the doctor is not content, see above')


def set_up(venv: Venv, stack: str, torch_wanted: str) -> None:
    """Brings an environment to the tested state of a stack, or to that with the wanted torch."""
    tested = doctor.read_table(doctor.stack_table(stack))
    name = doctor.read_stacks()[stack]['mmcv']
    mmcv = f'{name}=={tested[name]}'
    steps = Steps()

    steps.heading(f'environment {venv.root}')
    create(venv)
    refuse_other_stacks(venv, stack)

    tools = [f'{name}=={tested[name]}' for name in ('setuptools', 'wheel', 'ninja')]
    steps.heading(', '.join(tools))
    venv.pip('install', '-qq', *tools)

    present = venv.installed('torch')
    wanted = torch_wanted or present or tested['torch']
    steps.heading(f'torch {wanted}')
    if not (present and is_version(present, wanted)):
        install_torch(venv, wanted, tested['torch'])
    torch = torch_facts(venv)

    steps.heading(f'convnext_backbones, the stack {stack} but mmcv, development tools')
    install_package(venv, stack, torch)

    steps.heading(f'{mmcv} with its ops, for torch {torch["build"]}')
    tag = venv.ask('import sys; print("cp%d%d" % sys.version_info[:2])').stdout.strip()
    folder = wheel_folder(torch['build'], mmcv, tag)
    print(f'      {provide_mmcv(venv, mmcv, folder)}', flush=True)

    steps.heading('doctor')
    run_doctor(venv)

    stamp = venv.root / STAMP
    draft = stamp.with_suffix('.tmp')
    draft.write_text(
        json.dumps({'inputs': fingerprint(venv.interpreter(), stack), 'torch': torch['build']})
    )
    os.replace(draft, stamp)
    print(f'Ready after {steps.elapsed()}.')


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--venv', type=Path, default=Path('.venv'), help='environment')
    parser.add_argument('--stack', choices=doctor.read_stacks(), default=doctor.OPENMMLAB)
    parser.add_argument('--torch', default='', help='version of torch, if not the tested one')
    arguments = parser.parse_args(argv)
    venv, stack = Venv(arguments.venv.absolute()), arguments.stack

    def ready() -> bool:
        inputs = fingerprint(venv.interpreter(), stack)
        return is_ready(venv.root / STAMP, inputs, arguments.torch)

    try:
        if ready():
            return
        check_host(doctor.read_table(doctor.TABLE.read_text())['python'])
        with locked(venv.root / '.convnext_backbones_setup.lock'):
            if not ready():  # it may have become so while this process waited
                set_up(venv, stack, arguments.torch)
    except SetupError as error:
        sys.exit(f'setup: {error}')
    except subprocess.CalledProcessError as error:
        sys.exit(f'setup: failed, see above: {" ".join(error.cmd)}')
    except KeyboardInterrupt:
        sys.exit('\nsetup: interrupted; the next call goes on from here')


if __name__ == '__main__':
    main()
