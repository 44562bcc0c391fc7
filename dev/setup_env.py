"""Build the environment that the demo and the tests run in: ``make setup``.

Creates the virtual environment, or completes an existing one, with the tested versions of a stack
(OpenMMLab's or a fork's), and compiles mmcv with its ops. A stamp inside the environment makes the
next call return at once; an interrupted call continues where it stopped.

The compiled mmcv wheel is kept outside the checkout, in ``$CONVNEXT_BACKBONES_CACHE`` (by default
``~/.cache/convnext_backbones``), and enters that cache only after its ops ran.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == '__main__':
    # Hide the packages of this interpreter: with a torch among them, the package would import all
    # of its modules, which may not even work with that torch.
    own = [entry for entry in sys.path if not entry.endswith(('site-packages', 'dist-packages'))]
    sys.path[:] = [str(ROOT), *own]

# ruff: noqa: E402 -- run as a file, this finds them only now
from convnext_backbones.io import tested_versions as versions
from dev.environment import SetupError, Venv, check_host, locked
from dev.mmcv_wheel import minutes, provide_mmcv, wheel_folder

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
# What the installed package requires for its development, by the names of OpenMMLab's stack.
REQUIREMENTS = """
import re
from importlib import metadata
for line in metadata.requires('convnext_backbones'):
    if 'extra' not in line or re.search('extra == .dev', line):
        print(re.match(r'[\\w.-]+', line)[0])
"""


def constraints(table: str, torch: str, torch_requires: Collection[str] = ()) -> str:
    """Return the table as pip constraints for an environment with this torch.

    A torch other than the tested one requires other versions of its own dependencies, so the
    lines of these are dropped.
    """
    tested = versions.is_version(torch, versions.read_table(table)['torch'])
    loose = set() if tested else {versions.normalize(name) for name in torch_requires}
    lines = []
    for line in table.splitlines():
        name = versions.normalize(line.partition('==')[0])
        if name == 'torch':
            lines.append(f'torch=={torch}')
        elif name not in loose:
            lines.append(line)
    return '\n'.join([*lines, ''])


def fingerprint(interpreter: str, stack: str) -> str:
    """Return a hash of everything but TORCH that decides what the setup does."""
    table = versions.stack_table(stack)
    inputs = [table, (ROOT / 'setup.py').read_text(), interpreter, str(ROOT)]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def is_ready(stamp: Path, inputs: str, torch: str) -> bool:
    """Whether a finished setup left this stamp, from the same inputs and with this torch.

    Any torch will do if ``torch`` is empty.
    """
    try:
        done = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return False
    return done['inputs'] == inputs and (not torch or versions.is_version(done['torch'], torch))


class Steps:
    """Headings of the steps, with the time since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.number = 0

    def heading(self, text: str) -> None:
        """Announce the next step."""
        self.number += 1
        print(f'[{self.number}/{STEPS}] {self.elapsed()}  {text}', flush=True)

    def elapsed(self) -> str:
        """Return the time since the start."""
        return minutes(time.monotonic() - self.start)


def create(venv: Venv) -> None:
    """Create the environment, or repair one whose creation was interrupted."""
    if not venv.interpreter():
        subprocess.run([sys.executable, '-m', 'venv', str(venv.root)], check=True)
    elif venv.ask('import pip').returncode:
        subprocess.run([str(venv.python), '-m', 'ensurepip', '--default-pip'], check=True)


def refuse_other_stacks(venv: Venv, stack: str) -> None:
    """Raise if the environment has distributions of another stack, whose modules clash."""
    for name in sorted(versions.foreign_to(stack)):
        if venv.installed(name):
            raise SetupError(
                f'{venv.root} has {name}, which is not of the stack {stack}: name its stack with '
                'STACK=, or another environment with VENV='
            )


def install_torch(venv: Venv, wanted: str, tested: str) -> None:
    """Install torch; if it is the tested version, with the tested versions of its dependencies."""
    # On a terminal pip shows the progress of the download, which is several hundred megabytes.
    options: list[str | Path] = [] if sys.stdout.isatty() else ['-qq']
    if versions.is_version(tested, wanted):
        options += ['-c', versions.TABLE]
    venv.pip('install', *options, f'torch=={wanted}')


def torch_facts(venv: Venv) -> dict:
    """Return what the following steps need to know about the installed torch."""
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
    """Install this package, editable, and all its requirements but mmcv, from the stack."""
    venv.pip('install', '-qq', '--no-build-isolation', '--no-deps', '-e', ROOT)
    names = versions.read_stacks()[stack]
    needs = [names.get(name, name) for name in venv.ask(REQUIREMENTS).stdout.split()]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / 'constraints.txt'
        table = versions.stack_table(stack)
        path.write_text(constraints(table, torch['version'], torch['requires']))
        # A fork's distributions are not those that the metadata of this package name.
        options = ['-qq', '--no-build-isolation', '--no-warn-conflicts', '-c', path]
        venv.pip('install', *options, *needs)


def run_doctor(venv: Venv) -> None:
    """Raise unless the doctor finds the new environment complete."""
    command = [str(venv.python), '-m', 'convnext_backbones.doctor']
    if subprocess.run(command, cwd=ROOT, env=venv.variables).returncode:
        raise SetupError('the doctor found problems, see above')


def set_up(venv: Venv, stack: str, torch_wanted: str) -> None:
    """Bring an environment to the tested state of a stack.

    Args:
        venv: The environment; created if it does not exist.
        stack: ``openmmlab`` or a fork.
        torch_wanted: Version of torch; empty for the present or else the tested one.

    Raises:
        SetupError: A step failed. The next call continues there.
    """
    tested = versions.read_table(versions.stack_table(stack))
    name = versions.read_stacks()[stack]['mmcv']
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
    if not (present and versions.is_version(present, wanted)):
        install_torch(venv, wanted, tested['torch'])
    torch = torch_facts(venv)

    steps.heading(f'convnext_backbones, the stack {stack} without mmcv, development tools')
    install_package(venv, stack, torch)

    steps.heading(f'{mmcv} with its ops, for torch {torch["build"]}')
    tag = venv.ask('import sys; print("cp%d%d" % sys.version_info[:2])').stdout.strip()
    folder = wheel_folder(torch['build'], mmcv, tag)
    print(f'      {provide_mmcv(venv, mmcv, folder)}', flush=True)

    steps.heading('doctor')
    run_doctor(venv)

    inputs = fingerprint(venv.interpreter(), stack)
    write_stamp(venv.root / STAMP, inputs, torch['build'])
    print(f'Ready after {steps.elapsed()}.')


def write_stamp(stamp: Path, inputs: str, torch: str) -> None:
    """Note that the setup has finished, from these inputs and with this torch."""
    draft = stamp.with_suffix('.tmp')
    draft.write_text(json.dumps({'inputs': inputs, 'torch': torch}))
    os.replace(draft, stamp)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--venv', type=Path, default=Path('.venv'), help='environment')
    parser.add_argument('--stack', choices=versions.read_stacks(), default=versions.OPENMMLAB)
    parser.add_argument('--torch', default='', help='version of torch, if not the tested one')
    arguments = parser.parse_args(argv)
    venv, stack = Venv(arguments.venv.absolute()), arguments.stack

    def ready() -> bool:
        inputs = fingerprint(venv.interpreter(), stack)
        return is_ready(venv.root / STAMP, inputs, arguments.torch)

    try:
        if ready():
            return
        check_host(versions.read_table(versions.TABLE.read_text())['python'])
        with locked(venv.root / '.convnext_backbones_setup.lock'):
            if not ready():  # another process may have finished it during the wait
                set_up(venv, stack, arguments.torch)
    except SetupError as error:
        sys.exit(f'setup: {error}')
    except subprocess.CalledProcessError as error:
        sys.exit(f'setup: failed, see above: {" ".join(error.cmd)}')
    except KeyboardInterrupt:
        sys.exit('\nsetup: interrupted; the next call continues from here')


if __name__ == '__main__':
    main()
