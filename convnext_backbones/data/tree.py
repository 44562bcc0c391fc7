"""List the files below a folder, once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from ..io.images import IMAGE_SUFFIXES

Item = TypeVar('Item')

DEEPEST = 12  # folders below folders; a link to a folder above would otherwise never end
# Words in names of files and folders that say which part of the data they hold.
SPLIT_WORDS = {
    'train': 'train',
    'training': 'train',
    'val': 'val',
    'valid': 'val',
    'validation': 'val',
    'dev': 'val',
    'test': 'test',
    'testing': 'test',
}


class Tree:
    """The names of all files below a folder; those that begin with a dot are left out.

    Paths are relative to the folder, with ``/`` between their parts; the folder itself is ``''``.

    Attributes:
        root: The folder.
        folders: The sorted names of the files in each folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: dict[str, list[str]] = {}
        self._scan('', frozenset())

    def _scan(self, folder: str, above: frozenset[str]) -> None:
        path = self.path(folder)
        real = os.path.realpath(path)
        if real in above or len(above) > DEEPEST:
            return
        with os.scandir(path) as entries:
            named = sorted(
                (entry.name, entry.is_dir())
                for entry in entries
                if not entry.name.startswith(('.', '__MACOSX')) and _is_text(entry.name)
            )
        self.folders[folder] = [name for name, is_folder in named if not is_folder]
        for name, is_folder in named:
            if is_folder:
                self._scan(join(folder, name), above | {real})

    def path(self, name: str) -> Path:
        """Return the path of a file or folder, from the name below the root."""
        return self.root / name

    @cached_property
    def files(self) -> frozenset[str]:
        """All files."""
        return frozenset(
            join(folder, name) for folder, names in self.folders.items() for name in names
        )

    @cached_property
    def images(self) -> dict[str, list[str]]:
        """The names of the images in each folder that has some."""
        listed = {
            folder: [name for name in names if suffix(name) in IMAGE_SUFFIXES]
            for folder, names in self.folders.items()
        }
        return {folder: names for folder, names in listed.items() if names}

    def ending(self, *suffixes: str) -> list[str]:
        """Return the files with one of the suffixes, those of upper folders first."""
        found = [name for name in self.files if suffix(name) in suffixes]
        return sorted(found, key=lambda name: (name.count('/'), name))


def _is_text(name: str) -> bool:
    """Whether a name is valid UTF-8, which JSON and lists of files need."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def join(folder: str, name: str) -> str:
    """Return the path of a file in a folder of a :class:`Tree`."""
    return f'{folder}/{name}' if folder else name


def suffix(name: str) -> str:
    """Return the suffix of a file name, in small letters."""
    last = name.rpartition('/')[2]
    place = last.rfind('.')
    return last[place:].lower() if place > 0 else ''


def stem(name: str) -> str:
    """Return the name of a file without folder and suffix."""
    last = name.rpartition('/')[2]
    place = last.rfind('.')
    return last[:place] if place > 0 else last


def folder_of(name: str) -> str:
    """Return the folder of a file of a :class:`Tree`."""
    return name.rpartition('/')[0]


def split_of(path: str) -> str | None:
    """Return the part of the data that a path names, by its last folders first; None if none.

    ``instances_train2017.json`` is train, ``valid/`` is val, ``trainval.txt`` is neither.
    """
    for part in reversed(path.split('/')):
        words = re.findall('[a-z]+', part.rpartition('.')[0].lower() or part.lower())
        splits = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
        if splits:
            return splits[-1]
    return None


def spread(items: Sequence[Item], number: int) -> list[Item]:
    """Return at most ``number`` items, evenly spread."""
    if len(items) <= number:
        return list(items)
    return [items[index * len(items) // number] for index in range(number)]


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 image``, ``1,200 images``."""
    return f'{number:,} {noun}' if number == 1 else f'{number:,} {noun}s'


def number_of(items: Iterable[object]) -> int:
    """Return how many items there are."""
    return sum(1 for _ in items)
