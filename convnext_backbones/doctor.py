"""Compare installed with tested packages, and name the command that fixes each problem.

``python -m convnext_backbones.doctor`` (``--json`` for programs) exits with 0 only if training and
evaluation can run. It uses the standard library alone, so it runs where nothing else is installed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ._doctor_diagnosis import annotate, diagnose
from ._doctor_environment import COMPONENTS, Component, Environment, inspect
from ._doctor_findings import Finding
from ._doctor_mmcv import VARIABLE

PROBLEM = 'PROBLEM'
BLOCKED = 'fails because of another problem'


@dataclass(frozen=True)
class Row:
    """One row of the table of components."""

    component: str
    installed: str
    tested: str
    verdict: str


def tabulate(env: Environment, problems: Sequence[Finding]) -> list[Row]:
    """Return the table of installed and tested versions."""
    failed = {problem.component for problem in problems}
    tested = '.'.join(env.python.split('.')[:2]) in env.pythons
    verdict = PROBLEM if 'Python' in failed else 'ok' if tested else 'not a tested version'
    rows = [Row('Python', env.python, ', '.join(sorted(env.pythons)), verdict)]
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
    """Return the row that says who computes mmcv's operators; none of the three is better."""
    probe = env.probes['mmcv ops']
    if probe.error:
        return Row('mmcv ops', '-', '-', PROBLEM if 'mmcv ops' in failed else BLOCKED)
    cuda = probe.facts['cuda']
    devices = '' if cuda == 'not available' else f', CUDA {cuda}'
    verdict = f'ok, {VARIABLE} asks for it' if probe.facts['forced'] else 'ok'
    return Row('mmcv ops', probe.facts['description'] + devices, '-', verdict)


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


def render(rows: Sequence[Row], problems: Sequence[Finding], notes: Sequence[Finding] = ()) -> str:
    """Return the report for people: the table, the problems with their commands, the notes."""
    lines = [Row('component', 'installed', 'tested', 'verdict'), *rows]
    cells = [tuple(asdict(row).values()) for row in lines]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    text = [
        '  '.join(row[column].ljust(width) for column, width in enumerate(widths)).rstrip()
        for row in cells
    ]
    if problems:
        many = f'{len(problems)} problems, to be fixed in this order:'
        text += ['', 'One problem:' if len(problems) == 1 else many, *_paragraphs(problems)]
    else:
        text += ['', 'Training and evaluation can run.']
    if notes:
        text += ['', 'To know:', *_paragraphs(notes)]
    return '\n'.join([*text, ''])


def _paragraphs(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        yield from ('', f'{finding.component}: {finding.sentence}')
        if finding.command:
            yield f'    {finding.command}'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog='convnext_backbones.doctor', description=__doc__)
    parser.add_argument('--json', action='store_true', help='print JSON and nothing else')
    arguments = parser.parse_args(argv)
    env = inspect()
    problems, notes = diagnose(env), annotate(env)
    rows = tabulate(env, problems)
    if arguments.json:
        report = {
            'ok': not problems,
            'components': [asdict(row) for row in rows],
            'problems': [asdict(problem) for problem in problems],
            'notes': [asdict(note) for note in notes],
        }
        sys.stdout.write(json.dumps(report, indent=2) + '\n')
    else:
        sys.stdout.write(render(rows, problems, notes))
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main())
