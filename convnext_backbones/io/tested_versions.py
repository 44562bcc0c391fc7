"""Read the tables of tested versions, and compare versions with them.

Standard library only: the doctor and the setup read the tables where nothing else is installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from pathlib import Path

TABLE = Path(__file__).resolve().parents[1] / 'tested_versions.txt'
# As declared in setup.py, for interpreters in which the package itself is not installed.
PYTHON = '>=3.10'
# OpenMMLab's stack, and its forks. The table of a fork lists only the differences.
OPENMMLAB = 'openmmlab'
FORKS = {'onedl': TABLE.with_name('tested_versions_onedl.txt')}
# mmcv's Python without its compiled ops, as a wheel. Forks have no such distribution.
LITE = 'mmcv-lite'
# As in 'numpy==2.2.6; python_version < "3.11"'; the marker may be missing.
PIN = re.compile(r'^(?:# )?([\w.-]+)==([^\s;]+)(?:; ([^#\n]*))?', re.MULTILINE)


def read_stacks() -> dict[str, dict[str, str]]:
    """Return the names that each stack uses for OpenMMLab's distributions.

    Returns:
        By stack: from OpenMMLab's name of a distribution to the stack's own.
    """
    line = re.compile(r'^([\w.-]+)==\S+  # instead of ([\w.-]+)$', re.MULTILINE)
    forks = {
        fork: {theirs: own for own, theirs in line.findall(path.read_text())}
        for fork, path in FORKS.items()
    }
    return {OPENMMLAB: {name: name for names in forks.values() for name in names}, **forks}


def installed_stack(distributions: Collection[str]) -> str:
    """Return the stack that most of ``distributions`` belong to; OpenMMLab's if none do."""
    stacks = read_stacks()
    return max(stacks, key=lambda stack: len({*stacks[stack].values()}.intersection(distributions)))


def foreign_to(stack: str) -> frozenset[str]:
    """Return the distributions that belong only to other stacks."""
    stacks = read_stacks()
    every = frozenset(name for names in stacks.values() for name in names.values())
    return every.difference(stacks[stack].values())


def stack_table(stack: str) -> str:
    """Return the tested versions of a stack as pip constraints, one per line."""
    lines = TABLE.read_text().splitlines()
    if stack != OPENMMLAB:
        replaced = read_stacks()[stack]
        lines = [line for line in lines if line.partition('==')[0] not in replaced]
        lines += FORKS[stack].read_text().splitlines()
    return '\n'.join([*lines, ''])


def tested_pythons() -> tuple[str, ...]:
    """Return the tested versions of Python, as 3.11; all tests run on the first one."""
    line = re.search(r'^# python==(.+)$', TABLE.read_text(), re.MULTILINE)
    assert line, 'the table names them'
    return tuple(line[1].split())


def read_table(text: str, python: str = '') -> dict[str, str]:
    """Read pip constraints.

    Args:
        text: One constraint per line, with or without a marker of pip on ``python_version``.
        python: Version of Python whose lines count; by default of this one.

    Returns:
        The version by normalized name of the distribution, and that of ``python``, which the
        tables name in a comment.
    """
    python = python or '{}.{}'.format(*sys.version_info)
    return {
        normalize(name): version
        for name, version, marker in PIN.findall(text)
        if is_within(python, marker.replace('"', ''))
    }


def normalize(name: str) -> str:
    """Return a distribution's name in the form in which pip compares names."""
    return re.sub(r'[-_.]+', '-', name).lower()


def is_within(version: str, specifier: str) -> bool:
    """Whether a version meets all ``>=`` and ``<`` clauses of a specifier."""
    for operator, bound in re.findall(r'(>=|<)\s*([\d.]+)', specifier):
        if (_release(version) >= _release(bound)) != (operator == '>='):
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, without zeros at the end."""
    digits = re.match(r'[\d.]*', version)
    assert digits, 'the pattern matches the empty string too'
    numbers = [int(number) for number in digits[0].split('.') if number]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def is_version(installed: str, wanted: str) -> bool:
    """Whether a version is the wanted one; local tags count only if ``wanted`` has one."""
    return wanted in (installed, installed.partition('+')[0])
