"""Recognize folders with images and label maps."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from ..io.label_maps import UNLABELED
from ..io.wording import first_names
from .class_files import read_text
from .found import SPLITS, Found
from .label_map_data import Named, describe
from .label_pairs import LOSSLESS, Part, match, merge, select
from .tree import SPLIT_WORDS, Tree, folder_of, join, plural, split_of, stem, suffix

MOST_LIST_BYTES = 50_000_000
MOST_FOLDERS = 300  # of label maps that are compared with all folders of images
# Words, and beginnings and ends of words, in the names of folders of label maps.
LABEL_WORDS = re.compile(
    '(gts?|truth|groundtruth|seg|segmentations?|segmentationclass(aug)?|targets?|anns?|lbls?)'
)
LABEL_ENDS = re.compile('(labels?|labelmaps?|masks?|annots?|annotations?)$|^(labell?ed)')
IMAGE_WORDS = re.compile('(jpeg)?images?|imgs?|photos?|pictures?|rgb|raw')
# Maps of something else that lie beside label maps.
OTHER_MAPS = re.compile('object|colou?r|vis|overlay|instance|panoptic|depth', re.I)
NO_MAPS = re.compile('instance|panoptic|depth', re.I)  # not even where there are no others
# How names of label maps end that lie beside their images.
LABEL_NAME = re.compile('[_.-](masks?|labels?|l|gt|seg(mentation)?|label_?ids|train_?ids)$', re.I)
CITY_IMAGE, CITY_MAPS = '_leftImg8bit.png', '_gtFine_label{}.png'
# The classes that Cityscapes trains, by the numbers in its labelIds, which end below CITY_END.
CITY_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITY_END = 35


def find_cityscapes(tree: Tree, notes: list[str]) -> Found | None:
    """Return data in the folders ``leftImg8bit`` and ``gtFine``, or None."""
    for folder in tree.folders:
        base, _, name = folder.rpartition('/')
        if name == 'leftImg8bit' and join(base, 'gtFine') in tree.folders:
            break
    else:
        return None
    parts: dict[str, Part] = {}
    kind = 'TrainIds'
    for split in ('train', 'val'):
        images, labels = join(folder, split), join(base, f'gtFine/{split}')
        listed = [
            name.removeprefix(f'{images}/').removesuffix(CITY_IMAGE)
            for name in sorted(tree.files)
            if name.startswith(f'{images}/') and name.endswith(CITY_IMAGE)
        ]
        kinds = {
            ending: [
                name
                for name in listed
                if f'{labels}/{name}{CITY_MAPS.format(ending)}' in tree.files
            ]
            for ending in ('TrainIds', 'Ids')
        }
        own = 'TrainIds' if len(kinds['TrainIds']) >= len(kinds['Ids']) else 'Ids'
        kind = 'Ids' if own == 'Ids' else kind
        if kinds[own]:
            parts[split] = Part(
                images,
                labels,
                tuple((name + CITY_IMAGE, name + CITY_MAPS.format(own)) for name in kinds[own]),
            )
        if len(kinds[own]) < len(listed):
            missing = plural(len(listed) - len(kinds[own]), 'image')
            notes.append(f'Left out, without a label map: {missing} of {split}.')
    if not parts:
        return None
    if join(folder, 'test') in tree.folders:
        notes.append('The test part of Cityscapes has no labels and is left aside.')
    trained = {value: number for number, value in enumerate(CITY_IDS)}
    table = {value: trained.get(value, UNLABELED) for value in range(CITY_END)}
    named = Named('CityscapesDataset', table if kind == 'Ids' else None)
    return describe(tree, 'Cityscapes', parts, notes, named)


def find_voc(tree: Tree, notes: list[str]) -> Found | None:
    """Return data in VOC's folders ``JPEGImages`` and ``SegmentationClass``, or None."""
    bases = [
        folder_of(folder)
        for folder in tree.images
        if folder.rpartition('/')[2] in ('SegmentationClass', 'SegmentationClassAug')
    ]
    for base in bases:
        labels = max(
            (join(base, name) for name in ('SegmentationClass', 'SegmentationClassAug')),
            key=lambda folder: len(tree.images.get(folder, [])),
        )
        for folder in ('JPEGImages', 'images', 'Images'):
            images = join(base, folder)
            pairs = match(tree.images.get(images, []), _maps(tree, labels))
            if pairs:
                whole = Part(images, labels, tuple(pairs))
                lists = join(base, 'ImageSets/Segmentation')
                parts = _by_lists(tree, whole, lists, notes) or {'train': whole}
                return describe(tree, 'VOC', parts, notes, Named('PascalVOCDataset'))
    return None


def find_ade(tree: Tree, notes: list[str]) -> Found | None:
    """Return data in ADE20K's ``images/training`` and ``annotations/training``, or None."""
    parts = {}
    for folder in tree.images:
        base, _, name = folder.rpartition('images/')
        if name not in ('training', 'validation') or (base and not base.endswith('/')):
            continue
        labels = f'{base}annotations/{name}'
        pairs = match(tree.images[folder], _maps(tree, labels))
        if pairs:
            parts[SPLIT_WORDS[name]] = Part(folder, labels, tuple(pairs))
    if 'train' not in parts:
        return None
    is_ade = parts['train'].pairs[0][0].startswith('ADE_train_')
    named = Named('ADE20KDataset' if is_ade else None, zero_is_unlabeled=True)
    return describe(tree, 'ADE20K', parts, notes, named)


def find_pairs(tree: Tree, notes: list[str]) -> Found | None:
    """Return data of images and label maps with the same names, or None."""
    by_split: dict[str | None, list[Part]] = defaultdict(list)
    for part in (*_folder_pairs(tree, notes), *_pairs_in_folders(tree)):
        split = _split_of(part.images) or _split_of(part.labels)
        by_split[split].append(part)
    if not by_split:
        return None
    divided: dict[str, Part] = {}
    parts: dict[str | None, Part] = {}
    for split, found in by_split.items():
        parts[split], others = merge(found)
        if others:
            notes.append(f'Left aside: {first_names([part.labels or "." for part in others])}.')
    undivided = parts.pop(None, None)
    if undivided and not parts:
        folder = folder_of(undivided.images) or undivided.images
        lists = [folder, '', *(join(folder, name) for name in ('splits', 'ImageSets', 'lists'))]
        for place in (undivided.images, *lists):
            divided = _by_lists(tree, undivided, place, notes)
            if divided:
                break
        return describe(tree, 'pairs', divided or {'train': undivided}, notes, Named(None))
    if undivided:
        notes.append(f'Left aside, as its name says no part: {undivided.images or "."}.')
    named = {str(split): part for split, part in parts.items()}
    return describe(tree, 'pairs', named, notes, Named(None))


def _maps(tree: Tree, folder: str) -> list[str]:
    """Return the names in a folder that may be label maps."""
    return [name for name in tree.images.get(folder, []) if suffix(name) in LOSSLESS]


def _is_label_folder(folder: str) -> bool:
    """Whether the names of a folder and those above it, the last first, say label maps."""
    for part in reversed(folder.split('/')):
        words = re.findall('[a-z]+', part.lower())
        if any(LABEL_WORDS.fullmatch(word) or LABEL_ENDS.search(word) for word in words):
            return True
        if any(IMAGE_WORDS.fullmatch(word) for word in words):
            break
    return False


def _split_of(folder: str) -> str | None:
    """Return the part that a folder such as ``trainannot`` or ``val_labels`` is."""
    found = split_of(folder)
    if found:
        return found
    last = folder.rpartition('/')[2].lower()
    bare = re.sub('_?(labels?|masks?|annots?|annotations?|gt|images?)$', '', last)
    return SPLIT_WORDS.get(bare)


def _folder_pairs(tree: Tree, notes: list[str]) -> list[Part]:
    """Return the pairs of a folder of images and one of label maps."""
    maps = [
        folder for folder in tree.images if _is_label_folder(folder) and not NO_MAPS.search(folder)
    ]
    plain = [folder for folder in maps if not OTHER_MAPS.search(folder)]
    images = [folder for folder in tree.images if not _is_label_folder(folder)]
    if plain and len(plain) < len(maps):
        other = [folder for folder in maps if folder not in plain]
        notes.append(f'Left aside, maps of something else by their names: {first_names(other)}.')
    parts: dict[str, Part] = {}
    for labels in (plain or maps)[:MOST_FOLDERS]:
        names = _maps(tree, labels)
        if not names:
            notes.append(
                f'{labels} has JPEG files only: their values are not those that were saved; save '
                'label maps as PNG.'
            )
            continue
        split = _split_of(labels)
        ranked = sorted(
            images,
            key=lambda folder: (
                _split_of(folder) != split,
                -_alike(folder, labels),
                folder,
            ),
        )
        best = max((Part(f, labels, tuple(match(tree.images[f], names))) for f in ranked[:50]),
                   key=lambda part: len(part.pairs), default=None)  # fmt: skip
        if best is None or not best.pairs:
            notes.append(f'{labels} has no images with the names of its {len(names)} label maps.')
            continue
        earlier = parts.get(best.images)
        if earlier is not None:
            notes.append(f'{labels} is left aside: {earlier.labels} has maps of the same images.')
            continue
        _note_rest(best, tree.images[best.images], names, notes)
        parts[best.images] = best
    return list(parts.values())


def _alike(first: str, second: str) -> int:
    """Return how many names two paths share."""
    return len(set(first.split('/')) & set(second.split('/')))


def _note_rest(part: Part, images: Sequence[str], labels: Sequence[str], notes: list[str]) -> None:
    """Note the images without a label map, and the reverse."""
    paired = {image for image, _ in part.pairs}, {label for _, label in part.pairs}
    for what, other, names, known in (
        ('image', 'a label map', images, paired[0]),
        ('label map', 'an image', labels, paired[1]),
    ):
        alone = [name for name in names if name not in known]
        if alone:
            notes.append(
                f'Left out, without {other}: {plural(len(alone), what)} of '
                f'{part.images if what == "image" else part.labels}: {first_names(alone)}.'
            )


def _pairs_in_folders(tree: Tree) -> list[Part]:
    """Return the pairs of images and label maps that lie in the same folder."""
    parts = []
    for folder, names in tree.images.items():
        if _is_label_folder(folder):
            continue
        labels = [name for name in _maps(tree, folder) if LABEL_NAME.search(stem(name))]
        if not labels:
            photos = {stem(name) for name in names if suffix(name) in ('.jpg', '.jpeg')}
            labels = [name for name in _maps(tree, folder) if stem(name) in photos]
        pairs = match([name for name in names if name not in labels], labels)
        if pairs and 2 * len(pairs) >= len(labels):
            parts.append(Part(folder, folder, tuple(pairs)))
    return parts


def _by_lists(tree: Tree, whole: Part, folder: str, notes: list[str]) -> dict[str, Part]:
    """Divide pairs by the lists of names in a folder; empty if there are none.

    Args:
        tree: The files.
        whole: All pairs.
        folder: Where the lists may be.
        notes: Gets sentences about names that were not found.
    """
    texts = [name for name in tree.folders.get(folder, []) if suffix(name) == '.txt']
    parts: dict[str, Part] = {}
    for name in texts:
        split = split_of(name) or ('train' if stem(name) == 'default' else None)
        if split is None or split in parts:
            continue
        path = join(folder, name)
        try:
            lines = read_text(tree, path, MOST_LIST_BYTES).splitlines()
        except (OSError, ValueError) as error:
            notes.append(f'{path} is left aside: {error}.')
            continue
        part, missing = select(whole, lines, path)
        if part is None:
            continue
        parts[split] = part
        if missing:
            notes.append(
                f'Without an image and a label map: {plural(len(missing), "name")} of {path}: '
                f'{first_names(missing)}.'
            )
    if parts and 'train' not in parts:
        listed = {pair for part in parts.values() for pair in part.pairs}
        rest = tuple(pair for pair in whole.pairs if pair not in listed)
        if rest:
            notes.append('No list is for training: all images that no list names are taken.')
            parts['train'] = Part(whole.images, whole.labels, rest, is_listed=True)
    return {split: parts[split] for split in SPLITS if split in parts}
