"""What the doctor says about mmcv: who may install it, and who computes its operators."""

from __future__ import annotations

import re
from collections.abc import Collection

from ._doctor_environment import Component, Environment
from ._doctor_findings import Finding, install, repair, replace

# The variable that forces a provider, in the errors of those that do not run.
VARIABLE = 'CONVNEXT_BACKBONES_OPS'


def is_mixture(component: Component, env: Environment, providers: Collection[str]) -> bool:
    """Whether the files of a component come from distributions that do not fit together.

    Several OpenCV distributions share one module by design; those of OpenMMLab and its forks
    overwrite each other's files. mmcv and mmcv-lite of one version have the same Python files.
    """
    if len(providers) < 2 or not component.module.startswith('mm'):
        return False
    same = len({env.distributions[name] for name in providers}) == 1
    return not (same and {component.distribution, *component.alternatives}.issuperset(providers))


def separate(component: Component, env: Environment, providers: Collection[str]) -> str:
    """Return the command that ends a mixture."""
    mmcv = {component.distribution, *component.alternatives}
    if mmcv == {*providers} and env.version(component) == env.tested[component.distribution]:
        # Only the files of mmcv-lite are of another version: the compiled operators can stay.
        return install(component, env, '--force-reinstall --no-deps')
    return replace(component, env, providers)


def ops_problem(component: Component, env: Environment, error: str) -> Finding:
    """Return the problem of operators that fail with ``error``."""
    reason = error.strip().splitlines()[-1].strip()
    if VARIABLE in error:
        sentence = f'{re.sub(r"^[A-Za-z]+: ", "", reason)}.'
        return Finding(component.name, sentence, f'unset {VARIABLE}')
    mmcv = f'{env.providers[component.module][0]} {env.version(component)}'
    if "No module named 'mmcv.ops'" in error:
        sentence = (
            f'The Python files of {mmcv} are gone, as if a distribution with the same files had '
            'been uninstalled.'
        )
        command = install(component, env, '--force-reinstall --no-deps')
        return Finding(component.name, sentence, command)
    sentence = f'The ops of {mmcv} do not load: {reason}'
    return Finding(component.name, sentence, repair(component, env))


def ops_notes(component: Component, env: Environment) -> list[Finding]:
    """Return what is worth knowing about operators that run."""
    probe = env.probes[component.name]
    if probe.error:
        return []
    facts = probe.facts
    computes = f'{facts.get("description")} computes the operators instead'
    notes = []
    for reason in facts.get('broken', ()):
        sentence = f'{_one_line(reason)}; {computes}. If you do not need them, remove them:'
        notes.append(Finding(component.name, sentence, repair(component, env)))
    if 'torchvision' in facts:
        notes.append(Finding(component.name, f'{_one_line(facts["torchvision"])}; {computes}.', ''))
    if facts.get('provider', 'mmcv') != 'mmcv' and not facts['early']:
        sentence = (
            'convnext_backbones is not installed in the site-packages of this Python, so programs '
            'that import mmdet, mmseg or mmcv.ops before convnext_backbones find no operators: '
            'import convnext_backbones first.'
        )
        notes.append(Finding(component.name, sentence, ''))
    return notes


def _one_line(text: str) -> str:
    return ' '.join(text.split())
