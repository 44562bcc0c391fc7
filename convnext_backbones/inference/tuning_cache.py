"""Keep what was measured in the user's cache, by processor, torch version and threads."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from mmengine.logging import print_log

from ..io.download import cache_folder
from ..io.files import write_atomically
from ..io.processor import describe_processor
from ..native.compiler import load

NAME = 'tuning.json'
FORMAT = 1
LOCK_SECONDS = 10
Entry = dict[str, Any]  # choice, mode, milliseconds by candidate


class TuningCache:
    """The choices that were made on this machine, in a file that several processes share.

    A file that cannot be read or written is said once and costs no more than measuring again.

    Args:
        path: The file; by default in the user's cache.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_folder() / NAME
        self._warned = False

    def read(self) -> dict[str, Entry]:
        """Return the entries for this machine by site."""
        return self._sections().get(_section(), {})

    def add(self, site: str, entry: Entry) -> None:
        """Write an entry beside those that are there by now."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f'{self.path}.lock', timeout=LOCK_SECONDS):
                sections = self._sections()
                sections.setdefault(_section(), {})[site] = entry
                content = dict(format=FORMAT, sections=sections)
                write_atomically(self.path, json.dumps(content, indent=1))
        # Older versions of filelock raise NotImplementedError on disks without locks.
        except (OSError, Timeout, NotImplementedError) as error:
            self._warn(f'{str(self.path)!r} cannot be written ({error})')

    def _sections(self) -> dict[str, dict[str, Entry]]:
        try:
            content = json.loads(self.path.read_text())
            if content['format'] != FORMAT:
                return {}
            sections = content['sections']
            for entries in sections.values():
                for entry in entries.values():
                    _check(entry)
        except FileNotFoundError:
            return {}
        # RecursionError: lists in lists, without end.
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            self._warn(f'{str(self.path)!r} cannot be read ({type(error).__name__}: {error})')
            return {}
        return sections

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            print_log(
                f'{problem}; what is measured now is not kept. Delete the file if this persists.',
                logger='current',
                level=logging.WARNING,
            )


def _check(entry: Entry) -> None:
    """Raise ValueError or KeyError unless an entry of the file is one of ours."""
    times = entry['milliseconds']
    if not isinstance(entry['choice'], str) or not isinstance(entry['mode'], str):
        raise ValueError('an entry names no choice')
    if not isinstance(times, dict) or not all(isinstance(t, (int, float)) for t in times.values()):
        raise ValueError('an entry has no times')


def _section() -> str:
    """Name what choices depend on, besides the layer."""
    library = load()
    build = library.build if library else 'none'
    digest = hashlib.sha256(describe_processor().encode()).hexdigest()[:16]
    threads = torch.get_num_threads()
    return f'cpu {digest}, torch {torch.__version__}, {threads} threads, kernels {build}'
