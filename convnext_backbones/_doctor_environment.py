"""Describe an interpreter: which distributions it has, and whether they can be imported.

Standard library only.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import metadata

from ._doctor_probes import (
    MMDET_PROBE,
    MMENGINE_PROBE,
    MMSEG_PROBE,
    OPS_PROBE,
    TORCH_PROBE,
    Probe,
    run_probes,
)
from .io.tested_versions import (
    PYTHON,
    foreign_to,
    installed_stack,
    normalize,
    read_stacks,
    read_table,
    stack_table,
    tested_pythons,
)


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
        alternatives: Distributions that do as well, also beside the first if their versions are
            equal.
    """

    name: str
    module: str
    distribution: str
    purpose: str
    probe: str
    needs: tuple[str, ...] = ()
    lookalikes: Mapping[str, str] = field(default_factory=dict)
    alternatives: tuple[str, ...] = ()


BASE = ('numpy', 'torch', 'opencv', 'setuptools')
# In the order in which problems have to be fixed: dependencies come first.
COMPONENTS = (
    Component('numpy', 'numpy', 'numpy', 'everything needs it', 'import numpy'),
    Component('torch', 'torch', 'torch', 'every model runs on it', TORCH_PROBE, ('numpy',)),
    Component(
        'setuptools',
        'setuptools',
        'setuptools',
        'mmengine imports pkg_resources, a part of it',
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
        {'mmcv-full': 'is mmcv 1.x, which mmdet 3 and mmsegmentation 1 do not accept'},
        ('mmcv-lite',),
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
        MMDET_PROBE,
        (*BASE, 'mmengine', 'mmcv', 'mmcv ops', 'pycocotools'),
    ),
    Component('ftfy', 'ftfy', 'ftfy', 'mmsegmentation imports it', 'import ftfy'),
    Component('regex', 'regex', 'regex', 'mmsegmentation imports it', 'import regex'),
    Component(
        'mmsegmentation',
        'mmseg',
        'mmsegmentation',
        'segmentation configs need it',
        MMSEG_PROBE,
        (*BASE, 'mmengine', 'mmcv', 'mmcv ops', 'ftfy', 'regex'),
        {
            'mmseg': 'is an unrelated word segmentation package in place of the module mmseg of '
            'MMSegmentation'
        },
    ),
)


@dataclass(frozen=True)
class Environment:
    """Everything that the diagnosis depends on.

    Attributes:
        executable: Path of the interpreter.
        python: Its version.
        distributions: Version of each installed distribution, by normalized name.
        providers: Distributions that install each module of the stack.
        probes: Outcome by name of component.
        tested: Tested versions of the installed stack, by normalized name.
        pythons: Tested versions of Python, as 3.11; the one to recommend first.
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
    pythons: tuple[str, ...]
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
        pythons=tested_pythons(),
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
