"""Match images with their label maps by name."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from .tree import Tree, join, spread, stem, suffix

LOSSLESS = ('.png', '.bmp', '.tif', '.tiff', '.gif', '.pgm', '.ppm')
SAMPLE = 100  # names by which the endings of names are found
# What begins names in one of the folders only, as in image_001.jpg and mask_001.png.
BEGINNINGS = re.compile('^(images?|imgs?|masks?|labels?|gt|seg|ann(otation)?)(?=[^a-z])[_-]?', re.I)


@dataclass(frozen=True)
class Part:
    """Images and their label maps.

    Attributes:
        images: The folder of the images, in the tree.
        labels: The folder of the label maps.
        pairs: Paths below these folders.
        list_file: A file in the tree that lists just these pairs, as mmseg reads it.
        is_listed: Whether files say which images belong to the part, so that the folders may hold
            others.
    """

    images: str
    labels: str
    pairs: tuple[tuple[str, str], ...]
    list_file: str | None = None
    is_listed: bool = False

    def image_paths(self) -> list[str]:
        """Return the images in the tree."""
        return [join(self.images, image) for image, _ in self.pairs]

    def label_paths(self) -> list[str]:
        """Return the label maps in the tree."""
        return [join(self.labels, label) for _, label in self.pairs]


def match(images: Sequence[str], labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of images and label maps whose names agree.

    Names agree if they are equal but for the suffix; or for two endings that are the same for all,
    such as ``_sat.jpg`` and ``_mask.png``; or for a word at their beginning. The first of these
    ways by which half of the smaller list are matched is taken for all.

    Args:
        images: Names of files.
        labels: Names of files.
    """
    least = min(len(images), len(labels)) / 2
    if not least:
        return []
    best: list[tuple[str, str]] = []
    for pairs in _ways(images, labels):
        if len(pairs) >= least:
            return pairs
        best = max(best, pairs, key=len)
    return best


def _ways(images: Sequence[str], labels: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    """Yield the pairs that each way finds."""
    by_stem: dict[str, str] = {}
    for image in images:
        by_stem.setdefault(stem(image), image)
    label_stems = {stem(label): label for label in labels}
    yield _by_key(label_stems, by_stem)
    yield _by_endings(by_stem, label_stems)
    yield _by_key(
        {BEGINNINGS.sub('', name): label for name, label in label_stems.items()},
        {BEGINNINGS.sub('', name): image for name, image in by_stem.items()},
    )


def _by_key(labels: Mapping[str, str], images: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(image, labels[key]) for key, image in images.items() if key in labels]


def _by_endings(images: Mapping[str, str], labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """Match stems that differ in a pair of endings only."""
    ordered = sorted(images)
    endings: Counter[tuple[str, str]] = Counter()
    for label in spread(sorted(labels), SAMPLE):
        place = bisect_left(ordered, label)
        near = ordered[max(0, place - 1) : place + 1]
        common = max((os.path.commonprefix([label, image]) for image in near), key=len, default='')
        for image in near:
            rest = image[len(common) :], label[len(common) :]
            if common and image.startswith(common) and not any(map(str.isdecimal, rest)):
                endings[rest] += 1
    if not endings:
        return []
    (of_image, of_label), _ = endings.most_common(1)[0]
    pairs = []
    for label, file in labels.items():
        image = label[: len(label) - len(of_label)] + of_image
        if label.endswith(of_label) and image in images:
            pairs.append((images[image], file))
    return sorted(pairs)


def endings(parts: Iterable[Part]) -> tuple[str, str] | None:
    """Return how the names of all images and of all label maps end; None if they differ.

    The rest of both names is equal, as mmseg needs it.
    """
    found: tuple[str, str] | None = None
    for part in parts:
        for image, label in part.pairs:
            key = os.path.splitext(image)[0]
            if not label.startswith(key):
                key = os.path.commonprefix([image, label]).rstrip('_-')
            pair = image[len(key) :], label[len(key) :]
            if found not in (None, pair) and found is not None:
                if not (image.endswith(found[0]) and label.endswith(found[1])):
                    return None
                if image[: -len(found[0])] != label[: -len(found[1])]:
                    return None
                continue
            found = pair
    return found if found and all(found) else None


def is_whole(tree: Tree, part: Part, image_suffix: str) -> bool:
    """Whether the folder of a part has no image but those of its pairs.

    Args:
        tree: The files.
        part: The part.
        image_suffix: How the names of its images end.
    """
    prefix = f'{part.images}/' if part.images else ''
    labels = set(part.label_paths())
    own = {
        join(folder, name)
        for folder, names in tree.images.items()
        if folder == part.images or folder.startswith(prefix)
        for name in names
    }
    rest = own - set(part.image_paths())
    if part.images != part.labels:
        return not rest
    return rest == labels and not any(name.endswith(image_suffix) for name in labels)


def merge(parts: Sequence[Part]) -> tuple[Part, list[Part]]:
    """Return one part for the folders of a part of the data, and those that do not fit.

    ``images/a`` with ``labels/a`` and ``images/b`` with ``labels/b`` become one.

    Args:
        parts: At least one.
    """
    groups: dict[tuple[str, str], list[Part]] = {}
    for part in parts:
        image, label = PurePosixPath(part.images), PurePosixPath(part.labels)
        while len(parts) > 1 and image.name and image.name == label.name:
            image, label = image.parent, label.parent
        key = tuple('' if str(path) == '.' else str(path) for path in (image, label))
        groups.setdefault((key[0], key[1]), []).append(part)
    (images, labels), chosen = max(
        groups.items(), key=lambda item: sum(len(p.pairs) for p in item[1])
    )
    if len(chosen) == 1:
        merged = chosen[0]
    else:
        below = os.path.commonpath([part.images[len(images) :].lstrip('/') for part in chosen])
        if below:
            images, labels = join(images, below), join(labels, below)
        merged = Part(
            images,
            labels,
            tuple(
                (join(part.images, image)[len(images) :].lstrip('/'),
                 join(part.labels, label)[len(labels) :].lstrip('/'))
                for part in chosen
                for image, label in part.pairs
            ),
        )  # fmt: skip
    return merged, [part for part in parts if part not in chosen]


def select(part: Part, names: Iterable[str], list_file: str) -> tuple[Part | None, list[str]]:
    """Return the pairs that a list names, and the names without a pair.

    Args:
        part: All pairs.
        names: Lines of the list: a name or path of an image, with or without its suffix, perhaps
            followed by that of the label map.
        list_file: The list, in the tree.
    """
    by_stem = {stem(image): (image, label) for image, label in part.pairs}
    by_path = {os.path.splitext(image)[0]: (image, label) for image, label in part.pairs}
    pairs, missing, is_exact = [], [], True
    for line in names:
        name = line.strip()
        if not name:
            continue
        bare = name.split()[0]
        known = next((by[key] for by, key in _spellings(name, bare, by_path, by_stem)), None)
        if known is None:
            missing.append(name)
            continue
        is_exact = is_exact and name == os.path.splitext(known[0])[0]
        pairs.append(known)
    if not pairs:
        return None, missing
    exact = list_file if is_exact and not missing else None
    chosen = tuple(dict.fromkeys(pairs))
    return replace(part, pairs=chosen, list_file=exact, is_listed=True), missing


def _spellings(
    name: str, bare: str, by_path: Mapping[str, tuple], by_stem: Mapping[str, tuple]
) -> Iterable[tuple[Mapping[str, tuple], str]]:
    """Iterate over the ways to read a line that lead to a pair."""
    for text in (name, bare):
        without = os.path.splitext(text)[0] if suffix(text) in LOSSLESS or '.jp' in text else text
        for by, key in ((by_path, text), (by_path, without), (by_stem, without.split('/')[-1])):
            if key in by:
                yield by, key
