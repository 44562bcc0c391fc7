"""Find the images that a file names, in a folder that may lie elsewhere by now."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from urllib.parse import unquote

from .tree import Tree, folder_of, join, split_of, spread

SAMPLE = 100  # names by which the folder of the images is chosen
# What Label Studio puts before the name of an uploaded file.
UPLOAD = re.compile('^[0-9a-f]{8}-')


def best_folder(
    tree: Tree, names: Sequence[str], split: str | None, source: str
) -> tuple[str, list[str]]:
    """Return the folder in which most names of images exist, and others that may be meant.

    Args:
        tree: The files.
        names: As the annotation file has them.
        split: The part of the data that it is, if that is known.
        source: The annotation file.
    """
    sample = spread(names, SAMPLE)

    def rank(folder: str) -> tuple:
        hits = sum(join(folder, name) in tree.files for name in sample)
        own = split_of(folder)
        fits = own == split if split else own is None
        words = set(re.findall('[a-z0-9]+', source.lower()))
        alike = len(words & set(re.findall('[a-z0-9]+', folder.lower())))
        beside = folder == folder_of(source)
        return 2 * hits > len(sample) and fits, hits, fits, beside, alike, -folder.count('/')

    ranks = {folder: rank(folder) for folder in tree.folders}
    best = max(ranks, key=lambda folder: ranks[folder], default='')
    return best, [name for name in ranks if name != best and ranks[name][:3] == ranks[best][:3]]


class Finder:
    """Finds images by the end of the path that a file has for them.

    Args:
        tree: The files.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """The paths of all images by name, for those that are not where they should be."""
        found: dict[str, list[str]] = defaultdict(list)
        for folder, names in sorted(self.tree.images.items()):
            for name in names:
                found[name].append(join(folder, name))
        return found

    def find(self, name: str, split: str | None = None) -> str | None:
        """Return the image that a path of another machine means; None if none, or several, fit.

        Args:
            name: With ``/`` or backslashes, from any root, perhaps with the prefix of an upload.
            split: The part of the data that it belongs to, which decides between equal names.
        """
        for spelled in dict.fromkeys([name, unquote(name)]):
            parts = [part for part in re.split(r'[\\/]', spelled.split('?d=')[-1]) if part]
            if not parts:
                continue
            for last in dict.fromkeys([parts[-1], UPLOAD.sub('', parts[-1])]):
                found = self._closest([*parts[:-1], last], split)
                if found:
                    return found
        return None

    def _closest(self, parts: Sequence[str], split: str | None) -> str | None:
        candidates = self.by_name.get(parts[-1], [])
        ranked = sorted(
            ((_shared(parts, name.split('/')), split_of(folder_of(name)) == split, name)
             for name in candidates),
            reverse=True,
        )  # fmt: skip
        if not ranked or (len(ranked) > 1 and ranked[0][:2] == ranked[1][:2]):
            return None
        return ranked[0][2]


def _shared(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many parts at the end of two paths are equal."""
    number = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        number += 1
    return number


def find_names(
    tree: Tree, finder: Finder, names: Iterable[str], folder: str, split: str | None
) -> tuple[dict[str, str], bool]:
    """Find the images that a file names.

    Args:
        tree: The files.
        finder: Of the same files.
        names: As the file has them.
        folder: Where they are looked for first.
        split: The part of the data that they are.

    Returns:
        The paths in the tree by name, without those that do not exist, and whether all names are
        paths below ``folder`` as they are.
    """
    found: dict[str, str] = {}
    literal = True
    for name in names:
        path = join(folder, name)
        if path not in tree.files:
            literal = False
            path = finder.find(name, split) or ''
        if path:
            found[name] = path
    return found, literal
