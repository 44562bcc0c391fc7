"""Data loading that names unreadable files and refuses files outside of the data folders."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..io.files import leaves_root
from ..io.images import UnreadableFileError, read_image, reason
from ..io.mmengine_patches import replace_loading_transforms


def name_unreadable_files(scope: str) -> None:
    """Make pipelines that are built later in this process name the file that they cannot read.

    Configs stay as they are: their LoadImageFromFile and LoadAnnotations do the same as before, and
    raise :class:`UnreadableFileError` on failure.

    Args:
        scope: The ``default_scope`` of the config, ``mmdet`` or ``mmseg``.
    """
    replace_loading_transforms(scope, LoadImage, LoadNamedAnnotations)


class LoadImage(LoadImageFromFile):
    """mmcv's LoadImageFromFile with :func:`read_image` as its reader, and the same arguments.

    With ``ignore_empty`` an unreadable image is a warning, and the dataset takes another image.
    """

    def transform(self, results: dict) -> dict | None:
        """Add ``img``, ``img_shape`` and ``ori_shape`` of the file ``img_path``."""
        try:
            image = read_image(
                results['img_path'],
                self.color_type,
                self.imdecode_backend,
                self.backend_args or self.file_client_args,
            )
        except UnreadableFileError as error:
            if not self.ignore_empty:
                raise
            print_log(f'Skipped: {error}', logger='current', level=logging.WARNING)
            return None
        if self.to_float32:
            image = image.astype(np.float32)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


class LoadNamedAnnotations(BaseTransform):
    """A transform that loads annotations and, on failure, names their file.

    Args:
        load: The LoadAnnotations of mmdet or mmseg.
    """

    def __init__(self, load: BaseTransform) -> None:
        self.load = load

    def transform(self, results: dict) -> dict:
        """Add the annotations of a sample with ``img_path`` and possibly ``seg_map_path``."""
        image_path, map_path = results.get('img_path'), results.get('seg_map_path')
        size = tuple(results.get('ori_shape', ()))
        if map_path and 1 in size:
            raise UnreadableFileError(
                f'expected an image of at least 2 x 2 pixels, because mmdet and mmseg drop axes of '
                f'length 1 from label maps, got {size[0]} x {size[1]} in {image_path!r}'
            )
        try:
            results = self.load(results)
        except Exception as error:  # any type, as in read_image
            what = f'in {map_path!r}' if map_path else f'of {image_path!r}'
            raise UnreadableFileError(
                f'cannot read the annotations {what}: {reason(error)}'
            ) from error
        label_map = results.get('gt_seg_map')
        if label_map is not None and size and label_map.shape != size:
            raise UnreadableFileError(
                f'expected one label for each of the {" x ".join(map(str, size))} pixels of '
                f'{image_path!r}, got {" x ".join(map(str, label_map.shape))} in {map_path!r}'
            )
        return results

    def __repr__(self) -> str:
        return repr(self.load)


class DataRootHook(Hook):
    """Refuse data that name files outside of their folders, before any file is opened.

    Annotations may come from others, and ``..`` or an absolute path in them can lead anywhere.
    """

    def __init__(self) -> None:
        self.checked: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Check the training data."""
        self.check(runner.train_dataloader.dataset)

    def before_val(self, runner: Runner) -> None:
        """Check the validation data."""
        self.check(runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Check the test data."""
        self.check(runner.test_dataloader.dataset)

    def check(self, dataset: Any) -> None:
        """Check the file names of a dataset and of those that it wraps, once.

        Raises:
            UnreadableFileError: A file is outside of the folders of its dataset.
        """
        if dataset is None or any(dataset is other for other in self.checked):
            return
        self.checked.append(dataset)
        inner = (
            [dataset.dataset] if hasattr(dataset, 'dataset') else getattr(dataset, 'datasets', [])
        )
        for one in inner:
            self.check(one)
        if not isinstance(dataset, BaseDataset):  # a wrapper, or a class of the user's
            return
        roots = [root for root in (dataset.data_root, *dataset.data_prefix.values()) if root]
        for index in range(len(dataset)):
            sample = dataset.get_data_info(index)
            for key in ('img_path', 'seg_map_path'):
                path = sample.get(key)
                if path and all(leaves_root(path, root) for root in roots or ['.']):
                    raise UnreadableFileError(
                        f'expected files below {roots or "the current folder"}, as data_root and '
                        f'data_prefix say, got {path!r}; correct the name in the annotations'
                    )
