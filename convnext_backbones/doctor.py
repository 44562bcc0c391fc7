"""Compare installed with tested packages, and name the command that fixes each problem.

``python -m convnext_backbones.doctor`` (``--json`` for programs) exits with 0 only if training and
evaluation can run. It uses the standard library alone, so it runs where nothing else is installed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ._doctor_diagnosis import Problem, diagnose
from ._doctor_environment import COMPONENTS, Component, Environment, inspect

PROBLEM = 'PROBLEM'
BLOCKED = 'fails because of another problem'


@dataclass(frozen=True)
class Row:
    """One row of the table of components."""

    component: str
    installed: str
    tested: str
    verdict: str


def tabulate(env: Environment, problems: Sequence[Problem]) -> list[Row]:
    """Return the table of installed and tested versions."""
    failed = {problem.component for problem in problems}
    tested = env.tested['python']
    same = env.python == tested or env.python.startswith(f'{tested}.')
    verdict = PROBLEM if 'Python' in failed else 'ok' if same else 'not the tested version'
    rows = [Row('Python', env.python, tested, verdict)]
    for component in COMPONENTS:
        if component.name == 'mmcv ops':
            rows.append(_ops_row(env, failed))
        else:
            rows.append(_component_row(component, env, failed))
        if component.name == 'torch':
            rows += _device_rows(env.probes['torch'].facts)
    return rows


def _component_row(component: Component, env: Environment, failed: Collection[str]) -> Row:
    tested, version = env.tested[env.own(component.distribution)], env.version(component)
    providers, error = env.providers.get(component.module, ()), env.probes[component.name].error
    installed = version or ('-' if error else 'without metadata')
    if providers and providers != (component.distribution,):
        installed = ' + '.join(f'{name} {env.distributions[name]}' for name in providers)
    if component.name in failed:
        verdict = PROBLEM
    elif error:
        verdict = BLOCKED
    elif version.partition('+')[0] != tested:
        verdict = 'not the tested version'
    else:
        verdict = 'ok'
    return Row(component.name, installed, tested, verdict)


def _ops_row(env: Environment, failed: Collection[str]) -> Row:
    probe = env.probes['mmcv ops']
    cuda = probe.facts.get('cuda', 'not available')
    if probe.error:
        verdict = PROBLEM if 'mmcv ops' in failed else BLOCKED
        return Row('mmcv ops', '-', 'load', verdict)
    loaded = 'load (CPU)' if cuda == 'not available' else f'load (CPU, CUDA {cuda})'
    return Row('mmcv ops', loaded, 'load', PROBLEM if 'mmcv ops' in failed else 'ok')


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


def render(rows: Sequence[Row], problems: Sequence[Problem]) -> str:
    """Return the report for people: the table, and the problems with their commands."""
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
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog='convnext_backbones.doctor', description=__doc__)
    parser.add_argument('--json', action='store_true', help='print JSON and nothing else')
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
