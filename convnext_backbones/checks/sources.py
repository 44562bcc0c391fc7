"""The datasets of a config and the files that they name, for the check before a training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from PIL import Image
from rich.console import Console
from rich.progress import track

from ..config.errors import config_errors
from ..config.walk import pipelines, transform_name, unwrap
from ..io.files import leaves_root
from ..io.images import UnreadableFileError, read_image
from .findings import ERROR, WARNING, Finding, Kind

SAMPLE = 20  # files of a dataset that are opened where not all are
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap sides
LEAVES_ROOT = Kind(
    ERROR,
    'file names that lead out of the data root, which are not opened',
    'name files below data_root, or set it to a folder that holds them all',
)
MISSING_IMAGE = Kind(ERROR, 'images that are not there', 'check data_root and data_prefix')
UNREADABLE = Kind(
    ERROR,
    'images that cannot be read',
    'copy or convert them again, or train with --skip-bad-images',
)
Item, Result = TypeVar('Item'), TypeVar('Result')


@dataclass(frozen=True)
class Source:
    """A dataset of a config.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        place: The entry of the config.
        config: What stands there.
        dataset: Built of it, without reading the files.
    """

    split: str
    place: str
    config: ConfigDict
    dataset: BaseDataset

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names; empty where the metainfo has no list of them."""
        classes = self.dataset.metainfo.get('classes')
        return tuple(classes) if isinstance(classes, (list, tuple)) else ()

    @property
    def transforms(self) -> list[dict]:
        """What the dataset does to its samples."""
        return [transform for pipeline in pipelines(self.config) for transform in pipeline]

    def transform(self, name: str) -> dict:
        """The first transform of that name; empty if there is none."""
        named = (one for one in self.transforms if transform_name(one) == name)
        return next(named, {})

    @property
    def image_faults(self) -> tuple[Kind, Kind]:
        """What missing and unreadable images are: no errors where the training leaves them out."""
        kinds = (MISSING_IMAGE, UNREADABLE)
        if self.transform('LoadImageFromFile').get('ignore_empty'):
            return tuple(kind._replace(level=WARNING) for kind in kinds)
        return kinds

    def leads_out(self, path: str, folder: str) -> bool:
        """Whether ``path``, which a file names, is in neither the data root nor ``folder``."""
        roots = [root for root in (self.dataset.data_root, folder) if root] or ['.']
        return all(leaves_root(path, root) for root in roots)


def build_sources(cfg: Config, splits: Iterable[str]) -> tuple[list[Source], list[Finding]]:
    """The datasets of ``cfg``, each once, and what is wrong with those that cannot be built.

    Args:
        cfg: A config whose scope is the default one.
        splits: Which dataloaders; those that ``cfg`` does not have are left out.
    """
    sources: list[Source] = []
    findings = []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not loader:
            continue
        for place, config in unwrap(loader.dataset, f'{split}_dataloader.dataset'):
            if any(config == source.config for source in sources):
                continue  # `test_dataloader = val_dataloader`
            try:
                with config_errors():
                    dataset = DATASETS.build(dict(config, lazy_init=True))
            except (FileNotFoundError, ValueError) as error:
                findings.append(Finding(ERROR, str(error), place, 'correct this entry'))
            else:
                sources.append(Source(split, place, config, dataset))
    return sources, findings


class Listing:
    """Which files exist, each folder read once: to ask for every file is slow on network disks."""

    def __init__(self) -> None:
        self.folders: dict[str, set[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self.folders:
            try:
                self.folders[folder] = {*os.listdir(folder or '.')}
            except (OSError, ValueError):  # the latter of names that no file can have
                self.folders[folder] = set()
        return name in self.folders[folder]


@dataclass(frozen=True)
class Picture:
    """What training gets of a file.

    Attributes:
        size: Width and height.
        channels: Of a label map.
        values: All that there are, of a label map.
        error: Why the file cannot be read, with its name; empty if it can.
    """

    size: tuple[int, int] = (0, 0)
    channels: int = 0
    values: tuple[int, ...] = ()
    error: str = ''


def open_image(path: str, loader: Mapping) -> Picture:
    """Read an image as the transform ``loader`` of a config, a LoadImageFromFile, does."""
    flag, backend = loader.get('color_type', 'color'), loader.get('imdecode_backend', 'cv2')
    try:
        height, width = read_image(path, flag, backend).shape[:2]
    except UnreadableFileError as error:
        return Picture(error=str(error))
    return Picture((width, height))


def open_label_map(path: str, loader: Mapping) -> Picture:
    """Read a label map as the transform ``loader`` of a config, mmseg's LoadAnnotations, does.

    Of a palette the values are the indices.
    """
    try:
        labels = read_image(path, 'unchanged', loader.get('imdecode_backend', 'pillow')).squeeze()
    except UnreadableFileError as error:
        return Picture(error=str(error))
    height, width = labels.shape[:2]
    if labels.ndim > 2:
        return Picture((width, height), labels.shape[2])
    # Counting is the faster way to the same, of 8 bits.
    counted = labels.dtype == np.uint8
    values = np.bincount(labels.ravel()).nonzero()[0] if counted else np.unique(labels)
    return Picture((width, height), 1, tuple(values.tolist()))


def is_turned(path: str) -> bool:
    """Whether the EXIF orientation of an image swaps its sides when it is loaded."""
    with Image.open(path) as image:
        return image.getexif().get(ORIENTATION) in QUARTER_TURNS


def choose(items: Sequence[Item], thorough: bool) -> Sequence[Item]:
    """All items, or some :data:`SAMPLE` spread evenly over them."""
    return items if thorough else items[:: max(1, len(items) // SAMPLE)]


def in_parallel(
    read: Callable[[Item], Result], items: Sequence[Item], split: str, thorough: bool
) -> Iterator[Result]:
    """Results in the order of ``items``; with a progress bar on stderr if ``thorough``.

    Threads do: images are decoded without Python's lock.
    """
    affinity = getattr(os, 'sched_getaffinity', None)  # Linux only
    with ThreadPoolExecutor(len(affinity(0)) if affinity else os.cpu_count()) as pool:
        yield from track(
            pool.map(read, items),
            f'opening the images of {split}',
            total=len(items),
            console=Console(stderr=True),
            disable=not thorough,
        )
