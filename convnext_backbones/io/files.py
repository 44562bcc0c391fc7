"""Write files as a whole, so that neither a reader nor a crash leaves half a file."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

TEMPORARY = '.tmp'  # ends the name of a file while it is written


def check_file(path: str, what: str) -> None:
    """Raise FileNotFoundError unless ``path`` is a file.

    Args:
        path: The file.
        what: The kind of file, for the message, such as ``'a checkpoint'``.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'expected {what}, found no file at {path!r}')


def write_json(path: Path, content: dict | list) -> None:
    """Write JSON; numbers of numpy and torch become plain numbers."""
    write_atomically(path, json.dumps(content, indent=2, default=float))


class WriteError(OSError):
    """Error for a file that could not be written; an older file of the same name is untouched."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole, through a temporary file beside it.

    Raises:
        WriteError: The disk is full, or permission is missing.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with temporary.open('wb') as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # a power cut could otherwise keep the name, not the contents
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise WriteError(error.errno, error.strerror, str(path)) from error


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files that a killed process left in ``folder``."""
    for path in Path(folder).glob(f'*{TEMPORARY}'):
        path.unlink(missing_ok=True)


def leaves_root(path: str, root: str) -> bool:
    """Whether ``path``, as it would be opened, is outside the folder ``root``.

    For names in files from elsewhere: ``..`` and absolute paths may lead anywhere. Symbolic links
    are not resolved, because datasets are often links to another disk.
    """
    root = os.path.abspath(root)
    return os.path.commonpath([root, os.path.abspath(path)]) != root
