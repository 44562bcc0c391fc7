"""Make data readable for mmdet and mmseg, with parts for training and for validation."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from ..io.files import TEMPORARY
from .coco_files import read_coco, write_coco
from .found import Found, Split, in_order
from .splitting import divide, divide_coco, write_names
from .tree import number_of, plural


def prepare(found: Found, out: Path, val_share: float = 0.2) -> Found:
    """Convert data that cannot be read as they are, and divide them if validation is missing.

    The original stays as it is, and images are not copied: new annotation files, label maps and
    lists of names refer to them. The same data give the same files.

    Args:
        found: From :func:`~convnext_backbones.data.find.find_data`.
        out: The new folder; it is not made if nothing has to be written.
        val_share: Share of the images for validation if no part is for that.

    Returns:
        What mmdet's CocoDataset or mmseg's BaseSegDataset can read.

    Raises:
        FileExistsError: There is something at ``out`` already.
        ValueError: There are no data to train with, or too few to divide, or they cannot be
            converted.
    """
    _refuse_without_training(found)
    if not 0 < val_share < 1:
        raise ValueError(f'expected val_share to be between 0 and 1, got {val_share}')
    if 'val' in found.splits and found.converter is None:
        return found
    out = Path(out)
    if out.exists():
        raise FileExistsError(
            f'expected no file or folder at {str(out)!r}, where the data are written; remove it or '
            'choose another name'
        )
    temporary = out.with_name(out.name + TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    temporary.mkdir(parents=True)
    try:
        if found.converter is not None:
            found = _converted(found, found.converter(temporary))
            _refuse_without_training(found)  # nothing of the part could be read
        if 'val' not in found.splits:
            found = _divide(found, temporary, val_share)
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    splits = {name: _moved(split, temporary, out) for name, split in found.splits.items()}
    return replace(found, splits=in_order(splits), convert='', converter=None)


def _refuse_without_training(found: Found) -> None:
    """Raise ValueError if there is no part to train with."""
    if 'train' not in found.splits:
        parts = ' and '.join(found.splits) or 'nothing that can be read'
        raise ValueError(
            f'expected data to train with in {str(found.root)!r}, found only {parts}; name the '
            'part to train with train'
        )


def _converted(before: Found, after: Found) -> Found:
    """Return converted data with the notes of both."""
    return replace(after, notes=tuple(dict.fromkeys((*before.notes, *after.notes))))


def _moved(split: Split, before: Path, after: Path) -> Split:
    """Return a part whose files were moved from one folder to another."""

    def moved(path: Path) -> Path:
        return after / path.relative_to(before) if path.is_relative_to(before) else path

    list_file = moved(split.list_file) if split.list_file else None
    return replace(
        split,
        images=moved(split.images),
        annotations=moved(split.annotations),
        list_file=list_file,
    )


def _divide(found: Found, out: Path, share: float) -> Found:
    """Divide the training part, and write what says which images belong to which part."""
    split = found.splits['train']
    if found.task == 'detection':
        files = divide_coco(read_coco(split.annotations), share)
        parts = {}
        for name, file in zip(('train', 'val'), files, strict=True):
            path = out / f'{name}.json'
            write_coco(path, file)
            number = number_of(entries for entries in file.by_image.values() if entries)
            parts[name] = replace(split, annotations=path, number=number)
    else:
        names = _list_names(split, found.image_suffix)
        if len(names) < 2:
            raise ValueError(
                'expected at least two label maps, to train with one and validate with another, '
                f'found {len(names)}; annotate more'
            )
        parts = {}
        for name, own in zip(('train', 'val'), divide(names, share), strict=True):
            path = out / f'{name}.txt'
            write_names(path, own)
            parts[name] = replace(split, list_file=path, number=len(own))
    numbers = ' and '.join(
        f'{plural(part.number, "image")} to {purpose}'
        for part, purpose in zip(parts.values(), ('train', 'validate'), strict=True)
    )
    note = f'No part is for validation: divided by the names of the files, {numbers}.'
    return replace(found, splits={**found.splits, **parts}, notes=(*found.notes, note))


def _list_names(split: Split, image_suffix: str) -> list[str]:
    """Return the names of the images of a part of label maps, without their suffix."""
    if split.list_file is not None:
        lines = split.list_file.read_text(encoding='utf-8').splitlines()
        return [line.strip() for line in lines if line.strip()]
    paths = sorted(split.images.rglob(f'*{image_suffix}'))
    return [path.relative_to(split.images).as_posix().removesuffix(image_suffix) for path in paths]
