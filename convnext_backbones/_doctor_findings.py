"""What the doctor says about a component: a sentence, and the command for it."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass

from ._doctor_environment import Component, Environment


@dataclass(frozen=True)
class Finding:
    """A problem or a note: the component, a sentence, and a command.

    The command fixes a problem. After a note it may be empty, and nobody has to run it.
    """

    component: str
    sentence: str
    command: str


def pip(env: Environment) -> str:
    """Return the command for the interpreter's pip."""
    return f'{shlex.quote(env.executable)} -m pip'


def pinned(distribution: str, env: Environment) -> str:
    """Return the tested version of a distribution, as a requirement."""
    name = env.own(distribution)
    return f'{name}=={env.tested[name]}'


def install(component: Component, env: Environment, options: str = '') -> str:
    """Return the command that installs the tested version of a component."""
    return f'{pip(env)} install {options and options + " "}{_wanted(component, env)}'


def replace(component: Component, env: Environment, providers: Collection[str]) -> str:
    """Return the command that installs the tested distribution in place of the providers."""
    if set(providers) <= {_wanted(component, env).partition('==')[0]}:
        return install(component, env)
    return f'{pip(env)} uninstall -y {" ".join(sorted(providers))} && {install(component, env)}'


def repair(component: Component, env: Environment) -> str:
    """Return the command that puts the tested distribution in place of files that do not work."""
    providers = env.providers.get(component.module, ())
    if set(providers) <= {_wanted(component, env).partition('==')[0]}:
        # A fork's mmcv comes as source, and pip's cache may hold the build that does not work.
        fresh = ' --no-cache-dir' if component.module == 'mmcv' else ''
        return install(component, env, f'--force-reinstall --no-deps{fresh}')
    return replace(component, env, providers)


def _wanted(component: Component, env: Environment) -> str:
    """Return the requirement of the distribution that the doctor installs for a component.

    For mmcv this is the wheel without compiled operators. A fork has none; pip builds its mmcv in
    isolation, where it finds no torch and therefore compiles nothing.
    """
    requirement = pinned(component.distribution, env)
    if requirement.startswith('mmcv=='):
        return requirement.replace('mmcv', 'mmcv-lite')
    return requirement
