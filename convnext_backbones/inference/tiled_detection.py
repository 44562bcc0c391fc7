"""Objects in images of any size, found tile by tile.

Each tile goes through the pipeline of the config as an image of its size would: where the pipeline
scales images, tiles of the size of the training images keep the objects at the size that the
network knows. A tile can have as many objects as an image (``max_per_img`` of the config).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from ..io.large_images import WindowedImage
from .cropped_masks import CroppedMask
from .merging import Detection, merge
from .overview import Overview
from .predictor import Predictor
from .tiles import Tile

# Objects that are drawn, those with the highest scores; and the most bytes of their masks.
MOST_DRAWN, MOST_MASK_BYTES = 1000, 2**28


def predict_objects(
    predictor: Predictor, image: WindowedImage, tiles: Iterable[Tile]
) -> tuple[list[Detection], Overview]:
    """Return the objects of an image, and the image at the size of a drawing.

    Memory is that of a tile and of the objects, whose masks are kept as run lengths.
    """
    overview = Overview(image.height, image.width)
    seen, found = [], []
    for tile in tiles:
        pixels = image.read(tile.top, tile.left, tile.height, tile.width)
        sample = predictor.predict(pixels)
        seen.append(tile)
        found.append(detections(sample, tile, predictor.score_thr))
        overview.add(*tile.core[:2], tile.of_core(pixels))
    return merge(seen, found), overview


def detections(sample: Any, tile: Tile, score_thr: float) -> list[Detection]:
    """Return the objects that a model found in a tile, in coordinates of the image."""
    instances = sample.pred_instances[sample.pred_instances.scores >= score_thr].cpu().numpy()
    corner = np.array([tile.left, tile.top] * 2, np.float64)
    masks = instances.masks if 'masks' in instances else [None] * len(instances)
    return [
        Detection(
            np.asarray(box, np.float64) + corner,
            float(score),
            int(label),
            None if mask is None else CroppedMask.of(mask, tile.top, tile.left),
        )
        for box, score, label, mask in zip(
            instances.bboxes, instances.scores, instances.labels, masks, strict=True
        )
    ]


def object_records(
    objects: Iterable[Detection], classes: tuple[str, ...], height: int, width: int
) -> dict:
    """Return the entry of predictions.json: as of a whole image, in coordinates of the image."""
    records = []
    for one in objects:
        record: dict[str, Any] = dict(
            bbox=one.box.round(2).tolist(),
            score=round(one.score, 5),
            category=classes[one.label],
        )
        mask = one.mask.run_lengths(height, width) if one.mask else None
        if mask:
            record['mask'] = mask
        records.append(record)
    return dict(instances=records)


def drawn_objects(objects: list[Detection], overview: Overview) -> DetDataSample:
    """Return objects at the size of the overview; with masks if these fit into memory."""
    drawn = objects[:MOST_DRAWN]
    height, width = overview.size
    instances = InstanceData(
        bboxes=torch.tensor(np.array([one.box for one in drawn]).reshape(-1, 4) * overview.scale),
        scores=torch.tensor([one.score for one in drawn]),
        labels=torch.tensor([one.label for one in drawn], dtype=torch.int64),
    )
    masks = [one.mask for one in drawn if one.mask]
    if masks and len(masks) == len(drawn) and len(drawn) * height * width <= MOST_MASK_BYTES:
        instances.masks = torch.from_numpy(np.stack([_reduced(mask, overview) for mask in masks]))
    return DetDataSample(pred_instances=instances)


def _reduced(mask: CroppedMask, overview: Overview) -> np.ndarray:
    """Return a mask at the size of the overview, (height, width), bool."""
    out = np.zeros(overview.size, bool)
    top, left = int(mask.top * overview.scale), int(mask.left * overview.scale)
    size = [max(1, round(side * overview.scale)) for side in (mask.width, mask.height)]
    part = cv2.resize(mask.pixels().astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    target = out[top : top + part.shape[0], left : left + part.shape[1]]
    target[:] = part[: target.shape[0], : target.shape[1]]
    return out
