"""What :func:`~convnext_backbones.data.find.find_data` says of a folder of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SPLITS = ('train', 'val', 'test')


@dataclass(frozen=True)
class Split:
    """One part of the data.

    Attributes:
        images: The folder of the images.
        annotations: A COCO JSON, or the folder of the label maps.
        number: How many images have annotations.
        list_file: Of label maps: a text file with the name of an image per line, without the
            suffix. None takes the whole folder.
    """

    images: Path
    annotations: Path
    number: int
    list_file: Path | None = None


@dataclass(frozen=True)
class Statistics:
    """Sizes in pixels, of images by the headers of a sample of them, and of objects.

    Attributes:
        width: The median, of images as training loads them: turned by their EXIF orientation.
        height: The median.
        max_width: The largest.
        max_height: The largest.
        object_size: The median of the square root of the area of a box; 0 without boxes.
        small_object_size: Its tenth percentile.
        objects_per_image: The largest number in one image.
        channels: Of the images.
        dtype: Of their pixels: ``uint8``, ``uint16`` or ``float32``.
    """

    width: int
    height: int
    max_width: int
    max_height: int
    object_size: float = 0.0
    small_object_size: float = 0.0
    objects_per_image: int = 0
    channels: int = 3
    dtype: str = 'uint8'


@dataclass(frozen=True)
class Found:
    """Data for one task in a folder.

    Attributes:
        task: What the annotations are for.
        layout: Whose layout it is, such as ``COCO``, ``YOLO`` or ``Cityscapes``.
        root: The folder.
        splits: The parts, in the order of :data:`SPLITS`.
        classes: Their names, in the order of the labels, or of the categories in the file.
        statistics: Sizes.
        has_masks: Of detection: every object has a segmentation, apart from crowds.
        image_suffix: Of segmentation: how the names of images end, such as ``_leftImg8bit.png``.
        label_suffix: Of segmentation: how the names of label maps end.
        reduce_zero_label: Of segmentation: 0 means unlabeled, and the classes begin at 1.
        ignore_labels: Of segmentation: values of the files that are no class, apart from 255.
        palette: Of segmentation: the colors of the classes, RGB, if the data give them.
        convert: Why mmdet or mmseg cannot read the data as they are; empty if they can.
        notes: Sentences about what was found, left aside or not understood.
        converter: Writes a readable copy into an empty folder, and returns what is in it; used by
            :func:`~convnext_backbones.data.prepare.prepare`. None if ``convert`` is empty.
    """

    task: Literal['detection', 'segmentation']
    layout: str
    root: Path
    splits: Mapping[str, Split]
    classes: tuple[str, ...]
    statistics: Statistics
    has_masks: bool = False
    image_suffix: str = ''
    label_suffix: str = ''
    reduce_zero_label: bool = False
    ignore_labels: tuple[int, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    convert: str = ''
    notes: tuple[str, ...] = ()
    converter: Callable[[Path], Found] | None = field(default=None, repr=False, compare=False)


def in_order(splits: Mapping[str, Split]) -> dict[str, Split]:
    """Return the parts in the order of :data:`SPLITS`."""
    return {name: splits[name] for name in SPLITS if name in splits}
