"""Predict one image at a time, record and draw the result."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import nn

from ..config.walk import pipelines, transform_name
from ..io.drawing import drawable
from ..io.files import write_atomically
from ..io.label_maps import encode_label_map

# Bytes per pixel for the image, its copies and its overlay, measured at 3000 x 3000.
DRAWING = {'mmdet': 140, 'mmseg': 60}
# Above, class names are not drawn: mmseg searches lists of all pixels for a place, which is slow.
MOST_PIXELS_WITH_NAMES = 2048 * 1024


def inference_pipeline(cfg: Config) -> Compose:
    """Return the transforms of the test data, for loaded images without annotations.

    Raises:
        ValueError: The config defines no transforms.
    """
    transforms = next(pipelines(cfg.test_dataloader.dataset), ())
    transforms = [t for t in deepcopy(transforms) if 'Annotations' not in transform_name(t)]
    if not transforms:
        raise ValueError('expected test_dataloader.dataset.pipeline in the config, found none')
    transforms[0]['type'] = f'{cfg.default_scope}.LoadImageFromNDArray'
    return Compose(transforms)


def reading_options(cfg: Config) -> dict[str, Any]:
    """Return how the test data read images: ``flag`` and ``backend`` of ``read_image``."""
    transforms = next(pipelines(cfg.test_dataloader.dataset), ())
    loader = next((t for t in transforms if transform_name(t) == 'LoadImageFromFile'), {})
    names = dict(flag='color_type', backend='imdecode_backend')
    return {name: loader[key] for name, key in names.items() if key in loader}


def available_memory() -> float:
    """Return the free bytes of memory of machine and container; infinite if not known."""
    found = re.search(r'MemAvailable: +(\d+) kB', _text('/proc/meminfo'))
    free = 1024 * int(found[1]) if found else math.inf
    limit = _text('/sys/fs/cgroup/memory.max').strip()
    used = re.search(r'^anon (\d+)$', _text('/sys/fs/cgroup/memory.stat'), re.MULTILINE)
    return min(free, int(limit) - int(used[1])) if used and limit.isdigit() else free


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ''


def detection_record(sample: BaseDataElement, classes: Sequence[str], score_thr: float) -> dict:
    """Return boxes (x1, y1, x2, y2 in pixels), scores, classes and RLE masks of one image."""
    from mmdet.structures.mask import encode_mask_results

    instances = sample.pred_instances[sample.pred_instances.scores >= score_thr].cpu().numpy()
    records = [
        dict(bbox=box.round(2).tolist(), score=round(float(score), 5), category=classes[label])
        for box, score, label in zip(
            instances.bboxes, instances.scores, instances.labels, strict=True
        )
    ]
    if 'masks' in instances:
        for record, rle in zip(records, encode_mask_results(instances.masks), strict=True):
            record['mask'] = dict(size=list(rle['size']), counts=rle['counts'].decode())
    return dict(instances=records)


def segmentation_record(sample: BaseDataElement, classes: Sequence[str], label_map: Path) -> dict:
    """Return the share of pixels of each class that is present, and write the label map."""
    labels = sample.pred_sem_seg.data[0].cpu().numpy()  # (1, H, W) -> (H, W)
    write_atomically(label_map, encode_label_map(labels).tobytes())
    present, counts = np.unique(labels, return_counts=True)
    shares = {classes[i]: round(n / labels.size, 5) for i, n in zip(present, counts, strict=True)}
    return dict(label_map=label_map.name, share=shares)


class Predictor:
    """A model with its visualizer, for one image at a time.

    Args:
        cfg: A detection or segmentation config.
        model: The config's model with trained weights and ``dataset_meta``, such as
            :func:`~convnext_backbones.engine.build.build_model` returns.
        out: Folder to write to, created if it does not exist.
        score_thr: Detections with lower scores are neither drawn nor saved.

    Attributes:
        reading: How images are read, see :func:`reading_options`.

    Raises:
        ValueError: Neither model nor config define class names, or the config defines no pipeline.
    """

    def __init__(self, cfg: Config, model: nn.Module, out: Path, score_thr: float) -> None:
        self.task = cfg.default_scope
        self.model = cast(Any, model)  # mmdet and mmseg have no types
        self.out = out
        self.score_thr = score_thr
        self.pipeline = inference_pipeline(cfg)
        self.reading = reading_options(cfg)
        self.visualizer: Visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None))
        meta = self.model.dataset_meta
        palette = meta.get('palette')
        if isinstance(palette, list):  # lists, if read from JSON; mmdet expects tuples
            palette = [tuple(color) for color in palette]
        self.visualizer.dataset_meta = {**meta, 'palette': palette}
        self.classes: tuple[str, ...] = tuple(meta.get('classes') or ())
        if not self.classes:
            raise ValueError(
                'expected the names of the classes in the checkpoint or in '
                'test_dataloader.dataset.metainfo of the config, found none'
            )
        for folder in ('overlays', 'label_maps') if self.task == 'mmseg' else ('overlays',):
            (out / folder).mkdir(parents=True, exist_ok=True)

    def predict(self, image: np.ndarray) -> BaseDataElement:
        """Return the predictions for an image of shape (H, W, channels), as the config reads it.

        Raises:
            ValueError: The results, which have the size of the image, would not fit into memory;
                or the image is too narrow to be scaled, or has another number of channels.
        """
        height, width = image.shape[:2]
        needed, free = height * width * self.bytes_per_pixel(), available_memory()
        if needed > free:
            raise ValueError(
                f'results for {width} x {height} pixels take at least {needed / 2**30:.1f} GiB, '
                f'and {free / 2**30:.1f} GiB of memory are free; predict in tiles (--tiles), or '
                'scale down'
            )
        self._check_channels(image)
        # Some configs ask mmdet to pack the id.
        try:
            data = self.pipeline(dict(img=image, img_id=0))
        except cv2.error as error:
            raise ValueError(
                f'{width} x {height} pixels cannot be scaled to a size for the network; crop or '
                'pad the image'
            ) from error
        with torch.no_grad():
            return self.model.test_step(pseudo_collate([data]))[0]

    def _check_channels(self, image: np.ndarray) -> None:
        """Refuse what the normalization would broadcast: one channel for several."""
        mean = getattr(getattr(self.model, 'data_preprocessor', None), 'mean', None)
        channels = 1 if image.ndim == 2 else image.shape[2]
        if mean is not None and len(mean) not in (1, channels):
            raise ValueError(
                f'expected an image of {len(mean)} channels, as many as the mean in the config has '
                f'numbers, got {channels}'
            )

    def bytes_per_pixel(self) -> int:
        """Return the least memory per pixel of the results: scores of the classes, or masks."""
        if self.task == 'mmseg':
            return DRAWING[self.task] + 4 * len(self.classes)  # fp32
        settings: Any = self.model.test_cfg or {}
        masks = (settings.get('rcnn') or settings).get('max_per_img', 0)
        return DRAWING[self.task] + (masks if self.model.with_mask else 0)

    def record(self, sample: BaseDataElement, name: str) -> dict:
        """Return the entry of predictions.json for the image ``name``, and write its label map."""
        if self.task == 'mmdet':
            return detection_record(sample, self.classes, self.score_thr)
        return segmentation_record(sample, self.classes, self.out / 'label_maps' / f'{name}.png')

    def draw(self, sample: BaseDataElement, image: np.ndarray, name: str) -> None:
        """Write the overlay of the image ``name``, as PNG if OpenCV cannot write its format."""
        if self.task == 'mmdet':
            options: dict[str, Any] = dict(pred_score_thr=self.score_thr)
        else:
            height, width = image.shape[:2]
            options = dict(with_labels=height * width <= MOST_PIXELS_WITH_NAMES)
            sample = sample.numpy()  # mmseg cannot draw a single pixel from tensors
        file = name if cv2.haveImageWriter(name) else f'{name}.png'
        self.visualizer.add_datasample(
            name=name,
            image=cv2.cvtColor(drawable(image), cv2.COLOR_BGR2RGB),
            data_sample=sample,
            draw_gt=False,
            out_file=str(self.out / 'overlays' / file),
            **options,
        )
