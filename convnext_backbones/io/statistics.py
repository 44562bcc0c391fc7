"""Mean and standard deviation of the channels of images, for their normalization."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

import numpy as np

from .images import ANY_CHANNELS, read_image

IMAGES = 200  # that are read, spread evenly over all of them
PIXELS = 2**18  # of an image, spread evenly


def channel_statistics(paths: Iterable[str | os.PathLike]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel, over a sample of images and pixels.

    The sample depends on nothing but the sorted paths. Values that are not finite, which mark
    missing data, do not count. TIFFs need rasterio.

    Args:
        paths: Images with the same number of channels.

    Returns:
        Mean and standard deviation, in the units of the files, at five significant digits, in the
        order of the file: three channels are RGB. A channel of one value has a deviation of 1.

    Raises:
        UnreadableFileError: An image cannot be read.
        ValueError: There are no images, their numbers of channels differ, or a channel has no
            finite value.
    """
    files = sorted(os.fspath(path) for path in paths)
    if not files:
        raise ValueError('expected images to compute mean and std of, got none')
    total, squares, counts = np.zeros(0), np.zeros(0), np.zeros(0)
    for path in files[:: math.ceil(len(files) / IMAGES)]:
        image = read_image(path, backend=ANY_CHANNELS)
        pixels = image.reshape(-1, image.shape[2]).astype(np.float64)
        pixels = pixels[:: math.ceil(len(pixels) / PIXELS)]
        if len(pixels[0]) == 3:  # BGR
            pixels = pixels[:, ::-1]
        if not counts.size:
            total, squares, counts = (np.zeros(len(pixels[0])) for _ in range(3))
        if len(pixels[0]) != len(counts):
            raise ValueError(
                f'expected images of the same number of channels, got {len(counts)} in '
                f'{files[0]!r} and {len(pixels[0])} in {path!r}'
            )
        finite = np.isfinite(pixels)
        pixels = np.where(finite, pixels, 0)
        total += pixels.sum(0)
        squares += (pixels**2).sum(0)
        counts += finite.sum(0)
    if not counts.all():
        raise ValueError(
            f'expected values in every channel, found none in channel {int(counts.argmin())} of '
            f'{len(files)} images'
        )
    mean = total / counts
    std = np.sqrt(np.maximum(squares / counts - mean**2, 0))
    std[std == 0] = 1
    return _rounded(mean), _rounded(std)


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f'{value:.5g}') for value in values]
