"""Writing files so that no reader, and no crash, finds half of one."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

TEMPORARY = '.tmp'  # ends the name of a file while it is written


def check_file(path: str, what: str) -> None:
    """Raise FileNotFoundError, naming ``what`` was expected, unless ``path`` is a file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'expected {what}, found no file at {path!r}')


def write_json(path: Path, content: dict | list) -> None:
    """Write JSON; numbers of numpy and torch become plain ones."""
    write_atomically(path, json.dumps(content, indent=2, default=float))


class WriteError(OSError):
    """A file could not be written as a whole; what was there under its name still is."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole, by way of a temporary one beside it.

    Raises:
        WriteError: It cannot be written, for want of space or of permission.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with temporary.open('wb') as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # or a machine that goes down may keep the name and lose this
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise WriteError(error.errno, error.strerror, str(path)) from error


def remove_leftovers(folder: str | Path) -> None:
    """Remove what a process that was killed had begun to write in ``folder``."""
    for path in Path(folder).glob(f'*{TEMPORARY}'):
        path.unlink(missing_ok=True)


def leaves_root(path: str, root: str) -> bool:
    """Whether ``path``, as it would be opened, is outside the folder ``root``.

    For names in files that others wrote: ``..`` and absolute paths lead anywhere. Links are taken
    for what they are called, as whole data sets often are links to another disk.
    """
    root = os.path.abspath(root)
    return os.path.commonpath([root, os.path.abspath(path)]) != root
