"""Prediction of images of any size by tiles, for detectors and segmentors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from mmengine.structures import BaseDataElement, PixelData
from rich.progress import track

from ..io.large_images import WindowedImage, open_windows
from .overview import Overview
from .predictor import Predictor
from .tiles import Tiling, cut


def predict_file(predictor: Predictor, path: Path, tiling: Tiling) -> tuple[dict, Any]:
    """Predict an image tile by tile, and write its label map, or its outlines on the earth.

    Args:
        predictor: Of a detector or a segmentor.
        path: The image; a TIFF is read by windows, where rasterio is installed.
        tiling: How it is cut.

    Returns:
        The entry of predictions.json, and what :func:`draw` draws.

    Raises:
        UnreadableFileError: The image cannot be read.
        ValueError: A tile is damaged, or its results do not fit into memory.
    """
    with open_windows(path, **predictor.reading) as image:
        tiles = cut(image.height, image.width, tiling)
        shown = track(tiles, path.name, disable=len(tiles) == 1)
        if predictor.task == 'mmseg':
            from .tiled_segmentation import predict_labels

            record, overview, labels = predict_labels(predictor, image, shown, path.name, tiling)
            return record, (_segmented(labels), overview)
        return _detect(predictor, image, shown, path.name)


def _detect(
    predictor: Predictor, image: WindowedImage, tiles: Any, name: str
) -> tuple[dict, tuple[BaseDataElement, Overview]]:
    from .outlines import write_outlines  # these need mmdet and pycocotools
    from .tiled_detection import drawn_objects, object_records, predict_objects

    objects, overview = predict_objects(predictor, image, tiles)
    record = object_records(objects, predictor.classes, image.height, image.width)
    if image.georeference:
        folder = predictor.out / 'outlines'
        folder.mkdir(exist_ok=True)
        file = f'{name}.geojson'
        write_outlines(folder / file, objects, predictor.classes, image.georeference)
        record['outlines'] = file
    return record, (drawn_objects(objects, overview), overview)


def _segmented(labels: np.ndarray) -> BaseDataElement:
    from mmseg.structures import SegDataSample

    data = torch.from_numpy(labels)[None]
    return cast(BaseDataElement, SegDataSample(pred_sem_seg=PixelData(data=data)))


def draw(predictor: Predictor, drawing: tuple[BaseDataElement, Overview], name: str) -> None:
    """Write the overlay of an image, at most 2,048 pixels long."""
    sample, overview = drawing
    predictor.draw(sample, overview.pixels, name)
