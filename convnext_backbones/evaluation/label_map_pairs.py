"""Read the true and the predicted label maps of test data, one image at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from mmengine.registry import TRANSFORMS

from ..config.walk import type_name, walk


def annotation_loader(pipeline: Sequence[Mapping]) -> Callable[[dict], dict]:
    """Return the LoadAnnotations of a test pipeline, also if test-time augmentation contains it.

    Raises:
        ValueError: The pipeline loads no annotations.
    """
    for _, transform in walk(list(pipeline)):
        if type_name(transform) == 'LoadAnnotations':
            return TRANSFORMS.build(transform)
    raise ValueError("expected LoadAnnotations in the config's test pipeline, found none")


def read_label_maps(
    info: dict, record: Mapping[str, Any], load: Callable[[dict], dict]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the true and the predicted label map of an image.

    Args:
        info: What the dataset knows about the image.
        record: The prediction, as :class:`.predictions.DumpPredictions` keeps it.
        load: From :func:`annotation_loader`.

    Returns:
        Two arrays of shape (H, W), int64 and the unsigned type of the PNG image.

    Raises:
        ValueError: The prediction is damaged or differs in size from its annotation.
    """
    truth = load(info)['gt_seg_map'].astype(np.int64)
    labels = decode_label_map(record)
    if labels is None or labels.shape != truth.shape:
        found = 'a damaged one' if labels is None else f'one of shape {labels.shape}'
        raise ValueError(
            f'expected a label map of shape {truth.shape} for {record["name"]}, got {found}; '
            'evaluate with the config that made the predictions'
        )
    return truth, labels


def decode_label_map(record: Mapping[str, Any]) -> np.ndarray | None:
    """Return the predicted labels of an image, (H, W); None if their PNG image is damaged."""
    return cv2.imdecode(record['labels'].numpy(), cv2.IMREAD_UNCHANGED)
