"""Build the datasets of a config, and read the files that they name."""

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
from ..io.images import ORIENTATION, QUARTER_TURNS, UnreadableFileError, read_image
from .findings import ERROR, WARNING, Finding, Kind, one_line

SAMPLE = 20  # files of a dataset that a quick check opens, about
LEAVES_ROOT = Kind(
    ERROR,
    'file names that lead out of the data root; the files are not opened',
    'name files below data_root, or set it to a folder that contains them all',
)
MISSING_IMAGE = Kind(ERROR, 'images that do not exist', 'check data_root and data_prefix')
UNREADABLE = Kind(
    ERROR,
    'images that cannot be read',
    'copy or convert them again, or train with --skip-bad-images',
)
Item = TypeVar('Item')
Result = TypeVar('Result')


@dataclass(frozen=True)
class Source:
    """A dataset of a config.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        entry: The entry of the config, such as ``train_dataloader.dataset``.
        config: The value of that entry.
        dataset: Built from it, without reading the files.
    """

    split: str
    entry: str
    config: ConfigDict
    dataset: BaseDataset

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty if the metainfo has no list of them."""
        classes = self.dataset.metainfo.get('classes')
        return tuple(classes) if isinstance(classes, (list, tuple)) else ()

    @property
    def transforms(self) -> list[dict]:
        """The configs of the transforms of the dataset and of its wrappers."""
        return [transform for pipeline in pipelines(self.config) for transform in pipeline]

    def transform(self, name: str) -> dict:
        """Return the config of the first transform of that name; empty if there is none."""
        named = (one for one in self.transforms if transform_name(one) == name)
        return next(named, {})

    @property
    def image_kinds(self) -> tuple[Kind, Kind]:
        """The kinds of missing and unreadable images: warnings if the training skips them."""
        if self.transform('LoadImageFromFile').get('ignore_empty'):
            return MISSING_IMAGE._replace(level=WARNING), UNREADABLE._replace(level=WARNING)
        return MISSING_IMAGE, UNREADABLE

    def leads_out(self, path: str, folder: str) -> bool:
        """Whether a path named by a file is outside of both the data root and ``folder``."""
        roots = [root for root in (self.dataset.data_root, folder) if root] or ['.']
        return all(leaves_root(path, root) for root in roots)


def build_sources(cfg: Config, splits: Iterable[str]) -> tuple[list[Source], list[Finding]]:
    """Build the datasets of a config, each of them once.

    Args:
        cfg: A config whose scope is the current default scope.
        splits: Which dataloaders; those that ``cfg`` does not have are skipped.

    Returns:
        The datasets, and findings about those that cannot be built.
    """
    sources: list[Source] = []
    findings = []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not loader:
            continue
        for entry, config in unwrap(loader.dataset, f'{split}_dataloader.dataset'):
            if any(config == source.config for source in sources):
                continue  # `test_dataloader = val_dataloader`
            try:
                with config_errors():
                    dataset = DATASETS.build(dict(config, lazy_init=True))
            except (FileNotFoundError, ValueError) as error:
                findings.append(Finding(ERROR, one_line(error), entry, 'correct this entry'))
            else:
                sources.append(Source(split, entry, config, dataset))
    return sources, findings


class Listing:
    """Set of existing files that reads each folder once.

    Asking for every single file is slow on network disks.
    """

    def __init__(self) -> None:
        self.folders: dict[str, set[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self.folders:
            try:
                self.folders[folder] = set(os.listdir(folder or '.'))
            except (OSError, ValueError):  # ValueError: names that no file can have
                self.folders[folder] = set()
        return name in self.folders[folder]


@dataclass(frozen=True)
class Picture:
    """An image or label map as training loads it.

    Attributes:
        size: Width and height in pixels.
        channels: Number of channels of a label map; 0 for an image.
        values: The distinct values of a label map, in ascending order.
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

    For an image with a palette, the values are the indices into it.
    """
    try:
        labels = read_image(path, 'unchanged', loader.get('imdecode_backend', 'pillow')).squeeze()
    except UnreadableFileError as error:
        return Picture(error=str(error))
    height, width = labels.shape[:2]
    if labels.ndim > 2:
        return Picture((width, height), labels.shape[2])
    if labels.dtype == np.uint8:  # counting is faster than sorting
        values = np.bincount(labels.ravel()).nonzero()[0]
    else:
        values = np.unique(labels)
    return Picture((width, height), 1, tuple(values.tolist()))


def is_turned(path: str) -> bool:
    """Whether the EXIF orientation of an image swaps its sides when it is loaded."""
    with Image.open(path) as image:
        return image.getexif().get(ORIENTATION) in QUARTER_TURNS


def choose(items: Sequence[Item], thorough: bool) -> Sequence[Item]:
    """Return all items, or about :data:`SAMPLE` spread evenly over them."""
    return items if thorough else items[:: max(1, len(items) // SAMPLE)]


def in_parallel(
    read: Callable[[Item], Result], items: Sequence[Item], split: str, thorough: bool
) -> Iterator[Result]:
    """Yield results in the order of ``items``; with a progress bar on stderr if ``thorough``.

    Threads are enough: decoding an image releases Python's global lock.
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
