"""The list of what a repair changed and of what it left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..io.wording import first_names
from .findings import printable


class Change(NamedTuple):
    """One change of a file.

    Attributes:
        file: The original.
        kind: What was done, the same words for all changes of a kind.
        place: What was changed, such as ``annotation 7``, by its id in the original.
        before: The old value; None for what was missing.
        after: The new value; None for what was dropped.
    """

    file: str
    kind: str
    place: str
    before: Any
    after: Any


class Left(NamedTuple):
    """Something wrong that cannot be decided from the data.

    Attributes:
        file: The original.
        kind: What is wrong, and what decides it.
        place: Where, as in :class:`Change`; empty for the whole file.
    """

    file: str
    kind: str
    place: str


@dataclass
class Log:
    """The changes of one file, and what is left.

    Attributes:
        file: Its path.
        changes: In the order in which they were made.
        left: In the order in which it was found.
    """

    file: str
    changes: list[Change] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def change(self, kind: str, place: str, before: Any, after: Any) -> None:
        """Note a change."""
        self.changes.append(Change(self.file, kind, place, before, after))

    def leave(self, kind: str, place: str = '') -> None:
        """Note what is left."""
        self.left.append(Left(self.file, kind, place))


def as_lines(entries: Iterable[Change | Left], word: str) -> Iterator[str]:
    """Return a line per file and kind, ``FILE: WORD: KIND: COUNT (PLACES)``.

    Args:
        entries: Changes, or what is left.
        word: What they are, ``fixed`` or ``left``.
    """
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in entries:
        places[entry.file, entry.kind].append(entry.place)
    for (file, kind), found in places.items():
        line = f'{printable(file)}: {word}: {printable(kind)}'
        named = [place for place in found if place]
        yield f'{line}: {len(named)} ({first_names(named)})' if named else line
