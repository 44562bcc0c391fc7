"""Open images of any size for reading by windows.

A TIFF is read window by window where rasterio is installed. Other files are decoded as a whole,
which the limit of pixels in :mod:`.images` bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from .geotiff import Georeference, TiffFile, has_rasterio, is_tiff, open_tiff
from .images import (
    ANY_CHANNELS,
    ORIENTATION,
    PILLOWS_LIMIT_LIFTED,
    UnreadableFileError,
    read_image,
    reason,
)


class WindowedImage(Protocol):
    """An image that is read by windows.

    Attributes:
        height: Rows.
        width: Columns.
        georeference: Where the pixels lie on the earth, if the file says so.
        is_tiff: Whether it is a TIFF, and rasterio is installed.
    """

    height: int
    width: int
    georeference: Georeference | None
    is_tiff: bool

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a window as :func:`~.images.read_image` returns whole images."""


class DecodedImage:
    """An image in memory; see :class:`WindowedImage`."""

    def __init__(
        self, pixels: np.ndarray, georeference: Georeference | None = None, is_tiff: bool = False
    ) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]
        self.georeference = georeference
        self.is_tiff = is_tiff

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a window."""
        return self.pixels[top : top + height, left : left + width]


class TiffImage:
    """A TIFF on disk, in the 8 bits and three channels of BGR unless ``as_stored``."""

    is_tiff = True

    def __init__(self, file: TiffFile, as_stored: bool) -> None:
        self.file = file
        self.height, self.width = file.height, file.width
        self.georeference = file.georeference
        self.as_stored = as_stored

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a window."""
        pixels = self.file.read(top, left, height, width)
        return pixels if self.as_stored else _as_color(pixels)


@contextmanager
def open_windows(
    path: Path, flag: str = 'color', backend: str | None = None
) -> Iterator[WindowedImage]:
    """Open an image for reading by windows.

    Args:
        path: The file.
        flag: As in :func:`~.images.read_image`.
        backend: As in :func:`~.images.read_image`.

    Raises:
        UnreadableFileError: The file cannot be read, or has to be decoded as a whole and has more
            pixels than the limit.
    """
    with ExitStack() as stack:
        try:
            image = _open(path, flag, backend, stack)
        except UnreadableFileError:
            raise
        except (OSError, ValueError) as error:
            raise UnreadableFileError(
                f'cannot read the image {str(path)!r}: {reason(error)}'
            ) from error
        yield image


def _open(path: Path, flag: str, backend: str | None, stack: ExitStack) -> WindowedImage:
    with path.open('rb') as file:
        by_windows = is_tiff(file.read(4)) and has_rasterio()
    if not by_windows:
        return DecodedImage(read_image(path, flag, backend))
    tiff = stack.enter_context(open_tiff(path))
    if _reads_alike(tiff, path, flag, backend):
        return TiffImage(tiff, backend == ANY_CHANNELS)
    return DecodedImage(read_image(path, flag, backend), tiff.georeference, True)


def _reads_alike(tiff: TiffFile, path: Path, flag: str, backend: str | None) -> bool:
    """Whether windows of a TIFF have the pixels that decoding it as a whole gives."""
    if backend == ANY_CHANNELS:
        return True
    known = flag == 'color' and backend in (None, 'cv2')
    integers = tiff.dtype in ('uint8', 'uint16') and tiff.channels <= 4
    return known and integers and tiff.is_plain and not _is_turned(path)


def _is_turned(path: Path) -> bool:
    try:
        with PILLOWS_LIMIT_LIFTED, Image.open(path) as image:  # which reads the header only
            return image.getexif().get(ORIENTATION, 1) != 1
    except (OSError, ValueError):
        return False


def _as_color(pixels: np.ndarray) -> np.ndarray:
    """Return channels of a TIFF as BGR of 8 bits, as OpenCV does.

    Args:
        pixels: (H, W, channels): gray, gray and alpha, BGR, or RGB and alpha; uint8 or uint16.

    Returns:
        (H, W, 3), uint8.
    """
    gray = pixels.shape[2] < 3
    if pixels.dtype == np.uint16:
        # libtiff's two ways for gray and for color.
        wide = pixels.astype(np.uint32)
        pixels = (wide >> 8 if gray else (wide + 128) // 257).astype(np.uint8)
    if gray:
        return pixels[..., :1].repeat(3, axis=2)
    return pixels if pixels.shape[2] == 3 else np.ascontiguousarray(pixels[..., 2::-1])
