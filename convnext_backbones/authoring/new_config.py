"""From a folder of data to a config: recognize, convert where necessary, plan, and write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ..config import describe_head
from ..config.classes import read_classes
from ..data.find import find_data
from ..data.found import Found
from ..data.prepare import prepare
from ..io.files import write_atomically
from .machine import this_machine
from .plan import Plan, Wishes, choose_head, make_plan
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
        OSError: ``out`` cannot be written.
        ValueError: The data are not understood, or a wish or a path cannot be met.
    """
    _refuse_names(data, out, prepared)
    refuse_existing(out, '--out')
    found = find_data(data, describe_head(wishes.head).task if wishes.head else None)
    say(summary(found))
    for note in found.notes:
        say(note)
    name, head = choose_head(found, wishes)
    if wishes.head not in (None, name):
        say(f'without weights, {wishes.head} becomes {name}; --arch tiny keeps its size')
    existed = prepared.exists()
    try:
        found = _readable(found, prepared, say)
        _write(make_plan(found, name, head, wishes, this_machine()), out, configs, command, say)
    except BaseException:
        if not existed:  # it would stand in the way of the next attempt
            shutil.rmtree(prepared, ignore_errors=True)
        raise


def _write(plan: Plan, out: Path, configs: Path, command: str, say: Callable[[str], None]) -> None:
    """Write a plan as a config, and the names of many classes beside it."""
    classes, listed = read_classes(plan.found.classes), ''  # refuses what are no names
    texts = {}
    if needs_classes_file(plan):
        path = out.with_name(f'{out.stem}_classes.txt')
        refuse_existing(path, '--out')
        texts[path], listed = ''.join(f'{name}\n' for name in classes), str(path)
    texts[out] = config_text(plan, command, configs, out, listed)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            write_atomically(path, text)
    except OSError as error:
        raise type(error)(f'cannot write {str(out)!r} ({error}); name another with --out') from None
    if listed:
        say(f'the names of {len(classes)} classes are in {listed}')
    say(f'wrote {out}')


def _refuse_names(data: Path, out: Path, prepared: Path) -> None:
    """Raise ValueError if a path cannot be written in a config, or is not that of a config."""
    if out.suffix != '.py':
        raise ValueError(f'expected a name that ends in .py for --out, got {str(out)!r}')
    if Path(os.path.abspath(prepared)).is_relative_to(os.path.abspath(data)):
        raise ValueError(
            f'expected a folder outside of the data for --data-out, got {str(prepared)!r}, which '
            f'would change {str(data)!r}'
        )
    for path in map(os.path.abspath, (data, out, prepared)):
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f'expected names in UTF-8, got {path!r}; rename the file or the folder'
            ) from None


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
    ready = prepare(found, prepared)
    if found.convert:
        say(f'{found.convert}: converted into {prepared}')
    if not known_splits(found.splits):
        say(f'there is no part to validate on: the images were split, into {prepared}')
    for note in ready.notes:
        if note not in found.notes:
            say(note)
    return ready
