"""Divide data without a part for validation, the same way every time."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from ..io.files import write_atomically
from .coco_files import CocoFile, collect

# Roboflow names the augmented copies of an image NAME.rf.HASH.jpg.
COPY = re.compile(r'\.rf\.[0-9a-zA-Z]+')


def divide(names: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """Divide names by their hash, which neither their order nor the machine changes.

    Augmented copies of an image stay together: validation on one of them would say little.

    Args:
        names: At least two different ones.
        share: Of the second list, between 0 and 1.

    Returns:
        Two lists in the order of ``names``, neither of them empty.
    """
    sources = {name: COPY.sub('', name) for name in names}
    if len(set(sources.values())) < 2:
        sources = {name: name for name in names}
    shuffled = sorted(
        set(sources.values()), key=lambda source: hashlib.sha1(source.encode()).hexdigest()
    )
    number = min(max(1, round(share * len(shuffled))), len(shuffled) - 1)
    second = set(shuffled[:number])
    first = [name for name in names if sources[name] not in second]
    return first, [name for name in names if sources[name] in second]


def divide_coco(file: CocoFile, share: float) -> tuple[CocoFile, CocoFile]:
    """Divide the images of an annotation file, with their objects.

    Images with and without objects are divided separately. Images whose class would be missing
    from the first file go back to it while an image with objects is left in the second.

    Args:
        file: An annotation file.
        share: Of the images in the second file, between 0 and 1.

    Raises:
        ValueError: Less than two images have objects.
    """
    names = {entry['file_name']: entry['id'] for entry in file.images}
    full = [name for name, number in names.items() if file.by_image[number]]
    empty = [name for name, number in names.items() if not file.by_image[number]]
    if len(full) < 2:
        raise ValueError(
            f'expected at least two annotated images, to train with one and validate with another, '
            f'found {len(full)}; annotate more'
        )
    classes = {
        name: {entry['category_id'] for entry in file.by_image[names[name]]} for name in full
    }
    _, second = divide(full, share)
    chosen = _return_lonely(second, classes)
    if len(empty) > 1:
        chosen |= set(divide(empty, share)[1])
    first, last = (
        [entry for entry in file.images if (entry['file_name'] in chosen) == is_chosen]
        for is_chosen in (False, True)
    )
    return tuple(  # type: ignore[return-value]
        collect(images, file.annotations, file.categories) for images in (first, last)
    )


def _return_lonely(
    chosen: Collection[str], classes: Mapping[str, Collection[int | str]]
) -> set[str]:
    """Return the chosen names without those whose classes no other name has.

    Args:
        chosen: Some names.
        classes: What is in each of all names.
    """
    kept = set(chosen)
    others = Counter(kind for name in classes if name not in kept for kind in classes[name])
    for name in sorted(chosen, key=lambda name: (-len(classes[name]), name)):
        if len(kept) > 1 and any(not others[kind] for kind in classes[name]):
            kept.remove(name)
            others.update(classes[name])
    return kept


def write_names(path: Path, names: Iterable[str]) -> None:
    """Write names as mmseg's lists of files have them."""
    write_atomically(path, ''.join(f'{name}\n' for name in names))
