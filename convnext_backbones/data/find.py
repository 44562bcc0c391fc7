"""Recognize what a folder of data holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from .coco_folders import find_coco
from .found import Found
from .label_map_folders import find_ade, find_cityscapes, find_pairs, find_voc
from .tree import Tree, number_of, plural
from .voc_xml import find_voc_xml
from .yolo import find_yolo

Recognizer = Callable[[Tree, list[str]], Found | None]
# Groups, the clearest first; of each group the first that recognizes the folder is asked only.
RECOGNIZERS: tuple[tuple[Recognizer, ...], ...] = (
    (find_coco,),
    (find_yolo,),
    (find_voc_xml,),
    (find_cityscapes, find_voc, find_ade, find_pairs),
)
LOOKED_FOR = (
    'JSON files in COCO format (of COCO itself, Roboflow, CVAT, Label Studio, FiftyOne), text '
    'files of YOLO, XML files of VOC, and label maps with the names of their images (as in ADE20K, '
    'Cityscapes, VOC, CamVid)'
)


def find_data(root: Path, task: str | None = None) -> Found:
    """Recognize the data in a folder.

    Args:
        root: The folder; nothing outside of it is read, and nothing in it is changed.
        task: ``detection`` or ``segmentation`` if only one is wanted. Without it the clearest of
            what is found is taken: annotation files before label maps.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: Nothing in it is recognized.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f'expected a folder of data, found none at {str(root)!r}')
    tree = Tree(root)
    found: list[Found] = []
    not_understood: list[str] = []
    for group in RECOGNIZERS:
        candidate, notes = _first(group, tree)
        if candidate is None:
            not_understood += notes
        else:
            found.append(candidate)
    wanted = [candidate for candidate in found if task in (None, candidate.task)]
    if not wanted:
        raise ValueError(_refusal(tree, task, found, not_understood))
    chosen = wanted[0]
    others = [_aside(other, chosen) for other in found if other is not chosen]
    parts = () if 'train' in chosen.splits else (_without_training(chosen),)
    notes = [*chosen.notes, *parts, *others, *not_understood]
    return replace(chosen, notes=tuple(dict.fromkeys(notes)))


def _first(recognizers: Iterable[Recognizer], tree: Tree) -> tuple[Found | None, list[str]]:
    """Return what the first recognizer finds, or None and what all of them say."""
    said: list[str] = []
    for recognize in recognizers:
        notes: list[str] = []
        try:
            found = recognize(tree, notes)
        except ValueError as error:
            found = None
            notes.append(f'{error}.')
        if found is not None:
            return found, notes
        said += notes
    return None, said


def _aside(other: Found, chosen: Found) -> str:
    number = sum(split.number for split in other.splits.values())
    how = (
        'ask for a head of the other task to use them'
        if other.task != chosen.task
        else 'point to a sub-folder without the first to use them'
    )
    return (
        f'Left aside: {plural(number, "image")} for {other.task} in the layout of {other.layout}, '
        f'as the folder also has that of {chosen.layout}; {how}.'
    )


def _without_training(found: Found) -> str:
    return f'No part is for training: found only {" and ".join(found.splits)}.'


def _refusal(tree: Tree, task: str | None, found: Sequence[Found], notes: Iterable[str]) -> str:
    """Return why nothing is what was wanted."""
    said = ''.join(f' {note}' for note in dict.fromkeys(notes))
    others = [f'data for {one.task} in the layout of {one.layout}' for one in found]
    if others:
        return (
            f'expected data for {task} in {str(tree.root)!r}, found {" and ".join(others)}; name '
            f'another folder, or a head for {found[0].task}.{said}'
        )
    listed = ', '.join(
        plural(number, noun)
        for noun, number in [
            ('image', number_of(name for names in tree.images.values() for name in names)),
            ('JSON file', len(tree.ending('.json'))),
            ('XML file', len(tree.ending('.xml'))),
            ('text file', len(tree.ending('.txt'))),
        ]
    )
    return (
        f'expected {"data" if task is None else f"data for {task}"} in {str(tree.root)!r}, found '
        f'{listed}, but none of: {LOOKED_FOR}; name the folder that has some.{said}'
    )
