"""Open images of any size for reading by windows.

A TIFF is read window by window where rasterio is installed. Other files are decoded as a whole,
which the limit of pixels in :mod:`.images` bounds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .geotiff import Georeference, TiffFile, has_rasterio, is_tiff, open_tiff
from .images import (
    ANY_CHANNELS,
    ORIENTATION,
    UnreadableFileError,
    read_image,
    reason,
)

# The tag of what channels beyond gray or RGB are, and its value for an alpha that colors are not
# multiplied with yet.
EXTRA_SAMPLES, STRAIGHT_ALPHA = 338, 2


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

    def __init__(self, file: TiffFile, as_stored: bool, multiplies: bool = False) -> None:
        self.file = file
        self.multiplies = multiplies
        self.height, self.width = file.height, file.width
        self.georeference = file.georeference
        self.as_stored = as_stored

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a window."""
        pixels = self.file.read(top, left, height, width)
        return pixels if self.as_stored else _as_color(pixels, self.file, self.multiplies)


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
    tags = _tags(path)
    if _reads_alike(tiff, tags, flag, backend):
        straight = tuple(tags.get(EXTRA_SAMPLES, ()))[:1] == (STRAIGHT_ALPHA,)
        return TiffImage(tiff, backend == ANY_CHANNELS, straight)
    return DecodedImage(read_image(path, flag, backend), tiff.georeference, True)


def _reads_alike(tiff: TiffFile, tags: Mapping[int, Any], flag: str, backend: str | None) -> bool:
    """Whether windows of a TIFF have the pixels that decoding it as a whole gives."""
    if backend == ANY_CHANNELS:
        return True
    known = flag == 'color' and backend in (None, 'cv2')
    integers = tiff.dtype in ('uint8', 'uint16') and tiff.channels <= 4
    as_it_is = bool(tags) and tags.get(ORIENTATION, 1) == 1  # without tags, nobody knows
    return known and integers and tiff.is_plain and as_it_is


def _tags(path: Path) -> Mapping[int, Any]:
    """Return the tags of the first image of a TIFF; none if Pillow cannot read them."""
    try:
        with path.open('rb') as file:
            start = file.read(8)
            if 43 in start[2:4]:  # BigTIFF
                start += file.read(8)
            tags = ImageFileDirectory_v2(start)
            file.seek(tags.next)
            tags.load(file)
            return dict(tags)
    except (OSError, SyntaxError, ValueError, struct.error):
        return {}


def _as_color(pixels: np.ndarray, file: TiffFile, multiplies: bool) -> np.ndarray:
    """Return channels of a TIFF as BGR of 8 bits, as OpenCV does by means of libtiff.

    Args:
        pixels: (H, W, channels) of the file, BGR or in its order; uint8 or uint16.
        file: Which says what the channels are.
        multiplies: Whether the channel after the colors is an alpha that they are multiplied with;
            libtiff leaves it out if gray and alpha lie pixel by pixel.

    Returns:
        (H, W, 3), uint8.
    """
    if file.channels == 3:
        pixels = pixels[..., ::-1]
    gray_by_pixel = file.is_gray and not file.is_planar
    colors = 1 if file.is_gray else 3
    pixels = pixels[..., : colors + 1]
    if pixels.dtype == np.uint16:
        wide = pixels.astype(np.uint32)
        pixels = (wide >> 8 if gray_by_pixel else (wide + 128) // 257).astype(np.uint8)
    if multiplies and pixels.shape[2] > colors and not gray_by_pixel:
        wide = pixels.astype(np.uint32)
        pixels = ((wide[..., :-1] * wide[..., -1:] + 127) // 255).astype(np.uint8)
    if file.is_gray:
        return pixels[..., :1].repeat(3, axis=2)
    return np.ascontiguousarray(pixels[..., 2::-1])
