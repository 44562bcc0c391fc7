"""What is installed, what was tested, and the one command that fixes each problem.

``python -m convnext_backbones.doctor`` (``--json`` for the same as data) exits with 0 only if
training and evaluation can run. It uses the standard library alone, runs as a plain file too, and
imports the stack in subprocesses only, because an extension built for another torch may well take
its interpreter down.

:func:`inspect` describes this interpreter as an :class:`Environment`; :func:`diagnose` is a pure
function from that description to the problems.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

from .io.tested_versions import (
    foreign_to,
    installed_stack,
    is_within,
    normalize,
    read_stacks,
    read_table,
    stack_table,
)

# As declared in setup.py, for where the package itself is not installed.
PYTHON = '>=3.10'
# Importing everything takes about six seconds from a warm disk.
PROBE_SECONDS = 180


@dataclass(frozen=True)
class Component:
    """One thing that training needs.

    Attributes:
        name: What the report calls it.
        module: What provides it, to find its distribution.
        distribution: The distribution whose version was tested.
        purpose: Completes "X is not installed: ...".
        probe: What must run. It may leave more to know in ``facts``.
        needs: Components whose problems explain a failure of the probe.
        strangers: Distributions that occupy the module without being the component, and why.
    """

    name: str
    module: str
    distribution: str
    purpose: str
    probe: str
    needs: tuple[str, ...] = ()
    strangers: Mapping[str, str] = field(default_factory=dict)


TORCH_PROBE = """
import torch
parallel = torch.distributed.is_available() and torch.distributed
if torch.cuda.is_available():
    facts['cuda'] = f'{torch.version.cuda}, devices: {torch.cuda.device_count()}'
facts['nccl'] = bool(parallel and parallel.is_nccl_available())
facts['gloo'] = bool(parallel and parallel.is_gloo_available())
import numpy
torch.from_numpy(numpy.zeros(1))
"""
# OpenMMLab's asks pkg_resources, which setuptools 82 removed; OneDL's does not.
MMENGINE_PROBE = """
import mmengine.runner
from mmengine.utils import is_installed
is_installed('mmengine')
"""
OPS_PROBE = """
import mmcv.ops
facts['cuda'] = mmcv.ops.get_compiling_cuda_version()
"""
BASE = ('numpy', 'torch', 'opencv', 'setuptools')
# In the order in which problems have to be fixed: what is needed stands before what needs it.
COMPONENTS = (
    Component('numpy', 'numpy', 'numpy', 'everything needs it', 'import numpy'),
    Component('torch', 'torch', 'torch', 'every model runs on it', TORCH_PROBE, ('numpy',)),
    Component(
        'setuptools',
        'setuptools',
        'setuptools',
        'mmcv is built with it',
        'import setuptools',
    ),
    Component(
        'opencv', 'cv2', 'opencv-python', 'mmengine and mmcv import it', 'import cv2', ('numpy',)
    ),
    Component(
        'mmengine',
        'mmengine',
        'mmengine',
        'the backbone registers in it and the runner is its',
        MMENGINE_PROBE,
        BASE,
    ),
    Component(
        'mmcv',
        'mmcv',
        'mmcv',
        'detectors and segmentors are built from it',
        'import mmcv',
        (*BASE, 'mmengine'),
        {
            'mmcv-lite': 'is mmcv without its compiled ops',
            'mmcv-full': 'is mmcv 1.x, which mmdet 3 and mmsegmentation 1 do not accept',
        },
    ),
    Component(
        'mmcv ops',
        'mmcv',
        'mmcv',
        'detectors and segmentors are built from them',
        OPS_PROBE,
        (*BASE, 'mmengine', 'mmcv'),
    ),
    Component(
        'pycocotools',
        'pycocotools',
        'pycocotools',
        'mmdet imports it, and it computes the AP',
        'import pycocotools.mask',
        ('numpy',),
    ),
    Component(
        'mmdet',
        'mmdet',
        'mmdet',
        'detection configs need it',
        'import mmdet.apis, mmdet.models',
        (*BASE, 'mmengine', 'mmcv', 'mmcv ops', 'pycocotools'),
    ),
    Component('ftfy', 'ftfy', 'ftfy', 'mmsegmentation imports it', 'import ftfy'),
    Component('regex', 'regex', 'regex', 'mmsegmentation imports it', 'import regex'),
    Component(
        'mmsegmentation',
        'mmseg',
        'mmsegmentation',
        'segmentation configs need it',
        'import mmseg.apis, mmseg.models',
        (*BASE, 'mmengine', 'mmcv', 'mmcv ops', 'ftfy', 'regex'),
        {
            'mmseg': "is an unrelated word segmentation package in the place of MMSegmentation's"
            ' module mmseg'
        },
    ),
)


@dataclass(frozen=True)
class Probe:
    """What came of running the probe of one component: ``Type: message``, empty if it ran."""

    error: str = ''
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Environment:
    """What the diagnosis depends on, and nothing else.

    Attributes:
        executable: The interpreter.
        python: Its version.
        distributions: Version of each installed distribution, by normalized name.
        providers: Distributions that install each module of the stack.
        probes: Outcome by name of component.
        tested: The tested versions of the stack that is installed, by normalized name, and
            ``python``.
        names: What that stack calls OpenMMLab's distributions.
        foreign: The distributions of other stacks.
        accepted: Version ranges that this package declares, and ``python``.
        apt_get: How to call apt-get here, empty if it is not there.
    """

    executable: str
    python: str
    distributions: Mapping[str, str]
    providers: Mapping[str, tuple[str, ...]]
    probes: Mapping[str, Probe]
    tested: Mapping[str, str]
    names: Mapping[str, str] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()
    accepted: Mapping[str, str] = field(default_factory=dict)
    apt_get: str = ''

    def version(self, component: Component) -> str:
        """The installed version of a component, empty if no distribution provides it."""
        providers = self.providers.get(component.module)
        return self.distributions[providers[0]] if providers else ''

    def own(self, distribution: str) -> str:
        """What the installed stack calls one of OpenMMLab's distributions; others keep theirs."""
        return self.names.get(distribution, distribution)


@dataclass(frozen=True)
class Fault:
    """One problem: the component, a sentence, and the command that fixes it."""

    component: str
    sentence: str
    command: str


def diagnose(env: Environment) -> list[Fault]:
    """Finds the problems of an environment, in the order in which to fix them."""
    problems = _python_faults(env)
    for component in COMPONENTS:
        problem = _examine(component, env, {problem.component for problem in problems})
        if problem:
            problems.append(problem)
    return problems


def _python_faults(env: Environment) -> list[Fault]:
    accepted = env.accepted.get('python', '')
    if is_within(env.python, accepted):
        return []
    return [
        Fault(
            'Python',
            f'Python {env.python} is not supported: convnext_backbones needs Python {accepted}.',
            f'python{env.tested["python"]} -m venv .venv',
        )
    ]


def _examine(component: Component, env: Environment, faulty: Collection[str]) -> Fault | None:
    """The first problem of a component that is not a consequence of those already found."""
    name, probe = component.name, env.probes[component.name]
    providers = env.providers.get(component.module, ())
    version, accepted = env.version(component), env.accepted.get(component.distribution, '')
    if name == 'mmcv ops' and not providers:
        return None  # mmcv itself is missing, which has its own sentence

    for stranger, reason in component.strangers.items():
        if stranger in env.distributions:
            return Fault(
                name,
                f'The distribution {stranger} {env.distributions[stranger]} {reason}.',
                _replace(component, env, {stranger, *providers}),
            )
    # Several OpenCV distributions share one module by design; those of OpenMMLab and its forks
    # overwrite each other's files.
    if len(providers) > 1 and component.module.startswith('mm') and name != 'mmcv ops':
        return Fault(
            name,
            f'{" and ".join(providers)} both install the module {component.module}, so that its '
            'files are a mixture of the two.',
            _replace(component, env, providers),
        )
    if name != 'mmcv ops' and env.foreign.intersection(providers):
        return Fault(
            name,
            f'{providers[0]} {version} is of another stack than most of what is installed, in '
            f'which the module {component.module} is of {env.own(component.distribution)}.',
            _replace(component, env, providers),
        )
    if not providers and probe.error:
        return Fault(
            name, f'{name} is not installed: {component.purpose}.', _install(component, env)
        )
    if version and name != 'mmcv ops' and not is_within(version, accepted):
        return Fault(
            name,
            f'{providers[0]} {version} is not supported: convnext_backbones needs '
            f'{component.distribution} {accepted}.',
            _replace(component, env, providers),
        )
    if probe.error and not faulty.intersection(component.needs):
        return _explain(component, env, probe.error)
    if name == 'mmcv ops' and probe.facts.get('cuda') == 'not available':
        cuda = env.probes['torch'].facts.get('cuda')
        if cuda:
            return Fault(
                name,
                f'mmcv {version} was built without CUDA, and torch sees a GPU (CUDA {cuda}): '
                'every op of mmcv would fail on it.',
                _install(component, env),
            )
    return None


def _explain(component: Component, env: Environment, error: str) -> Fault:
    """The problem behind the error that the import of an installed component ended with."""
    name, version = component.name, env.version(component)
    refusal = re.search(r'(MMCV|MMEngine)==(\S+) is used but incompatible', error)
    if refusal:
        refused = next(c for c in COMPONENTS if c.name == refusal[1].lower())
        limits = re.search(rf'{refused.name}>=.+?(?=\.?$)', error)
        return Fault(
            refused.name,
            f'{name} {version} refuses {refused.name} {refusal[2]}'
            + (f': it needs {limits[0]}.' if limits else '.'),
            _replace(refused, env, env.providers.get(refused.module, ())),
        )
    if "No module named 'pkg_resources'" in error:
        setuptools = next(c for c in COMPONENTS if c.name == 'setuptools')
        return Fault(
            setuptools.name,
            f'setuptools {env.version(setuptools)} has no pkg_resources (82 removed it), which '
            f'{name} {version} imports.',
            _install(setuptools, env),
        )
    if name == 'mmcv ops':
        return _explain_ops(component, env, error)
    if name == 'opencv' and 'cannot open shared object file' in error:
        # The system's library is the lasting cure: mmengine requires opencv-python, so pip would
        # bring it back over opencv-python-headless with the next install.
        command = f'{env.apt_get} update && {env.apt_get} install -y libgl1 libglib2.0-0'
        if not env.apt_get:
            command = (
                f'{_pip(env)} uninstall -y {" ".join(env.providers["cv2"])} && '
                f'{_pip(env)} install opencv-python-headless=={env.tested["opencv-python"]}'
            )
        library = error.partition(': ')[2].partition(':')[0]
        return Fault(
            name, f'opencv {version} needs the system library {library}, which is missing.', command
        )
    if name == 'torch' and 'Numpy is not available' in error:
        return Fault(
            'numpy',
            f'torch {version} was compiled for numpy 1 and cannot use numpy '
            f'{env.distributions.get("numpy", "")}.',
            f"{_pip(env)} install 'numpy<2'",
        )
    if re.search(r'dtype size changed|compiled using NumPy|_ARRAY_API|numpy\.core\.multi', error):
        return Fault(
            name,
            f'{name} {version} was compiled for another numpy than '
            f'{env.distributions.get("numpy", "the installed one")}.',
            f'{_pip(env)} install --force-reinstall --no-deps '
            f'{_pinned("numpy", env)} {_pinned(component.distribution, env)}',
        )
    missing = re.search(r"No module named '(\w+)", error)
    if missing and missing[1] != component.module:
        return Fault(
            name,
            f"{name} {version} cannot be imported because '{missing[1]}', which it needs, is "
            'missing.',
            _install(component, env),
        )
    return Fault(
        name,
        f'{name} {version} is installed, but its import dies: {_last_line(error)}',
        _install(component, env, '--force-reinstall --no-deps'),
    )


def _explain_ops(component: Component, env: Environment, error: str) -> Fault:
    torch = env.distributions.get('torch', '')
    mmcv = f'{env.providers["mmcv"][0]} {env.version(component)}'
    if re.search(r"No module named '?mmcv\.(_ext|ops)", error):
        sentence = f'{mmcv} was built without its ops (No module named mmcv._ext).'
    elif re.search(r'undefined symbol|cannot open shared object|version `|DLL load', error):
        sentence = f'{mmcv} was built for another torch than {torch}: {_last_line(error)}'
    else:
        sentence = f'The ops of {mmcv} do not load: {_last_line(error)}'
    return Fault(component.name, sentence, _replace(component, env, env.providers['mmcv']))


def _last_line(error: str) -> str:
    return error.strip().splitlines()[-1].strip()


def _pip(env: Environment) -> str:
    return f'{shlex.quote(env.executable)} -m pip'


def _pinned(distribution: str, env: Environment) -> str:
    name = env.own(distribution)
    return f'{name}=={env.tested[name]}'


def _install(component: Component, env: Environment, options: str = '') -> str:
    if component.distribution != 'mmcv':
        options = f'{options} ' if options else ''
        return f'{_pip(env)} install {options}{_pinned(component.distribution, env)}'
    # mmcv imports torch to build, so that isolation would leave its ops out.
    # pip's cache may hold the very wheel that is at problem. Without ninja one core compiles alone.
    tools = ' '.join(_pinned(tool, env) for tool in ('setuptools', 'wheel', 'ninja'))
    return (
        f'{_pip(env)} install {tools} && '
        f'MMCV_WITH_OPS=1 {_pip(env)} install --no-build-isolation --no-cache-dir '
        f'--no-binary {env.own("mmcv")} --force-reinstall --no-deps {_pinned("mmcv", env)}'
    )


def _replace(component: Component, env: Environment, providers: Collection[str]) -> str:
    """Installs the tested distribution in the place of everything that provides the module."""
    if set(providers) <= {env.own(component.distribution)}:
        return _install(component, env)
    return f'{_pip(env)} uninstall -y {" ".join(sorted(providers))} && {_install(component, env)}'


def inspect() -> Environment:
    """Describes the running interpreter."""
    distributions, providers = _installed({component.module for component in COMPONENTS})
    stack = installed_stack(distributions)
    apt_get = 'apt-get' if shutil.which('apt-get') else ''
    if apt_get and os.geteuid() != 0:
        apt_get = f'sudo {apt_get}'
    return Environment(
        executable=sys.executable,
        python='.'.join(map(str, sys.version_info[:3])),
        distributions=distributions,
        providers=providers,
        probes=run_probes({component.name: component.probe for component in COMPONENTS}),
        tested=read_table(stack_table(stack)),
        names=read_stacks()[stack],
        foreign=foreign_to(stack),
        accepted=_accepted(),
        apt_get=apt_get,
    )


def _installed(modules: Collection[str]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    distributions: dict[str, str] = {}
    providers: dict[str, tuple[str, ...]] = {}
    for distribution in metadata.distributions():
        # An interrupted uninstall leaves nameless remains.
        name = normalize(distribution.metadata['Name'] or '')
        if not name or name in distributions:
            continue
        distributions[name] = distribution.version
        top_level = (distribution.read_text('top_level.txt') or '').split()
        record = distribution.read_text('RECORD') or ''
        for module in modules:
            if module in top_level or re.search(rf'^{module}(\.py|/__init__\.py),', record, re.M):
                providers[module] = (*providers.get(module, ()), name)
    return distributions, {module: tuple(sorted(names)) for module, names in providers.items()}


def _accepted() -> dict[str, str]:
    """The version ranges in this package's own metadata, where it is installed."""
    accepted = {'python': PYTHON}
    try:
        requirements = metadata.requires('convnext_backbones')
    except metadata.PackageNotFoundError:
        return accepted
    for requirement in requirements or ():
        name, specifier = re.match(r'([\w.-]+)\s*([^;]*)', requirement).groups()
        if specifier:
            accepted[normalize(name)] = specifier.strip()
    return accepted


PROBE_LOOP = """
import json, os, sys, warnings
# The current directory is no installation, whatever its folders are called.
sys.path[:] = [entry for entry in sys.path if entry]
warnings.simplefilter('ignore')
report = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)  # what an import prints must not mix with the report
for name, code in json.loads(sys.argv[1]):
    facts, error = {}, ''
    try:
        exec(code, {'facts': facts})
    except BaseException as exception:
        error = f'{type(exception).__name__}: {exception}'
    report.write(json.dumps([name, error, facts]) + '\\n')
    report.flush()
"""


def run_probes(probes: Mapping[str, str], seconds: float = PROBE_SECONDS) -> dict[str, Probe]:
    """Runs code by name in a subprocess, and goes on in another one where that dies."""
    outcomes: dict[str, Probe] = {}
    waiting = list(probes.items())
    while waiting:
        command = [sys.executable, '-c', PROBE_LOOP, json.dumps(waiting)]
        try:
            run = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=seconds
            )
            output, death = run.stdout, _death(run.returncode)
        except subprocess.TimeoutExpired as expired:
            output, death = expired.stdout or b'', f'no end after {seconds:g} seconds'
        for line in output.decode().splitlines():
            name, error, facts = json.loads(line)
            outcomes[name] = Probe(error, facts)
        waiting = [item for item in waiting if item[0] not in outcomes]
        if waiting:
            outcomes[waiting.pop(0)[0]] = Probe(f'Crash: {death}')
    return outcomes


def _death(code: int) -> str:
    if code < 0:
        return f'the interpreter died of {signal.Signals(-code).name}'
    return f'the interpreter exited with status {code}'


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    component: str
    installed: str
    tested: str
    verdict: str


def tabulate(env: Environment, problems: Sequence[Fault]) -> list[Row]:
    """What is installed against what is tested."""
    faulty = {problem.component for problem in problems}
    tested = env.tested['python']
    same = env.python == tested or env.python.startswith(f'{tested}.')
    verdict = 'FAULT' if 'Python' in faulty else 'ok' if same else 'not the tested version'
    rows = [Row('Python', env.python, tested, verdict)]
    for component in COMPONENTS:
        if component.name == 'mmcv ops':
            rows.append(_ops_row(env, faulty))
        else:
            rows.append(_component_row(component, env, faulty))
        if component.name == 'torch':
            rows += _device_rows(env.probes['torch'].facts)
    return rows


def _component_row(component: Component, env: Environment, faulty: Collection[str]) -> Row:
    tested, version = env.tested[env.own(component.distribution)], env.version(component)
    providers, error = env.providers.get(component.module, ()), env.probes[component.name].error
    installed = version or ('-' if error else 'without metadata')
    if providers and providers != (component.distribution,):
        installed = ' + '.join(f'{name} {env.distributions[name]}' for name in providers)
    if component.name in faulty:
        verdict = 'FAULT'
    elif error:
        verdict = 'waits for what it needs'
    elif version.partition('+')[0] != tested:
        verdict = 'not the tested version'
    else:
        verdict = 'ok'
    return Row(component.name, installed, tested, verdict)


def _ops_row(env: Environment, faulty: Collection[str]) -> Row:
    probe = env.probes['mmcv ops']
    cuda = probe.facts.get('cuda', 'not available')
    if probe.error:
        verdict = 'FAULT' if 'mmcv ops' in faulty else 'waits for what it needs'
        return Row('mmcv ops', '-', 'load', verdict)
    loaded = 'load (CPU)' if cuda == 'not available' else f'load (CPU, CUDA {cuda})'
    return Row('mmcv ops', loaded, 'load', 'FAULT' if 'mmcv ops' in faulty else 'ok')


def _device_rows(facts: Mapping[str, Any]) -> list[Row]:
    if not facts:
        return [Row(name, '-', '-', 'unknown without torch') for name in ('CUDA', 'NCCL', 'gloo')]
    yes, no = 'available', 'not available'
    cuda, nccl, gloo = facts.get('cuda'), facts['nccl'], facts['gloo']
    return [
        Row('CUDA', cuda or no, '-', 'ok' if cuda else 'training runs on the CPU'),
        Row('NCCL', yes if nccl else no, '-', 'ok' if nccl else 'no training on several GPUs'),
        Row('gloo', yes if gloo else no, '-', 'ok' if gloo else 'no training on several CPUs'),
    ]


def render(rows: Sequence[Row], problems: Sequence[Fault]) -> str:
    """The report for people."""
    lines = [Row('component', 'installed', 'tested', 'verdict'), *rows]
    cells = [tuple(asdict(row).values()) for row in lines]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    text = [
        '  '.join(row[column].ljust(width) for column, width in enumerate(widths)).rstrip()
        for row in cells
    ]
    if not problems:
        return '\n'.join([*text, '', 'Training and evaluation can run.', ''])
    count = (
        'One problem'
        if len(problems) == 1
        else f'{len(problems)} problems, to be fixed in this order'
    )
    text += ['', f'{count}:']
    for problem in problems:
        text += ['', f'{problem.component}: {problem.sentence}', f'    {problem.command}']
    return '\n'.join([*text, ''])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog='convnext_backbones.doctor', description=__doc__)
    parser.add_argument('--json', action='store_true', help='the report as data')
    arguments = parser.parse_args(argv)
    env = inspect()
    problems = diagnose(env)
    rows = tabulate(env, problems)
    if arguments.json:
        report = {
            'ok': not problems,
            'components': [asdict(row) for row in rows],
            'problems': [asdict(problem) for problem in problems],
        }
        sys.stdout.write(json.dumps(report, indent=2) + '\n')
    else:
        sys.stdout.write(render(rows, problems))
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main())
