"""Find the problems of an environment, and the command that fixes each of them."""

from __future__ import annotations

import re
from collections.abc import Collection

from ._doctor_environment import COMPONENTS, Component, Environment
from ._doctor_findings import Finding, install, pinned, pip, repair, replace
from ._doctor_mmcv import is_mixture, ops_notes, ops_problem, separate
from .io.tested_versions import is_within

TOO_NEW = '3.14'  # Python
BY_NAME = {component.name: component for component in COMPONENTS}


def diagnose(env: Environment) -> list[Finding]:
    """Return the problems of an environment, in the order in which to fix them.

    A pure function: everything that it depends on is in ``env``.
    """
    problems = _python_problems(env)
    for component in COMPONENTS:
        found = _examine(component, env, {problem.component for problem in problems})
        if found:
            problems.append(found)
    return problems


def annotate(env: Environment) -> list[Finding]:
    """Return what is worth knowing about an environment and is no problem."""
    return ops_notes(BY_NAME['mmcv ops'], env)


def _python_problems(env: Environment) -> list[Finding]:
    accepted = env.accepted.get('python', '')
    if not is_within(env.python, accepted):
        reason = f'convnext_backbones needs Python {accepted}'
    elif env.own('mmengine') == 'mmengine' and not is_within(env.python, f'<{TOO_NEW}'):
        reason = f'mmengine calls pkgutil.find_loader, which Python {TOO_NEW} removed'
    else:
        return []
    sentence = f'Python {env.python} is not supported: {reason}.'
    return [Finding('Python', sentence, f'python{env.pythons[0]} -m venv .venv')]


def _examine(component: Component, env: Environment, failed: Collection[str]) -> Finding | None:
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
    return None


def _examine_distribution(component: Component, env: Environment) -> Finding | None:
    """Return the first problem with the distribution that provides a component."""
    name, providers = component.name, env.providers.get(component.module, ())
    version, accepted = env.version(component), _accepted(component, env)
    for lookalike, reason in component.lookalikes.items():
        if lookalike in env.distributions:
            return Finding(
                name,
                f'The distribution {lookalike} {env.distributions[lookalike]} {reason}.',
                replace(component, env, {lookalike, *providers}),
            )
    if is_mixture(component, env, providers):
        both = ' and '.join(f'{one} {env.distributions[one]}' for one in providers)
        return Finding(
            name,
            f'{both} both install the module {component.module}, so its files are a mixture of '
            'the two.',
            separate(component, env, providers),
        )
    fork = env.own(component.distribution) != component.distribution
    foreign = env.foreign.union(component.alternatives) if fork else env.foreign
    if foreign.intersection(providers):
        return Finding(
            name,
            f'{providers[0]} {version} is of another stack than most installed packages; in '
            f'theirs, the module {component.module} is of {env.own(component.distribution)}.',
            replace(component, env, providers),
        )
    if not providers and env.probes[name].error:
        sentence = f'{name} is not installed: {component.purpose}.'
        return Finding(name, sentence, install(component, env))
    if version and not is_within(version, accepted):
        return Finding(
            name,
            f'{providers[0]} {version} is not supported: convnext_backbones needs '
            f'{component.distribution} {accepted}.',
            replace(component, env, providers),
        )
    return None


def _accepted(component: Component, env: Environment) -> str:
    """Return the declared range of versions of a component; empty if none is declared."""
    names = [component.distribution]
    if env.own(component.distribution) == component.distribution:
        names += component.alternatives  # the extras name one of them
    return next((env.accepted[name] for name in names if name in env.accepted), '')


def _explain(component: Component, env: Environment, error: str) -> Finding:
    """Return the problem that made the import of an installed component fail with ``error``."""
    if component.name == 'mmcv ops':
        return ops_problem(component, env, error)
    for explain in (
        _refused_version,
        _missing_pkg_resources,
        _missing_library,
        _other_numpy,
        _missing_module,
    ):
        problem = explain(component, env, error)
        if problem:
            return problem
    return Finding(
        component.name,
        f'{component.name} {env.version(component)} is installed, but importing it fails: '
        f'{error.strip().splitlines()[-1].strip()}',
        repair(component, env),
    )


def _refused_version(component: Component, env: Environment, error: str) -> Finding | None:
    """Explain an assertion of mmdet or mmsegmentation on the version of mmcv or mmengine."""
    refusal = re.search(r'(MMCV|MMEngine)==(\S+) is used but incompatible', error)
    if not refusal:
        return None
    refused = BY_NAME[refusal[1].lower()]
    limits = re.search(rf'{refused.name}>=.+?(?=\.?$)', error)
    return Finding(
        refused.name,
        f'{component.name} {env.version(component)} refuses {refused.name} {refusal[2]}'
        + (f': it needs {limits[0]}.' if limits else '.'),
        replace(refused, env, env.providers.get(refused.module, ())),
    )


def _missing_pkg_resources(component: Component, env: Environment, error: str) -> Finding | None:
    if "No module named 'pkg_resources'" not in error:
        return None
    setuptools = BY_NAME['setuptools']
    return Finding(
        setuptools.name,
        f'setuptools {env.version(setuptools)} has no pkg_resources (82 removed it), which '
        f'{component.name} {env.version(component)} imports.',
        install(setuptools, env),
    )


def _missing_library(component: Component, env: Environment, error: str) -> Finding | None:
    """Explain a library of the system that OpenCV does not find."""
    if component.name != 'opencv' or 'cannot open shared object file' not in error:
        return None
    # The system's library is the lasting fix: mmengine requires opencv-python, so pip would install
    # it over opencv-python-headless again with the next package.
    command = f'{env.apt_get} update && {env.apt_get} install -y libgl1 libglib2.0-0'
    if not env.apt_get:
        command = (
            f'{pip(env)} uninstall -y {" ".join(env.providers["cv2"])} && '
            f'{pip(env)} install opencv-python-headless=={env.tested["opencv-python"]}'
        )
    library = error.partition(': ')[2].partition(':')[0]
    return Finding(
        component.name,
        f'opencv {env.version(component)} needs the system library {library}, which is missing.',
        command,
    )


def _other_numpy(component: Component, env: Environment, error: str) -> Finding | None:
    """Explain an extension that was compiled for another numpy than the installed one."""
    name, version = component.name, env.version(component)
    if name == 'torch' and 'Numpy is not available' in error:
        return Finding(
            'numpy',
            f'torch {version} was compiled for numpy 1 and cannot use numpy '
            f'{env.distributions.get("numpy", "")}.',
            f"{pip(env)} install 'numpy<2'",
        )
    if re.search(r'dtype size changed|compiled using NumPy|_ARRAY_API|numpy\.core\.multi', error):
        return Finding(
            name,
            f'{name} {version} was compiled for another numpy than '
            f'{env.distributions.get("numpy", "the installed one")}.',
            f'{pip(env)} install --force-reinstall --no-deps '
            f'{pinned("numpy", env)} {pinned(component.distribution, env)}',
        )
    return None


def _missing_module(component: Component, env: Environment, error: str) -> Finding | None:
    missing = re.search(r"No module named '(\w+)", error)
    if not missing or missing[1] == component.module:
        return None
    return Finding(
        component.name,
        f"{component.name} {env.version(component)} cannot be imported because '{missing[1]}', "
        'which it needs, is missing.',
        install(component, env),
    )
