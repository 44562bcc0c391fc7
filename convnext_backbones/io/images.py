"""Read images, with errors that name the file and the reason.

OpenMMLab's pipelines pass the bytes of a file to a decoder that does not know the file name. Their
errors, raised somewhere in a data worker, lack the reason if an image is damaged, and the name if
it is empty or a label map.

Pixels are those of ``mmcv.imread``: gray images get three equal channels, alpha is dropped, 16 bits
are scaled to 8, CMYK becomes BGR, an animation gives its first frame, and the orientation stored in
the file is applied. Pillow reads what cv2 cannot. Damaged pixel data in a JPEG of full length go
unnoticed, because decoders conceal them.
"""

from __future__ import annotations

import io
import os
from threading import Lock

import mmcv
import numpy as np
from mmengine import fileio
from PIL import Image, UnidentifiedImageError

from .geotiff import is_tiff, open_tiff

# A small file can hold a huge image. This is Pillow's own limit, at which it refuses by default: at
# 3 bytes per pixel, half a gigabyte for every data worker.
MAX_PIXELS_VARIABLE = 'CONVNEXT_BACKBONES_MAX_PIXELS'
MAX_PIXELS = 178_956_970
# What the names of images end with.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.gif', '.ppm', '.pgm')
# The EXIF tag of the orientation, and its values that swap width and height.
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)
# The backend that keeps every channel and all bits; others are mmcv's.
ANY_CHANNELS = 'rasterio'


class UnreadableFileError(ValueError):
    """Error for a data file that cannot be read; the message is one sentence that names the file.

    Data workers pass errors on as the text of a traceback. Only its sentence is kept.
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
        path: A local file, or an address that a storage backend of mmengine understands.
        flag: Channels to read, as in ``mmcv.imread``.
        backend: The decoder, as in ``mmcv.imread``; or :data:`ANY_CHANNELS`, which takes rasterio
            for a TIFF, and keeps its channels and bits whatever ``flag`` says.
        backend_args: The storage backend, as in ``mmcv.imread``.

    Returns:
        Pixels of shape (H, W, 3), uint8, BGR; another ``flag`` may ask for other channels. With
        :data:`ANY_CHANNELS`, (H, W, channels), of uint8, uint16 or float32: three channels are
        BGR, others are in the order of the file.

    Raises:
        UnreadableFileError: The file is missing, empty, damaged, truncated or not an image, or it
            has more pixels than the environment variable CONVNEXT_BACKBONES_MAX_PIXELS allows
            (by default 178,956,970).
    """
    path = os.fspath(path)
    try:
        return _decode(fileio.get(path, backend_args=backend_args), flag, backend)
    except Exception as error:  # what a damaged file makes the decoders raise is open-ended
        raise UnreadableFileError(f'cannot read the image {path!r}: {reason(error)}') from error


def _decode(content: bytes, flag: str, backend: str | None) -> np.ndarray:
    """Decode the bytes of an image file, whose size in pixels is checked first."""
    if not content:
        raise ValueError('the file is empty')
    with PILLOWS_LIMIT_LIFTED:
        _check_size(content)
        if backend == ANY_CHANNELS:
            return _decode_any(content)
        image = mmcv.imfrombytes(content, flag, backend=backend)
        if image is None:  # cv2 does not know the format, or the file is damaged: Pillow says why
            image = mmcv.imfrombytes(content, flag, backend='pillow')
    return image


def _decode_any(content: bytes) -> np.ndarray:
    """Decode all channels and bits; see :func:`read_image`."""
    if is_tiff(content):
        with open_tiff(content) as file:
            check_pixels(file.height, file.width)
            return file.read(0, 0, file.height, file.width)
    image = mmcv.imfrombytes(content, 'unchanged')
    if image is None:
        raise UnidentifiedImageError('no decoder knows this file')
    image = image.reshape(*image.shape[:2], -1)
    return image if image.shape[2] != 4 else image[..., [2, 1, 0, 3]]


class _PillowsLimitLifted:
    """Context in which Pillow reads images of any size, because this module checks the size.

    Pillow's limit belongs to the process: the first thread that enters lifts it, the last restores
    it.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self.threads = 0
        self.limit: int | None = None

    def __enter__(self) -> None:
        with self.lock:
            if not self.threads:
                self.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self.threads += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.threads -= 1
            if not self.threads:
                Image.MAX_IMAGE_PIXELS = self.limit


PILLOWS_LIMIT_LIFTED = _PillowsLimitLifted()


def _check_size(content: bytes) -> None:
    """Refuse an image with too many pixels, judged by its header.

    Raises:
        ValueError: It has more than the limit.
    """
    try:
        with Image.open(io.BytesIO(content)) as header:
            width, height = header.size
    except UnidentifiedImageError:
        return  # the decoder may know the format
    check_pixels(height, width)


def check_pixels(height: int, width: int) -> None:
    """Raise ValueError if an image of this size may not be decoded as a whole."""
    limit = float(os.environ.get(MAX_PIXELS_VARIABLE, MAX_PIXELS))
    if width * height > limit:
        raise ValueError(
            f'its {width} x {height} = {width * height:,} pixels are more than {limit:,.0f}; cut '
            f'it into tiles, scale it down, or set {MAX_PIXELS_VARIABLE} higher'
        )


def reason(error: Exception) -> str:
    """Return why a file could not be decoded, on one line."""
    if isinstance(error, UnidentifiedImageError):
        return 'the file is damaged or not an image'
    text = getattr(error, 'strerror', None) or ' '.join(str(error).split())
    is_sentence = isinstance(error, (OSError, ValueError)) and text
    return text if is_sentence else f'{type(error).__name__}: {text}'
