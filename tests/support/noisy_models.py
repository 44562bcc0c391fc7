"""What stands in for networks where evaluation is tested.

A detector and a segmentor see the annotations and err at random, the same way every time: their
metrics are neither 0 nor 1. A backbone sees colors, and remembers the sizes of its inputs.
"""

import zlib

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData


def generator(image: str) -> np.random.Generator:
    """Random numbers that depend on the name of the image alone."""
    return np.random.default_rng(zlib.crc32(image.rpartition('/')[2].encode()))


class NoisyModel(BaseModel):
    """Predicts in every mode; it has one parameter, so that there is something to load."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, data_samples, mode='predict'):
        return [self.predict(sample) for sample in data_samples]


@MODELS.register_module()
class NoisyDetector(NoisyModel):
    """Finds every object twice, shifted by some pixels, and confuses a quarter of the classes."""

    def predict(self, sample):
        rng = generator(sample.img_path)
        truth = sample.gt_instances
        boxes = truth.bboxes.tensor.repeat(2, 1)  # (2N, 4)
        masks = truth.masks.to_tensor(torch.bool, 'cpu').repeat(2, 1, 1)  # (2N, H, W)
        labels = truth.labels.repeat(2)
        shifts = rng.integers(-3, 4, (len(labels), 2))
        confused = torch.from_numpy(rng.random(len(labels)) < 0.25)
        moved_boxes = boxes + torch.tensor(np.tile(shifts, 2), dtype=torch.float32) * 1.1
        scores = torch.from_numpy(rng.random(len(labels), dtype=np.float32))
        found = torch.cat([moved_boxes, scores[:, None]], 1)  # (2N, 5), as mmdet's NMS leaves them
        sample.pred_instances = InstanceData(
            bboxes=found[:, :4],
            scores=found[:, 4],
            labels=torch.where(confused, (labels + 1) % 10, labels),
            masks=torch.stack(list(map(moved, masks, shifts.tolist()))),
        )
        return sample


def moved(mask: torch.Tensor, shift: list[int]) -> torch.Tensor:
    """A mask, (H, W), moved by x and y pixels."""
    return mask.roll(shift[::-1], (0, 1))


@MODELS.register_module()
class NoisySegmentor(NoisyModel):
    """Takes some rectangles, and all that is unlabeled, for background."""

    def predict(self, sample):
        labels = noisy_labels(sample.gt_sem_seg.data[0].numpy(), sample.img_path)
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(labels)[None])
        return sample


def noisy_labels(truth: np.ndarray, image: str) -> np.ndarray:
    """What NoisySegmentor makes of the label map of an image, (H, W)."""
    labels = np.where(truth == 255, 0, truth)
    for x, y in generator(image).integers(0, min(truth.shape), (20, 2)):
        labels[y : y + 10, x : x + 16] = 0
    return labels


@MODELS.register_module()
class ColorBackbone(torch.nn.Module):
    """Average colors at stride 8; ``seen`` collects the (height, width) of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        self.seen.append(tuple(x.shape[2:]))
        return (F.avg_pool2d(x, 8),)
