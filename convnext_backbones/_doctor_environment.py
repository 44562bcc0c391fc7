"""Describe an interpreter: which distributions it has, and whether they can be imported.

Standard library only. The stack is imported in subprocesses, because an extension built for
another torch may crash its interpreter.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from .io.tested_versions import (
    PYTHON,
    foreign_to,
    installed_stack,
    normalize,
    read_stacks,
    read_table,
    stack_table,
)

# Importing everything takes about six seconds from a warm disk.
PROBE_SECONDS = 180


@dataclass(frozen=True)
class Component:
    """One package, or part of a package, that training needs.

    Attributes:
        name: Its name in the report.
        module: The module by which its distribution is found.
        distribution: The distribution whose version was tested.
        purpose: Completes "X is not installed: ...".
        probe: Code that must run. It may store further facts in ``facts``.
        needs: Components whose problems explain a failure of the probe.
        lookalikes: Distributions that install the module without being the component, and why
            they do not do.
    """

    name: str
    module: str
    distribution: str
    purpose: str
    probe: str
    needs: tuple[str, ...] = ()
    lookalikes: Mapping[str, str] = field(default_factory=dict)


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
# OpenMMLab's imports pkg_resources, which setuptools 82 removed; OneDL's does not.
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
# In the order in which problems have to be fixed: dependencies come first.
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
        'the backbone registers in it, and its runner trains',
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
            'mmseg': 'is an unrelated word segmentation package in place of the module mmseg of '
            'MMSegmentation'
        },
    ),
)


@dataclass(frozen=True)
class Probe:
    """Outcome of running the probe of a component.

    Attributes:
        error: ``Type: message``; empty if the probe ran.
        facts: What it found out.
    """

    error: str = ''
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Environment:
    """Everything that the diagnosis depends on.

    Attributes:
        executable: Path of the interpreter.
        python: Its version.
        distributions: Version of each installed distribution, by normalized name.
        providers: Distributions that install each module of the stack.
        probes: Outcome by name of component.
        tested: Tested versions of the installed stack, by normalized name, and of ``python``.
        names: That stack's names for OpenMMLab's distributions.
        foreign: Distributions of other stacks.
        accepted: Version ranges that this package declares, and that of ``python``.
        apt_get: Command for apt-get on this machine; empty if there is none.
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
        """Return the installed version of a component, empty if no distribution provides it."""
        providers = self.providers.get(component.module)
        return self.distributions[providers[0]] if providers else ''

    def own(self, distribution: str) -> str:
        """Return the installed stack's name for a distribution of OpenMMLab, or the name itself."""
        return self.names.get(distribution, distribution)


def inspect() -> Environment:
    """Describe the running interpreter."""
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
    """Return versions by distribution, and the distributions that install each module."""
    distributions: dict[str, str] = {}
    providers: dict[str, tuple[str, ...]] = {}
    for distribution in metadata.distributions():
        # An interrupted uninstall leaves distributions without a name.
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
    """Return the version ranges in this package's own metadata, if it is installed."""
    accepted = {'python': PYTHON}
    try:
        requirements = metadata.requires('convnext_backbones') or ()
    except metadata.PackageNotFoundError:
        return accepted
    for requirement in requirements:
        match = re.match(r'([\w.-]+)\s*([^;]*)', requirement)
        if match and match[2]:
            accepted[normalize(match[1])] = match[2].strip()
    return accepted


PROBE_LOOP = """
import json, os, sys, warnings
# Folders of the current directory are no installed packages.
sys.path[:] = [entry for entry in sys.path if entry]
warnings.simplefilter('ignore')
report = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)  # what imports print must not mix with the report
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
    """Run code in a subprocess; if that crashes, continue with the next one in another.

    Args:
        probes: Code by name.
        seconds: Time limit of a subprocess.

    Returns:
        The outcome by name.
    """
    outcomes: dict[str, Probe] = {}
    waiting = list(probes.items())
    while waiting:
        command = [sys.executable, '-c', PROBE_LOOP, json.dumps(waiting)]
        try:
            run = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=seconds
            )
            output, crash = run.stdout, _crash(run.returncode)
        except subprocess.TimeoutExpired as expired:
            output, crash = expired.stdout or b'', f'still running after {seconds:g} seconds'
        for line in output.decode().splitlines():
            name, error, facts = json.loads(line)
            outcomes[name] = Probe(error, facts)
        waiting = [item for item in waiting if item[0] not in outcomes]
        if waiting:
            outcomes[waiting.pop(0)[0]] = Probe(f'Crash: {crash}')
    return outcomes


def _crash(code: int) -> str:
    if code < 0:
        return f'{signal.Signals(-code).name} killed the interpreter'
    return f'the interpreter exited with status {code}'
