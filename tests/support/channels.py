"""Sample data whose images have other channels and depths."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import rasterio


def write_tiff(path: Path, pixels: np.ndarray, **options) -> None:
    """Write (H, W, channels) in the order in which a file stores them."""
    height, width, channels = pixels.shape
    form = dict(driver='GTiff', height=height, width=width, count=channels, dtype=pixels.dtype)
    with rasterio.open(path, 'w', **form, **options) as file:
        file.write(pixels.transpose(2, 0, 1))


def with_channels(image: np.ndarray, channels: int, dtype: str) -> np.ndarray:
    """BGR of 8 bits as that many channels: gray, or R, G, B and darker ones, over the whole range.

    Args:
        image: (H, W, 3), uint8, BGR.
        channels: Of the result.
        dtype: Of the result: uint8, uint16 up to 65,535, or float32 up to 1.
    """
    if channels < 3:
        image = image.mean(2, keepdims=True).repeat(channels, 2)
    else:
        darker = [image[..., :1] // (2 + i) for i in range(channels - 3)]
        image = np.concatenate([image[..., ::-1], *darker], 2)
    scale = {'uint8': 1, 'uint16': 257, 'float32': 1 / 255}[dtype]
    return (image.astype(np.float64) * scale).astype(dtype)


def convert_sample(folder: Path, channels: int, dtype: str) -> list[Path]:
    """Turn the images of sample data below ``folder`` into TIFFs; their paths."""
    for image in [*folder.rglob('*.jpg')]:
        pixels = with_channels(cv2.imread(str(image)), channels, dtype)
        write_tiff(image.with_suffix('.tif'), pixels, compress='deflate')
        image.unlink()
    for path in folder.rglob('instances_*.json'):
        content = json.loads(path.read_text())
        for image in content['images']:
            image['file_name'] = image['file_name'].replace('.jpg', '.tif')
        path.write_text(json.dumps(content))
    return sorted(folder.rglob('*.tif'))
