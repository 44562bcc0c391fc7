"""Reading images and label maps so that one that cannot be read is named, and why.

OpenMMLab's pipelines hand the bytes of a file to a decoder that does not know the file any more.
What is raised, somewhere in a data worker, lacks the reason where an image is damaged, and the name
where it is empty or a label map.

Pixels are those of ``mmcv.imread``: gray images get three equal channels, alpha is dropped, 16 bits
are scaled down to 8, CMYK becomes BGR, of an animation the first frame counts, and the orientation
noted in the file is applied. What cv2 cannot read is left to Pillow. Damage among the compressed
pixels of a JPEG that is of full length goes unnoticed: decoders conceal it.
"""

from __future__ import annotations

import io
import os
from threading import Lock

import mmcv
import numpy as np
from mmengine import fileio
from PIL import Image, UnidentifiedImageError

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
        raise UnreadableFileError(f'cannot read the image {path!r}: {reason(error)}') from error


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


def reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return 'the file is damaged or not an image'
    reason = getattr(error, 'strerror', None) or ' '.join(str(error).split())
    known = isinstance(error, (OSError, ValueError)) and reason
    return reason if known else f'{type(error).__name__}: {reason}'
