"""Findings of a check: what is wrong, where, and how to fix it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from ..io.wording import SHOWN, first_names

ERROR, WARNING = 'error', 'warning'
STYLES = {ERROR: '\x1b[1;31m', WARNING: '\x1b[1;33m'}  # bold red, bold yellow
PLAIN = '\x1b[0m'


@dataclass(frozen=True)
class Finding:
    """One problem of a config or of its data, which may occur in many places.

    Attributes:
        level: ``error`` if training would fail or learn something wrong, else ``warning``.
        what: The problem.
        entry: The entry of the config that is wrong, or that names the data that are.
        fix: What to do.
        path: The file or folder that is wrong; empty if the config itself is.
        examples: The first places in that file, such as ``annotation 7``.
        count: The number of places; 0 if ``path`` and ``entry`` say it all.
        config: The file of the config; empty if it has none.
    """

    level: str
    what: str
    entry: str
    fix: str
    path: str = ''
    examples: tuple[str, ...] = ()
    count: int = 0
    config: str = ''

    @property
    def where(self) -> str:
        """The file that is wrong, or else the entry of the config."""
        return self.path or self.entry

    @property
    def places(self) -> str:
        """The number of places and the first of them; empty without places."""
        more = self.count - len(self.examples)
        names = ', '.join(self.examples) + (f' and {more} more' if more else '')
        return f'{self.count} ({names})' if self.count else ''

    def as_line(self, color: bool = False) -> str:
        """Return one line, ``PATH:PLACE: LEVEL: WHAT; FIX``, whatever names there are in it.

        The place is the first one in the file, such as ``annotation 7``, or the entry of the
        config.

        Args:
            color: Highlight the level for a terminal.
        """
        in_file = bool(self.path and self.count)
        place = self.examples[0] if in_file else self.entry
        place = ':'.join(filter(None, (self.path or self.config, place)))
        level = f'{STYLES[self.level]}{self.level}{PLAIN}' if color else self.level
        what = self.what
        if self.count > in_file:  # more places than the line begins with
            what += f': {self.places}'
        if in_file:
            what += f', in {self.entry}'
        return f'{printable(place)}: {level}: {printable(what)}; {printable(self.fix)}'

    def as_data(self) -> dict[str, Any]:
        """Return the finding for JSON."""
        return dict(asdict(self), where=self.where, places=self.places)

    def __str__(self) -> str:
        return self.as_line()


class Kind(NamedTuple):
    """The common part of a problem that occurs in many places of a file."""

    level: str
    what: str
    fix: str


def group(problems: Iterable[tuple[Kind, str]], path: str, entry: str) -> list[Finding]:
    """Return one finding per kind, in the order in which the kinds first occur.

    Args:
        problems: Kinds and places.
        path: The file that has the places.
        entry: The entry of the config that names the file.
    """
    places = defaultdict(list)
    for kind, place in problems:
        places[kind].append(place)
    return [several(kind, found, entry, path) for kind, found in places.items()]


def several(kind: Kind, places: Sequence[str], entry: str, path: str = '') -> Finding:
    """Return the finding of one kind in many places."""
    examples = tuple(printable(place) for place in places[:SHOWN])
    return Finding(kind.level, kind.what, entry, kind.fix, path, examples, len(places))


def spell(names: Iterable[object]) -> str:
    """Return the first of some names, in quotation marks, for a sentence."""
    return first_names(names, quoted=True)


def printable(text: str) -> str:
    """Return ``text`` on one line, with line breaks and control characters escaped."""
    return ''.join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def one_line(error: Exception) -> str:
    """Return the message of an error, its lines joined by spaces."""
    return ' '.join(line.strip() for line in str(error).splitlines())


def errors_first(findings: Iterable[Finding], config: str = '') -> list[Finding]:
    """Return the errors before the warnings, otherwise in the same order.

    Args:
        findings: Of a config.
        config: The file of that config, to be noted in them.
    """
    noted = [replace(finding, config=config) for finding in findings]
    return sorted(noted, key=lambda finding: finding.level != ERROR)


def count_levels(findings: Iterable[Finding]) -> str:
    """Return the numbers of errors and warnings, such as ``1 error and 2 warnings``."""
    levels = Counter(finding.level for finding in findings)
    counts = [(levels[level], level) for level in (ERROR, WARNING)]
    return ' and '.join(f'{count} {level}' + 's' * (count != 1) for count, level in counts)
