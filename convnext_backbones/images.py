"""Reading images and label maps so that one that cannot be read is named, and why.

OpenMMLab's pipelines hand the bytes of a file to a decoder that does not know the file any more.
What is raised, somewhere in a data worker, lacks the reason where an image is damaged, and the name
where it is empty or a label map.

Pixels are those of ``mmcv.imread``: grey images get three equal channels, alpha is dropped, 16 bits
are scaled down to 8, CMYK becomes BGR, of an animation the first frame counts, and the orientation
noted in the file is applied. What cv2 cannot read is left to Pillow. Damage among the compressed
pixels of a JPEG that is of full length goes unnoticed: decoders conceal it.
"""

from __future__ import annotations

import inspect
import io
import logging
import os
from threading import Lock

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine import fileio
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner
from PIL import Image, UnidentifiedImageError

from .files import leaves_root

# A small file can hold a huge image. This is where Pillow refuses by default; at 3 bytes a pixel it
# is half a gigabyte for every data worker.
MAX_PIXELS_VARIABLE = 'CONVNEXT_BACKBONES_MAX_PIXELS'
MAX_PIXELS = 178_956_970


class UnreadableFileError(ValueError):
    """A file of the data cannot be read; the message is one sentence that names it.

    Data workers hand over errors as the text of a traceback. Of that the sentence is kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f'{type(self).__name__}: ')[2].strip())


def read_image(
    path: str | os.PathLike,
    flag: str = 'color',
    backend: str | None = None,
    backend_args: dict | None = None,
) -> np.ndarray:
    """Read an image as ``mmcv.imread`` does.

    Args:
        path: A file, or what a storage backend of mmengine makes of it.
        flag: What is read, as in ``mmcv.imread``.
        backend: The decoder, as in ``mmcv.imread``.
        backend_args: The storage backend, as in ``mmcv.imread``.

    Returns:
        (H, W, 3), uint8, BGR; with another ``flag`` what that says.

    Raises:
        UnreadableFileError: There is no such file, it is empty, damaged, cut short, no image, or
            has more pixels than the environment variable CONVNEXT_BACKBONES_MAX_PIXELS allows
            (by default 178,956,970).
    """
    path = os.fspath(path)
    try:
        return _decode(fileio.get(path, backend_args=backend_args), flag, backend)
    except Exception as error:  # what a damaged file makes the decoders raise is open-ended
        raise UnreadableFileError(f'cannot read the image {path!r}: {_reason(error)}') from error


def _decode(content: bytes, flag: str, backend: str | None) -> np.ndarray:
    if not content:
        raise ValueError('the file is empty')
    with PILLOWS_LIMIT_LIFTED:
        _check_size(content)
        image = mmcv.imfrombytes(content, flag, backend=backend)
        if image is None:  # a format that cv2 does not know, or damage, which Pillow describes
            image = mmcv.imfrombytes(content, flag, backend='pillow')
    return image


class _PillowsLimitLifted:
    """A context in which Pillow reads images of any size: the limit of this module stands in.

    Pillow's limit is the process's, so the first thread that comes lifts it, and the last restores.
    """

    def __init__(self) -> None:
        self.lock, self.threads, self.limit = Lock(), 0, None

    def __enter__(self) -> None:
        with self.lock:
            if not self.threads:
                self.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self.threads += 1

    def __exit__(self, *_) -> None:
        with self.lock:
            self.threads -= 1
            if not self.threads:
                Image.MAX_IMAGE_PIXELS = self.limit


PILLOWS_LIMIT_LIFTED = _PillowsLimitLifted()


def _check_size(content: bytes) -> None:
    """Refuse an image of too many pixels, by its header."""
    try:
        with Image.open(io.BytesIO(content)) as header:
            width, height = header.size
    except UnidentifiedImageError:
        return  # the decoder may know the format all the same
    limit = float(os.environ.get(MAX_PIXELS_VARIABLE, MAX_PIXELS))
    if width * height > limit:
        raise ValueError(
            f'its {width} x {height} = {width * height:,} pixels are more than {limit:,.0f}; cut '
            f'it into tiles, scale it down, or set {MAX_PIXELS_VARIABLE} higher'
        )


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return 'the file is damaged or not an image'
    reason = getattr(error, 'strerror', None) or ' '.join(str(error).split())
    known = isinstance(error, (OSError, ValueError)) and reason
    return reason if known else f'{type(error).__name__}: {reason}'


def name_unreadable_files(scope: str) -> None:
    """Let the pipelines that are built from here on, in this process, name the bad file.

    Configs stay as they are: what they call LoadImageFromFile and LoadAnnotations does the same as
    before, and raises :class:`UnreadableFileError` where that fails.

    Args:
        scope: The ``default_scope`` of the config, ``mmdet`` or ``mmseg``.
    """
    TRANSFORMS.register_module('LoadImageFromFile', force=True, module=LoadImage)
    with TRANSFORMS.switch_scope_and_registry(scope) as registry:
        load = registry.get('LoadAnnotations')
        if inspect.isclass(load):  # and not yet the function below

            def load_annotations(*args, **kwargs) -> LoadNamedAnnotations:
                return LoadNamedAnnotations(load(*args, **kwargs))

            registry.register_module('LoadAnnotations', force=True, module=load_annotations)


class LoadImage(LoadImageFromFile):
    """mmcv's LoadImageFromFile over :func:`read_image`, with the same arguments.

    With ``ignore_empty`` an image that cannot be read is a warning, and the dataset draws another
    one in its place.
    """

    def transform(self, results: dict) -> dict | None:
        """Add ``img``, ``img_shape`` and ``ori_shape``, of the file ``img_path``."""
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
            print_log(f'Left out: {error}', logger='current', level=logging.WARNING)
            return None
        if self.to_float32:
            image = image.astype(np.float32)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


class LoadNamedAnnotations(BaseTransform):
    """A transform that loads annotations, and names their file where it fails.

    Args:
        load: The LoadAnnotations of mmdet or mmseg.
    """

    def __init__(self, load: BaseTransform) -> None:
        self.load = load

    def transform(self, results: dict) -> dict:
        """Add what ``load`` adds, of the sample with ``img_path`` and perhaps ``seg_map_path``."""
        image_path, map_path = results.get('img_path'), results.get('seg_map_path')
        size = tuple(results.get('ori_shape', ()))
        if map_path and 1 in size:
            raise UnreadableFileError(
                f'expected an image of at least 2 x 2 pixels, as mmdet and mmseg drop the axes of '
                f'label maps that have length 1, got {size[0]} x {size[1]} in {image_path!r}'
            )
        try:
            results = self.load(results)
        except Exception as error:  # open-ended as in read_image
            what = f'in {map_path!r}' if map_path else f'of {image_path!r}'
            raise UnreadableFileError(
                f'cannot read the annotations {what}: {_reason(error)}'
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
    """Refuses data that name files outside of their folders, before any of them is opened.

    Annotations come from elsewhere: ``..`` and absolute paths in them lead anywhere.
    """

    def __init__(self) -> None:
        self.checked: list = []

    def before_train(self, runner: Runner) -> None:
        """Check the training data."""
        self._check(runner.train_dataloader.dataset)

    def before_val(self, runner: Runner) -> None:
        """Check the validation data."""
        self._check(runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Check the test data."""
        self._check(runner.test_dataloader.dataset)

    def _check(self, dataset) -> None:
        if dataset is None or any(dataset is other for other in self.checked):
            return
        self.checked.append(dataset)
        inner = (
            [dataset.dataset] if hasattr(dataset, 'dataset') else getattr(dataset, 'datasets', [])
        )
        for one in inner:
            self._check(one)
        if not isinstance(dataset, BaseDataset):  # a wrapper, or something of the user's
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
