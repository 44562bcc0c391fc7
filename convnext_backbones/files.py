"""Writing files so that no reader, and no crash, finds half of one."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole, by way of a temporary one beside it."""
    temporary = path.with_name(f'{path.name}.tmp')
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)
