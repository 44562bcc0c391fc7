"""Miniature detectors whose losses, gradients and detections depend on mmcv's operators.

Their weights, images and objects come from numpy's oldest generator, so that they are the same
everywhere, and no sampler has to choose.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from support.stored_references import stored

CONFIGS = Path(__file__).resolve().parents[2] / 'configs/_base_/models'
DIMS, CHANNELS, CLASSES, SIZE = [8, 16, 24, 32], 16, 3, 64
STEPS = 15
SAMPLED = 8  # values of a tensor that are compared, beside its norm
# Seeds of the weights with which no input of a ReLU is so near to zero that the roundings of
# another processor change its sign, and with it gradients by percents.
SEEDS = dict(mask_rcnn=0, cascade_mask_rcnn=51)


class Case(NamedTuple):
    """What a detector computes, by name."""

    name: str
    run: Callable[[], dict[str, Tensor]]

    def expected(self) -> dict[str, Tensor]:
        """The results with compiled mmcv."""
        return stored('detectors')[self.name]


def config(name: str) -> ConfigDict:
    """A model of the recipes at 8 to 32 channels."""
    model = Config.fromfile(CONFIGS / f'{name}.py').model
    model.backbone.update(arch=dict(depths=[1] * 4, dims=DIMS), drop_path_rate=0.0)
    norm = dict(type='GN', num_groups=4)
    model.neck.update(in_channels=DIMS, out_channels=CHANNELS, norm_cfg=norm)
    model.rpn_head.update(in_channels=CHANNELS, feat_channels=CHANNELS)
    model.rpn_head.anchor_generator.scales = [4]
    heads = model.roi_head
    for extractor in (heads.bbox_roi_extractor, heads.mask_roi_extractor):
        extractor.out_channels = CHANNELS
    sizes = dict(in_channels=CHANNELS, fc_out_channels=32, num_classes=CLASSES)
    if name.startswith('cascade'):
        for head in heads.bbox_head:
            head.update(sizes, conv_out_channels=CHANNELS, num_shared_convs=1, norm_cfg=norm)
    else:
        heads.bbox_head.update(sizes)
    heads.mask_head.update(
        num_convs=1, in_channels=CHANNELS, conv_out_channels=CHANNELS, num_classes=CLASSES
    )
    # All that the samplers are given is fewer than this.
    stages = model.train_cfg.rcnn
    for cfg in (model.train_cfg.rpn, *(stages if isinstance(stages, list) else [stages])):
        cfg.sampler.update(num=8000, pos_fraction=0.5)
    for cfg in (model.train_cfg.rpn_proposal, model.test_cfg.rpn):
        cfg.update(nms_pre=100, max_per_img=40)
    model.test_cfg.rcnn.update(score_thr=0.2, max_per_img=20)
    return model


@torch.no_grad()
def detector(name: str) -> nn.Module:
    """A detector with the same weights everywhere."""
    register_all_modules(init_default_scope=True)
    model = MODELS.build(config(name))
    numbers = np.random.RandomState(SEEDS[name])
    for parameter in model.parameters():
        values = torch.from_numpy(numbers.standard_normal(parameter.shape)).float()
        fan_in = max(parameter[0].numel(), 1) if parameter.dim() > 1 else 0
        parameter.copy_(values * (2 / fan_in) ** 0.5 if fan_in else 1 + 0.1 * values)
    for module in model.modules():
        if getattr(module, 'bias', None) is not None:
            module.bias.sub_(1)
    return model


def batch(seed: int = 1) -> dict:
    """Two images of bright rectangles, and the rectangles."""
    numbers = np.random.RandomState(seed)
    images, samples = [], []
    for count in (3, 2):
        image = numbers.randint(0, 60, (3, SIZE, SIZE)).astype(np.uint8)
        corners = numbers.randint(0, SIZE // 2, (count, 2))
        boxes = np.concatenate([corners, corners + numbers.randint(12, SIZE // 2, (count, 2))], 1)
        labels = numbers.randint(0, CLASSES, count)
        masks = np.zeros((count, SIZE, SIZE), np.uint8)
        for (x1, y1, x2, y2), label, mask in zip(boxes, labels, masks, strict=True):
            mask[y1:y2, x1:x2] = 1
            image[label, y1:y2, x1:x2] += 150
        sample = DetDataSample(metainfo=dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE)))
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0), batch_input_shape=(SIZE, SIZE)))
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(boxes).float(),
            labels=torch.from_numpy(labels),
            masks=BitmapMasks(masks, SIZE, SIZE),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        images.append(torch.from_numpy(image))
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def losses(model: nn.Module) -> tuple[Tensor, Tensor]:
    """The sum of all losses, and each by itself in the order of their names."""
    data = model.data_preprocessor(batch(), True)
    found = model(**data, mode='loss')
    total, each = model.parse_losses(found)
    return total, torch.stack([each[name].detach() for name in sorted(each) if 'loss' in name])


def summary(tensor: Tensor) -> Tensor:
    """The norm of a tensor, and some of its values."""
    flat = tensor.detach().flatten()
    places = torch.linspace(0, len(flat) - 1, SAMPLED).long()
    return torch.cat([flat.norm()[None], flat[places]])


def step(name: str) -> dict[str, Tensor]:
    """Losses, gradients and detections of an untrained detector."""
    model = detector(name).train()
    total, each = losses(model)
    total.backward()
    gradients = [summary(parameter.grad) for parameter in model.parameters()]
    return dict(losses=each, gradients=torch.stack(gradients), **detections(model))


@torch.no_grad()
def detections(model: nn.Module) -> dict[str, Tensor]:
    found = [x.pred_instances for x in model.eval().test_step(batch())]
    masks = torch.cat([x.masks for x in found]).numpy()
    return dict(
        counts=torch.tensor([len(x) for x in found]),
        boxes=torch.cat([x.bboxes for x in found]),
        scores=torch.cat([x.scores for x in found]),
        labels=torch.cat([x.labels for x in found]),
        masks=torch.from_numpy(np.packbits(masks, axis=-1)),
    )


def share_of_pixels(actual: Tensor, expected: Tensor) -> float:
    """The share of pixels in which packed masks differ."""
    return np.unpackbits(np.bitwise_xor(actual.numpy(), expected.numpy())).mean().item()


def training() -> dict[str, Tensor]:
    """The losses of a short training, its weights, and what the trained detector finds."""
    model = detector('mask_rcnn').train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    steps = []
    for _ in range(STEPS):
        total, each = losses(model)
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        steps.append(each)
    weights = torch.stack([summary(parameter) for parameter in model.parameters()])
    model.roi_head.test_cfg.score_thr = 0.02
    return dict(losses=torch.stack(steps), weights=weights, **detections(model))


CASES = [
    Case('mask_rcnn', partial(step, 'mask_rcnn')),
    Case('cascade_mask_rcnn', partial(step, 'cascade_mask_rcnn')),
    Case('training', training),
]
