"""What the kernel tells about the processor."""

from __future__ import annotations

import platform
import re
from contextlib import suppress
from pathlib import Path

CPU_TABLE = Path('/proc/cpuinfo')  # Linux only


def describe_processor() -> str:
    """Return architecture, models and instruction sets; what is unknown is left out."""
    found: set[str] = set()
    with suppress(OSError):
        pattern = r'^(?:model name|flags|Features)\s*:\s*(.+)$'
        found = set(re.findall(pattern, CPU_TABLE.read_text(), re.M))
    return ' '.join([platform.machine(), *sorted(found)])
