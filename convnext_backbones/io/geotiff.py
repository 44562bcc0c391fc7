"""TIFF files of any number of channels, read and written by windows, with their georeference.

rasterio, which is optional, does the work: OpenCV reads at most four channels, decodes files as a
whole, and makes 8 bits of 16 without a word if the channels lie one after another.

Only the TIFF driver of GDAL is used, and no file beside the image is read: what lies there may
name files elsewhere.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .files import TEMPORARY, WriteError

INSTALL = "pip install 'convnext_backbones[large]'"
SIGNATURES = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')  # TIFF and BigTIFF, of either byte order
# Decoded blocks of files that GDAL keeps. A row of tiles reads the same strips many times: 1,152
# rows of 60,000 pixels fit.
CACHE_MEGABYTES = 256
# One block of a file is decoded as a whole, whatever window is asked for.
MOST_BLOCK_BYTES = 2**28
KEPT_TYPES = ('uint8', 'uint16', 'float32')
OTHER_TYPES = ('int8', 'int16', 'uint32', 'int32', 'float64')  # these become float32


def is_tiff(start: bytes) -> bool:
    """Whether a file that begins with these bytes is a TIFF."""
    return start[:4] in SIGNATURES


def has_rasterio() -> bool:
    """Whether rasterio can be imported."""
    try:
        import rasterio  # noqa: F401
    except ImportError:
        return False
    return True


def import_rasterio(purpose: str) -> ModuleType:
    """Return rasterio.

    Args:
        purpose: What it is needed for, for the message.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import rasterio
    except ImportError as error:
        raise ValueError(f'{purpose} takes rasterio, which is not installed: {INSTALL}') from error
    return rasterio


@contextmanager
def _gdal(rasterio: ModuleType) -> Iterator[None]:
    """Context of every call of rasterio: a bounded cache, no other files, no warnings."""
    options = dict(GDAL_CACHEMAX=CACHE_MEGABYTES, GDAL_DISABLE_READDIR_ON_OPEN='EMPTY_DIR')
    with warnings.catch_warnings(), rasterio.Env(**options):
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        yield


@contextmanager
def _reading(rasterio: ModuleType) -> Iterator[None]:
    """Context of calls that read: errors of GDAL become ValueError."""
    try:
        with _gdal(rasterio):
            yield
    except rasterio.errors.RasterioError as error:
        raise ValueError(f'the TIFF is damaged or of an unknown kind ({error})') from error


@dataclass(frozen=True)
class Georeference:
    """Where the pixels of an image lie on the earth.

    Attributes:
        crs: The coordinate reference system, rasterio's; None if the file names none.
        transform: From (column, row) to coordinates, an ``affine.Affine``.
    """

    crs: Any
    transform: Any


# --- reading --------------------------------------------------------------------------------


class TiffFile:
    """A TIFF that is read by windows.

    Args:
        dataset: As rasterio opens it.

    Attributes:
        height: Rows.
        width: Columns.
        channels: Bands of the file.
        dtype: Of the pixels, as they are read: uint8, uint16 or float32.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.height, self.width, self.channels = dataset.height, dataset.width, dataset.count
        types = set(dataset.dtypes)
        if not types <= {*KEPT_TYPES, *OTHER_TYPES}:
            raise ValueError(f'expected pixels that are real numbers, got {", ".join(types)}')
        (kept,) = types if len(types) == 1 else ('float32',)
        self.dtype = kept if kept in KEPT_TYPES else 'float32'
        rows, columns = dataset.block_shapes[0]
        together = self.channels if dataset.profile.get('interleave') == 'pixel' else 1
        block = rows * columns * together * np.dtype(dataset.dtypes[0]).itemsize
        if block > MOST_BLOCK_BYTES:
            raise ValueError(
                f'its blocks of {columns} x {rows} pixels take {block / 2**20:,.0f} MiB each, more '
                f'than {MOST_BLOCK_BYTES / 2**20:,.0f}; rewrite it in tiles: rio convert --co '
                'TILED=YES --co COMPRESS=DEFLATE --co BIGTIFF=IF_SAFER IN.tif OUT.tif'
            )

    @property
    def georeference(self) -> Georeference | None:
        """Where the pixels lie; None if the file does not say."""
        crs, transform = self.dataset.crs, self.dataset.transform
        known = crs is not None or not transform.is_identity
        return Georeference(crs, transform) if known else None

    @property
    def is_plain(self) -> bool:
        """Whether the stored numbers are gray, RGB or channels, and need no conversion."""
        named = {interpretation.name for interpretation in self.dataset.colorinterp}
        tags = self.dataset.tags(ns='IMAGE_STRUCTURE')
        of_band = self.dataset.tags(1, ns='IMAGE_STRUCTURE')
        return not (
            named & {'palette', 'cyan', 'magenta', 'yellow', 'black'}
            or tags.get('MINISWHITE') == 'YES'
            or tags.get('SOURCE_COLOR_SPACE') == 'CMYK'
            or 'NBITS' in of_band
        )

    @property
    def is_gray(self) -> bool:
        """Whether decoders that make three channels take the first for gray."""
        return self.dataset.colorinterp[0].name != 'red'

    @property
    def is_planar(self) -> bool:
        """Whether the channels lie one after another."""
        return self.channels > 1 and self.dataset.profile.get('interleave') == 'band'

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a window of pixels, in OpenMMLab's order of channels.

        Returns:
            (height, width, channels); three channels are BGR, others are in the order of the file.
        """
        window = ((top, top + height), (left, left + width))
        with _reading(import_rasterio('reading a TIFF')):
            bands = self.dataset.read(window=window)
        if self.channels == 3:
            bands = bands[::-1]
        return np.ascontiguousarray(bands.transpose(1, 2, 0), dtype=self.dtype)


@contextmanager
def open_tiff(source: Path | bytes) -> Iterator[TiffFile]:
    """Open a TIFF for reading.

    Args:
        source: The file, or its contents.

    Raises:
        ValueError: rasterio is not installed; or the file is damaged, not a TIFF, has pixels of
            complex numbers, or blocks that are too large.
    """
    rasterio = import_rasterio('reading this TIFF')
    with ExitStack() as stack:
        with _reading(rasterio):
            if isinstance(source, bytes):
                file = stack.enter_context(rasterio.MemoryFile(source))
                dataset = file.open(driver='GTiff')
            else:
                dataset = rasterio.open(os.fspath(source), driver='GTiff')
            stack.enter_context(dataset)
            tiff = TiffFile(dataset)
        yield tiff


# --- writing --------------------------------------------------------------------------------


class TiffWriter:
    """Writes labels, one window after another."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def write(self, top: int, left: int, labels: np.ndarray) -> None:
        """Write labels of shape (height, width) into the window at (top, left)."""
        height, width = labels.shape
        window = ((top, top + height), (left, left + width))
        labels = labels.astype(self.dataset.dtypes[0], copy=False)
        with _gdal(import_rasterio('writing a TIFF')):
            self.dataset.write(labels, 1, window=window)


@contextmanager
def write_tiff(
    path: Path,
    size: tuple[int, int],
    dtype: str,
    block: int,
    georeference: Georeference | None = None,
) -> Iterator[TiffWriter]:
    """Write a compressed TIFF of one channel, in tiles; the file appears when it is complete.

    Args:
        path: The file.
        size: Height and width.
        dtype: Of the labels.
        block: Side of the tiles of the file, a multiple of 16. What is written should be whole
            tiles: parts of tiles are compressed anew.
        georeference: Of the pixels.

    Raises:
        WriteError: The disk is full, or permission is missing.
    """
    rasterio = import_rasterio('writing a TIFF')
    temporary = path.with_name(path.name + TEMPORARY)
    place = dict(crs=georeference.crs, transform=georeference.transform) if georeference else {}
    form = dict(
        driver='GTiff', count=1, dtype=dtype, height=size[0], width=size[1], compress='deflate',
        tiled=True, blockxsize=block, blockysize=block, bigtiff='if_safer',
    )  # fmt: skip
    try:
        with _gdal(rasterio):
            dataset = rasterio.open(os.fspath(temporary), 'w', **form, **place)
        with dataset:
            yield TiffWriter(dataset)
        os.replace(temporary, path)
    except (OSError, rasterio.errors.RasterioError) as error:
        raise WriteError(getattr(error, 'errno', None), str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
