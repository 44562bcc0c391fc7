"""Label maps of images of any size: tile by tile, from the file into the file.

Each tile contributes its core. The rest of it is context, which the network sees and nobody keeps.
Where the image goes through the pipeline at its own size, the labels of a core are those of the
whole image, as far as the receptive field of the network lies inside of the tile. Networks that
summarize the whole input, such as UperNet's pyramid pooling and the norms of ConvNeXt V2 (GRN), see
a tile instead of the image, and differ in places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..io.files import write_atomically
from ..io.geotiff import write_tiff
from ..io.label_maps import encode_label_map
from ..io.large_images import WindowedImage
from .overview import Overview
from .predictor import Predictor
from .tiles import Tile, Tiling


class LabelSink(Protocol):
    """What label maps are written to."""

    def write(self, top: int, left: int, labels: np.ndarray) -> None:
        """Write labels of shape (height, width) into the window at (top, left)."""


class LabelArray:
    """A label map in memory; see :class:`LabelSink`."""

    def __init__(self, size: tuple[int, int], dtype: str) -> None:
        self.labels = np.zeros(size, dtype)

    def write(self, top: int, left: int, labels: np.ndarray) -> None:
        """Write labels of shape (height, width) into the window at (top, left)."""
        height, width = labels.shape
        self.labels[top : top + height, left : left + width] = labels


def predict_labels(
    predictor: Predictor,
    image: WindowedImage,
    tiles: Iterable[Tile],
    name: str,
    tiling: Tiling,
) -> tuple[dict, Overview, np.ndarray]:
    """Segment an image and write its label map: a TIFF of a TIFF, a PNG of another image.

    Args:
        predictor: Of a segmentor.
        image: The image.
        tiles: Of the image.
        name: Of the image.
        tiling: That gave the tiles.

    Returns:
        The entry of predictions.json; the image at the size of a drawing; and its labels.
    """
    counts = np.zeros(len(predictor.classes), np.int64)
    overview = Overview(image.height, image.width)
    drawn = np.zeros(overview.size, np.int64)
    with label_map(predictor.out / 'label_maps', name, image, tiling, len(counts)) as (file, sink):
        for tile in tiles:
            pixels = image.read(tile.top, tile.left, tile.height, tile.width)
            labels = predict_tile(predictor, pixels)
            labels = tile.of_core(labels)
            top, left = tile.core[:2]
            sink.write(top, left, labels)
            counts += np.bincount(labels.ravel(), minlength=len(counts))
            overview.add(top, left, tile.of_core(pixels))
            overview.sample(top, left, labels, drawn)
    total = image.height * image.width
    shares = {predictor.classes[i]: round(int(n) / total, 5) for i, n in enumerate(counts) if n}
    return dict(label_map=file, share=shares), overview, drawn


def predict_tile(predictor: Predictor, pixels: np.ndarray) -> np.ndarray:
    """Return the labels of a tile, of shape (height, width)."""
    sample: Any = predictor.predict(pixels)
    return sample.pred_sem_seg.data[0].cpu().numpy()


@contextmanager
def label_map(
    folder: Path, name: str, image: WindowedImage, tiling: Tiling, classes: int
) -> Iterator[tuple[str, LabelSink]]:
    """Open the label map of an image; the file appears when all is written.

    Yields:
        The name of the file, and what to write to.
    """
    dtype = 'uint8' if classes <= 256 else 'uint16'
    size = image.height, image.width
    if image.is_tiff:
        file = name if Path(name).suffix.lower() in ('.tif', '.tiff') else f'{name}.tif'
        with write_tiff(folder / file, size, dtype, tiling.core, image.georeference) as writer:
            yield file, writer
        return
    labels = LabelArray(size, dtype)
    yield f'{name}.png', labels
    write_atomically(folder / f'{name}.png', encode_label_map(labels.labels).tobytes())
