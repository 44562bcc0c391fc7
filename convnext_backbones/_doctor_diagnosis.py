"""Find the problems of an environment, and the command that fixes each of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass

from ._doctor_environment import COMPONENTS, Component, Environment
from .io.tested_versions import is_within

BY_NAME = {component.name: component for component in COMPONENTS}


@dataclass(frozen=True)
class Problem:
    """One problem: the component, a sentence, and the command that fixes it."""

    component: str
    sentence: str
    command: str


def diagnose(env: Environment) -> list[Problem]:
    """Return the problems of an environment, in the order in which to fix them.

    A pure function: everything that it depends on is in ``env``.
    """
    problems = _python_problems(env)
    for component in COMPONENTS:
        found = _examine(component, env, {problem.component for problem in problems})
        if found:
            problems.append(found)
    return problems


def _python_problems(env: Environment) -> list[Problem]:
    accepted = env.accepted.get('python', '')
    if is_within(env.python, accepted):
        return []
    return [
        Problem(
            'Python',
            f'Python {env.python} is not supported: convnext_backbones needs Python {accepted}.',
            f'python{env.tested["python"]} -m venv .venv',
        )
    ]


def _examine(component: Component, env: Environment, failed: Collection[str]) -> Problem | None:
    """Return the first problem of a component that no problem of ``failed`` components explains."""
    probe = env.probes[component.name]
    if component.name == 'mmcv ops':
        if component.module not in env.providers:
            return None  # reported as the missing mmcv
    else:
        problem = _examine_distribution(component, env)
        if problem:
            return problem
    if probe.error and not set(component.needs).intersection(failed):
        return _explain(component, env, probe.error)
    cuda = env.probes['torch'].facts.get('cuda')
    if component.name == 'mmcv ops' and probe.facts.get('cuda') == 'not available' and cuda:
        return Problem(
            component.name,
            f'mmcv {env.version(component)} was built without CUDA, and torch sees a GPU (CUDA '
            f'{cuda}): every op of mmcv would fail on it.',
            _install(component, env),
        )
    return None


def _examine_distribution(component: Component, env: Environment) -> Problem | None:
    """Return the first problem with the distribution that provides a component."""
    name, providers = component.name, env.providers.get(component.module, ())
    version, accepted = env.version(component), env.accepted.get(component.distribution, '')
    for lookalike, reason in component.lookalikes.items():
        if lookalike in env.distributions:
            return Problem(
                name,
                f'The distribution {lookalike} {env.distributions[lookalike]} {reason}.',
                _replace(component, env, {lookalike, *providers}),
            )
    # Several OpenCV distributions share one module by design; those of OpenMMLab and its forks
    # overwrite each other's files.
    if len(providers) > 1 and component.module.startswith('mm'):
        return Problem(
            name,
            f'{" and ".join(providers)} both install the module {component.module}, so its files '
            'are a mixture of the two.',
            _replace(component, env, providers),
        )
    if env.foreign.intersection(providers):
        return Problem(
            name,
            f'{providers[0]} {version} is of another stack than most installed packages; in '
            f'theirs, the module {component.module} is of {env.own(component.distribution)}.',
            _replace(component, env, providers),
        )
    if not providers and env.probes[name].error:
        sentence = f'{name} is not installed: {component.purpose}.'
        return Problem(name, sentence, _install(component, env))
    if version and not is_within(version, accepted):
        return Problem(
            name,
            f'{providers[0]} {version} is not supported: convnext_backbones needs '
            f'{component.distribution} {accepted}.',
            _replace(component, env, providers),
        )
    return None


def _explain(component: Component, env: Environment, error: str) -> Problem:
    """Return the problem that made the import of an installed component fail with ``error``."""
    for explain in (
        _refused_version,
        _missing_pkg_resources,
        _broken_ops,
        _missing_library,
        _other_numpy,
        _missing_module,
    ):
        problem = explain(component, env, error)
        if problem:
            return problem
    return Problem(
        component.name,
        f'{component.name} {env.version(component)} is installed, but importing it fails: '
        f'{_last_line(error)}',
        _install(component, env, '--force-reinstall --no-deps'),
    )


def _refused_version(component: Component, env: Environment, error: str) -> Problem | None:
    """Explain an assertion of mmdet or mmsegmentation on the version of mmcv or mmengine."""
    refusal = re.search(r'(MMCV|MMEngine)==(\S+) is used but incompatible', error)
    if not refusal:
        return None
    refused = BY_NAME[refusal[1].lower()]
    limits = re.search(rf'{refused.name}>=.+?(?=\.?$)', error)
    return Problem(
        refused.name,
        f'{component.name} {env.version(component)} refuses {refused.name} {refusal[2]}'
        + (f': it needs {limits[0]}.' if limits else '.'),
        _replace(refused, env, env.providers.get(refused.module, ())),
    )


def _missing_pkg_resources(component: Component, env: Environment, error: str) -> Problem | None:
    if "No module named 'pkg_resources'" not in error:
        return None
    setuptools = BY_NAME['setuptools']
    return Problem(
        setuptools.name,
        f'setuptools {env.version(setuptools)} has no pkg_resources (82 removed it), which '
        f'{component.name} {env.version(component)} imports.',
        _install(setuptools, env),
    )


def _broken_ops(component: Component, env: Environment, error: str) -> Problem | None:
    """Explain ops of mmcv that are missing or were built for another torch."""
    if component.name != 'mmcv ops':
        return None
    mmcv = f'{env.providers["mmcv"][0]} {env.version(component)}'
    if re.search(r"No module named '?mmcv\.(_ext|ops)", error):
        sentence = f'{mmcv} was built without its ops (No module named mmcv._ext).'
    elif re.search(r'undefined symbol|cannot open shared object|version `|DLL load', error):
        torch = env.distributions.get('torch', '')
        sentence = f'{mmcv} was built for another torch than {torch}: {_last_line(error)}'
    else:
        sentence = f'The ops of {mmcv} do not load: {_last_line(error)}'
    return Problem(component.name, sentence, _replace(component, env, env.providers['mmcv']))


def _missing_library(component: Component, env: Environment, error: str) -> Problem | None:
    """Explain a library of the system that OpenCV does not find."""
    if component.name != 'opencv' or 'cannot open shared object file' not in error:
        return None
    # The system's library is the lasting fix: mmengine requires opencv-python, so pip would install
    # it over opencv-python-headless again with the next package.
    command = f'{env.apt_get} update && {env.apt_get} install -y libgl1 libglib2.0-0'
    if not env.apt_get:
        command = (
            f'{_pip(env)} uninstall -y {" ".join(env.providers["cv2"])} && '
            f'{_pip(env)} install opencv-python-headless=={env.tested["opencv-python"]}'
        )
    library = error.partition(': ')[2].partition(':')[0]
    return Problem(
        component.name,
        f'opencv {env.version(component)} needs the system library {library}, which is missing.',
        command,
    )


def _other_numpy(component: Component, env: Environment, error: str) -> Problem | None:
    """Explain an extension that was compiled for another numpy than the installed one."""
    name, version = component.name, env.version(component)
    if name == 'torch' and 'Numpy is not available' in error:
        return Problem(
            'numpy',
            f'torch {version} was compiled for numpy 1 and cannot use numpy '
            f'{env.distributions.get("numpy", "")}.',
            f"{_pip(env)} install 'numpy<2'",
        )
    if re.search(r'dtype size changed|compiled using NumPy|_ARRAY_API|numpy\.core\.multi', error):
        return Problem(
            name,
            f'{name} {version} was compiled for another numpy than '
            f'{env.distributions.get("numpy", "the installed one")}.',
            f'{_pip(env)} install --force-reinstall --no-deps '
            f'{_pinned("numpy", env)} {_pinned(component.distribution, env)}',
        )
    return None


def _missing_module(component: Component, env: Environment, error: str) -> Problem | None:
    missing = re.search(r"No module named '(\w+)", error)
    if not missing or missing[1] == component.module:
        return None
    return Problem(
        component.name,
        f"{component.name} {env.version(component)} cannot be imported because '{missing[1]}', "
        'which it needs, is missing.',
        _install(component, env),
    )


def _last_line(error: str) -> str:
    return error.strip().splitlines()[-1].strip()


# --- commands -------------------------------------------------------------------------------


def _pip(env: Environment) -> str:
    return f'{shlex.quote(env.executable)} -m pip'


def _pinned(distribution: str, env: Environment) -> str:
    name = env.own(distribution)
    return f'{name}=={env.tested[name]}'


def _install(component: Component, env: Environment, options: str = '') -> str:
    """Return the command that installs the tested version of a component."""
    if component.distribution != 'mmcv':
        options = f'{options} ' if options else ''
        return f'{_pip(env)} install {options}{_pinned(component.distribution, env)}'
    # The build of mmcv imports torch; in isolation it finds none and silently skips the ops.
    # pip's cache may hold the broken wheel. Without ninja, only one core compiles.
    tools = ' '.join(_pinned(tool, env) for tool in ('setuptools', 'wheel', 'ninja'))
    return (
        f'{_pip(env)} install {tools} && '
        f'MMCV_WITH_OPS=1 {_pip(env)} install --no-build-isolation --no-cache-dir '
        f'--no-binary {env.own("mmcv")} --force-reinstall --no-deps {_pinned("mmcv", env)}'
    )


def _replace(component: Component, env: Environment, providers: Collection[str]) -> str:
    """Return the command that installs the tested distribution in place of the providers."""
    if set(providers) <= {env.own(component.distribution)}:
        return _install(component, env)
    return f'{_pip(env)} uninstall -y {" ".join(sorted(providers))} && {_install(component, env)}'
