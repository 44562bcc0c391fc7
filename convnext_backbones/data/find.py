"""Recognize what a folder of data holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .coco_folders import find_coco
from .found import Found
from .label_map_folders import find_ade, find_cityscapes, find_pairs, find_voc
from .tree import Tree, number_of, plural

# The clearest first.
RECOGNIZERS: tuple[Callable[[Tree, list[str]], Found | None], ...] = (
    find_coco,
    find_cityscapes,
    find_voc,
    find_ade,
    find_pairs,
)


def find_data(root: Path, task: str | None = None) -> Found:
    """Recognize the data in a folder.

    Args:
        root: The folder; nothing outside of it is read, and nothing in it is changed.
        task: ``detection`` or ``segmentation`` if only one is wanted.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: Nothing in it is recognized.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f'expected a folder of data, found none at {str(root)!r}')
    tree = Tree(root)
    notes: list[str] = []
    found = []
    for recognize in RECOGNIZERS:
        candidate = recognize(tree, notes)
        if candidate and task in (None, candidate.task):
            found.append(candidate)
    if not found:
        raise ValueError(_nothing(tree, notes))
    return found[0]


def _nothing(tree: Tree, notes: list[str]) -> str:
    counts = ', '.join(
        plural(number, noun)
        for noun, number in [
            ('image', number_of(name for names in tree.images.values() for name in names)),
            ('JSON', len(tree.ending('.json'))),
            ('XML', len(tree.ending('.xml'))),
            ('text file', len(tree.ending('.txt'))),
        ]
    )
    return f'expected data, found {counts} in {str(tree.root)!r}. ' + ' '.join(notes)
