"""What a check finds: what is wrong, where, and how to fix it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

ERROR, WARNING = 'error', 'warning'
STYLES = {ERROR: 'bold red', WARNING: 'yellow'}
SHOWN = 3  # names or places that a finding spells out


@dataclass(frozen=True)
class Finding:
    """One problem of a config or of its data, in as many places as it has.

    Attributes:
        level: ``error`` if training would fail or learn what is wrong, else ``warning``.
        what: The problem.
        where: The file, or the entry of the config.
        fix: What to do.
        examples: The first places in the file, such as ``annotation 7``.
        count: The number of places; 0 where ``where`` says it all.
    """

    level: str
    what: str
    where: str
    fix: str
    examples: tuple[str, ...] = ()
    count: int = 0

    @property
    def places(self) -> str:
        """How many places there are, and the first; empty where ``where`` says it all."""
        more = ', ...' if self.count > len(self.examples) else ''
        return f'{self.count} ({", ".join(self.examples)}{more})' if self.count else ''

    def __str__(self) -> str:
        what = f'{self.what}: {self.places}' if self.count else self.what
        return f'{self.level}: {self.where}: {what}; {self.fix}'


class Kind(NamedTuple):
    """What problems in many places of a file have in common."""

    level: str
    what: str
    fix: str


def group(problems: Iterable[tuple[Kind, str]], where: str) -> list[Finding]:
    """One finding per kind, in the order in which the kinds come first.

    Args:
        problems: Kinds and places.
        where: The file that has the places.
    """
    places = defaultdict(list)
    for kind, place in problems:
        places[kind].append(repr(place)[1:-1])  # names may hold what cannot be printed
    return [several(kind, where, found) for kind, found in places.items()]


def several(kind: Kind, where: str, places: Sequence[str]) -> Finding:
    """The finding of one kind in many places."""
    return Finding(kind.level, kind.what, where, kind.fix, (*places[:SHOWN],), len(places))


def spell(names: Sequence[str]) -> str:
    """The first of some names, for a sentence."""
    return ', '.join(map(repr, names[:SHOWN])) + (', ...' if len(names) > SHOWN else '')


def errors_first(findings: Iterable[Finding]) -> list[Finding]:
    """The errors before the warnings, otherwise in the same order."""
    return sorted(findings, key=lambda finding: finding.level != ERROR)


def as_table(findings: Iterable[Finding]) -> Table:
    """For a terminal."""
    table = Table('', 'what', 'where', 'how to fix it', show_lines=True)
    for finding in findings:
        where = f'{finding.where}\n{finding.places}'.strip()
        # As text: brackets in it are no markup.
        cells = map(Text, (finding.what, where, finding.fix))
        table.add_row(Text(finding.level, STYLES[finding.level]), *cells)
    return table
