"""Predictors without a network, whose results are known for every pixel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData

CLASSES = ('ground', 'square', 'disk')


def segmentor(out: Path, label: Callable[[np.ndarray], np.ndarray]) -> SimpleNamespace:
    """A predictor that gives ``label(pixels)``, of shape (H, W), as labels."""
    from mmseg.structures import SegDataSample

    def predict(pixels: np.ndarray) -> SegDataSample:
        data = torch.from_numpy(label(pixels))[None]
        return SegDataSample(pred_sem_seg=PixelData(data=data))

    return _predictor(out, 'mmseg', predict)


def detector(out: Path) -> SimpleNamespace:
    """A predictor that finds each object of one value: its mask, and its class, value modulo 3."""
    from mmdet.structures import DetDataSample

    def predict(pixels: np.ndarray) -> DetDataSample:
        values = pixels[..., 0]
        objects = [values == value for value in np.unique(values) if value]
        boxes = []
        for mask in objects:
            y, x = mask.nonzero()
            boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
        instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            scores=torch.full((len(objects),), 0.9),
            labels=torch.tensor([int(v) % 3 for v in np.unique(values) if v], dtype=torch.int64),
            masks=torch.from_numpy(np.array(objects).reshape(-1, *values.shape)),
        )
        return DetDataSample(pred_instances=instances)

    return _predictor(out, 'mmdet', predict)


def _predictor(out: Path, task: str, predict: Callable) -> SimpleNamespace:
    (out / 'label_maps').mkdir(parents=True, exist_ok=True)
    return SimpleNamespace(
        task=task, out=out, predict=predict, classes=CLASSES, score_thr=0.5, reading={}
    )
