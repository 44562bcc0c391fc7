"""From a folder of data to a config: recognize, convert where necessary, plan, and write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..config import describe_head
from ..data.find import find_data
from ..data.found import Found
from ..data.prepare import prepare
from ..io.files import write_atomically
from .machine import this_machine
from .plan import Wishes, choose_head, make_plan
from .text import config_text, known_splits, needs_classes_file, summary


def write_config(
    data: Path,
    out: Path,
    wishes: Wishes,
    *,
    prepared: Path,
    configs: Path,
    command: str,
    say: Callable[[str], None] = print,
) -> None:
    """Write a config for a folder of data.

    Args:
        data: The folder; it is not changed.
        out: The config to write.
        wishes: What the user asks for.
        prepared: A folder that does not exist, for what is converted or split.
        configs: The folder of the configs of this package.
        command: The command line, for the first comment.
        say: Gets a sentence about everything that was found and decided.

    Raises:
        FileExistsError: ``out`` or, where it is needed, ``prepared`` exists.
        FileNotFoundError: There is no such folder.
        ValueError: The data are not understood, or a wish cannot be met.
    """
    classes_file = out.with_name(f'{out.stem}_classes.txt')
    refuse_existing(out, '--out')
    found = find_data(data, describe_head(wishes.head).task if wishes.head else None)
    say(summary(found))
    for note in found.notes:
        say(note)
    name, head = choose_head(found, wishes)
    if wishes.head not in (None, name):
        say(f'without weights, {wishes.head} becomes {name}; --arch tiny keeps its size')
    found = _readable(found, prepared, say)
    plan = make_plan(found, name, head, wishes, this_machine())
    listed = needs_classes_file(plan)
    if listed:
        refuse_existing(classes_file, '--out')
        write_atomically(classes_file, ''.join(f'{name}\n' for name in found.classes))
        say(f'the names of {len(found.classes)} classes are in {classes_file}')
    text = config_text(plan, command, configs, out, str(classes_file) if listed else '')
    write_atomically(out, text)
    say(f'wrote {out}')


def refuse_existing(path: Path, flag: str) -> None:
    """Raise FileExistsError if there is something at ``path`` already."""
    if path.exists():
        raise FileExistsError(
            f'expected a new name for {flag}, found {str(path)!r}, which is not overwritten; '
            'remove it, or name another'
        )


def _readable(found: Found, prepared: Path, say: Callable[[str], None]) -> Found:
    """Return data that mmdet or mmseg can read, with a part to validate on."""
    if not found.convert and known_splits(found.splits):
        return found
    refuse_existing(prepared, '--data-out')
    if found.convert:
        say(f'{found.convert}: converted into {prepared}')
    if not known_splits(found.splits):
        say(f'there is no part to validate on: the images were split, into {prepared}')
    ready = prepare(found, prepared)
    for note in ready.notes:
        if note not in found.notes:
            say(note)
    return ready
