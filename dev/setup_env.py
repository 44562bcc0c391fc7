"""Build the environment that the demo and the tests run in: ``make setup``.

Creates the virtual environment, or completes an existing one, with the tested versions of a stack
(OpenMMLab's or a fork's). Everything comes as wheels, without a compiler: mmcv without its compiled
ops, for which those of this package serve. ``--ops mmcv`` compiles mmcv with its own. A stamp
inside the environment makes the next call return at once; an interrupted call continues where it
stopped.

A compiled mmcv wheel is kept outside the checkout, in ``$CONVNEXT_BACKBONES_CACHE`` (by default
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
from dataclasses import dataclass
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
from dev.mmcv_wheel import COMPILED, clear_way, minutes, provide_mmcv, wheel_folder

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


@dataclass(frozen=True)
class Plan:
    """What the environment is to be.

    Attributes:
        stack: ``openmmlab`` or a fork.
        ops: ``mmcv`` for compiled ops; empty for the best that need no compiler.
        torch: Version of torch; empty for the present or else the tested one.
        replace: Whether a compiled mmcv that runs has to go, if ``ops`` does not ask for it.
    """

    stack: str = versions.OPENMMLAB
    ops: str = ''
    torch: str = ''
    replace: bool = False


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


def fingerprint(interpreter: str, plan: Plan) -> str:
    """Return a hash of everything but TORCH that decides what the setup does."""
    files = ('setup.py', 'convnext_backbones/ops/convnext_backbones_ops.pth')
    texts = [versions.stack_table(plan.stack), *((ROOT / file).read_text() for file in files)]
    inputs = [*texts, plan.ops, plan.replace, interpreter, str(ROOT)]
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
    lite = () if stack == versions.OPENMMLAB else (versions.LITE,)
    for name in sorted(versions.foreign_to(stack).union(lite)):
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
    return json.loads(run.stdout)


def require_cuda_compiler(torch: dict) -> None:
    """Raise if mmcv's ops could not be compiled for the GPU that torch sees."""
    if torch['gpu_without_compiler']:
        raise SetupError(
            'torch sees a GPU, but there is no CUDA compiler to build the ops of mmcv with: '
            'install the CUDA toolkit, or set CUDA_VISIBLE_DEVICES= to build for the CPU alone, '
            'or set up without OPS=mmcv'
        )


def install_package(venv: Venv, stack: str, torch: dict, mmcv: str) -> None:
    """Install this package, editable, and all its requirements from the stack.

    Args:
        venv: The environment.
        stack: ``openmmlab`` or a fork.
        torch: Facts about the installed torch.
        mmcv: The distribution to install as mmcv; empty if a compiled one serves.
    """
    venv.pip('install', '-qq', '--no-build-isolation', '--no-deps', '-e', ROOT)
    names = {**versions.read_stacks()[stack], versions.LITE: mmcv}
    needs = [names.get(name, name) for name in venv.ask(REQUIREMENTS).stdout.split()]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / 'constraints.txt'
        table = versions.stack_table(stack)
        path.write_text(constraints(table, torch['version'], torch['requires']))
        # A fork's distributions are not those that the metadata of this package name. Its mmcv is
        # built here, without compiled ops: an isolated build has no torch to compile them for.
        options: list[str | Path] = ['-qq', '--no-warn-conflicts', '-c', path]
        venv.pip('install', *options, *filter(None, needs))


def run_doctor(venv: Venv) -> None:
    """Raise unless the doctor finds the new environment complete."""
    command = [str(venv.python), '-m', 'convnext_backbones.doctor']
    if subprocess.run(command, cwd=ROOT, env=venv.variables).returncode:
        raise SetupError('the doctor found problems, see above')


def set_up(venv: Venv, plan: Plan) -> None:
    """Bring an environment to the tested state of a stack; create it if it does not exist.

    Raises:
        SetupError: A step failed. The next call continues there.
    """
    tested = versions.read_table(versions.stack_table(plan.stack))
    name = versions.read_stacks()[plan.stack]['mmcv']
    mmcv = f'{name}=={tested[name]}'
    lite = versions.LITE if plan.stack == versions.OPENMMLAB else name
    steps = Steps()

    steps.heading(f'environment {venv.root}')
    create(venv)
    refuse_other_stacks(venv, plan.stack)

    tools = ('setuptools', *['wheel', 'ninja'] * (plan.ops == COMPILED))
    steps.heading(', '.join(f'{tool} {tested[tool]}' for tool in tools))
    venv.pip('install', '-qq', *(f'{tool}=={tested[tool]}' for tool in tools))

    present = venv.installed('torch')
    wanted = plan.torch or present or tested['torch']
    steps.heading(f'torch {wanted}')
    if not (present and versions.is_version(present, wanted)):
        install_torch(venv, wanted, tested['torch'])
    torch = torch_facts(venv)
    if plan.ops == COMPILED:
        require_cuda_compiler(torch)
    kept = clear_way(venv, mmcv, lite, compiled=plan.ops == COMPILED, replace=plan.replace)

    steps.heading(f'convnext_backbones, the stack {plan.stack}, development tools')
    install_package(venv, plan.stack, torch, '' if plan.ops or kept else lite)

    if plan.ops == COMPILED:
        steps.heading(f'{mmcv} with its ops, for torch {torch["build"]}')
        tag = venv.ask('import sys; print("cp%d%d" % sys.version_info[:2])').stdout.strip()
        folder = wheel_folder(torch['build'], mmcv, tag)
        print(f'      {provide_mmcv(venv, mmcv, folder)}', flush=True)
    else:
        steps.heading("mmcv's operators")
        serving, error = venv.run_ops(tested[name])
        if error:
            raise SetupError(f"mmcv's operators do not run: {error}")
        print(f'      computed by {serving}', flush=True)

    steps.heading('doctor')
    run_doctor(venv)

    write_stamp(venv.root / STAMP, fingerprint(venv.interpreter(), plan), torch['build'])
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
    parser.add_argument('--ops', choices=('', COMPILED), default='', help='compile those of mmcv')
    parser.add_argument('--torch', default='', help='version of torch, if not the tested one')
    parser.add_argument(
        '--replace-mmcv',
        action='store_true',
        help='without --ops, uninstall a compiled mmcv, which stays otherwise if its ops run',
    )
    options = parser.parse_args(argv)
    venv = Venv(options.venv.absolute())
    plan = Plan(options.stack, options.ops, options.torch, options.replace_mmcv)

    def ready() -> bool:
        return is_ready(venv.root / STAMP, fingerprint(venv.interpreter(), plan), plan.torch)

    try:
        if ready():
            return
        check_host(versions.tested_pythons(), compiles=plan.ops == COMPILED)
        with locked(venv.root / '.convnext_backbones_setup.lock'):
            if not ready():  # another process may have finished it during the wait
                set_up(venv, plan)
    except SetupError as error:
        sys.exit(f'setup: {error}')
    except subprocess.CalledProcessError as error:
        sys.exit(f'setup: failed, see above: {" ".join(error.cmd)}')
    except KeyboardInterrupt:
        sys.exit('\nsetup: interrupted; the next call continues from here')


if __name__ == '__main__':
    main()
