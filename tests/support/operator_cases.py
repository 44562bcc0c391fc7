"""Inputs and settings at which mmcv's operators are compared with compiled mmcv.

The operators here are those that compiled mmcv computes on a CPU. Loops stand for the others, in
``operator_loops``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import NamedTuple

import mmcv.ops
import numpy as np
import torch
from torch import Tensor

from support.operators import TOLERANCES, with_gradients

SINGLE, DOUBLE, HALF, BRAIN = torch.float32, torch.float64, torch.float16, torch.bfloat16
Tensors = dict[str, Tensor]


class Case(NamedTuple):
    """One call. Floating-point inputs get the dtype; cases of a scene share the inputs."""

    operator: str
    scene: str
    setting: str
    call: Callable[..., Tensors]
    dtype: torch.dtype = SINGLE
    times: float = 1.0  # of the tolerance that its dtype has

    def __str__(self) -> str:
        return f'{self.operator}, {self.scene}, {self.setting}, {str(self.dtype)[6:]}'

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.dtype] * self.times

    def run(self, inputs: Mapping[str, Tensor]) -> Tensors:
        given = {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        return self.call(**given)


def random(name: str) -> np.random.RandomState:
    """Numbers that are the same with every version of numpy and torch."""
    return np.random.RandomState(zlib.crc32(name.encode()))


def normal(numbers: np.random.RandomState, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.from_numpy((numbers.standard_normal(shape) * scale).astype(np.float32))


# --- boxes


def crowd(name: str, count: int, size: int = 48) -> Tensor:
    """Boxes at quarters of pixels: one in five is a duplicate, one in ten has no area."""
    numbers = random(name)
    corners = numbers.randint(-16, 4 * size, (count, 2))
    sizes = numbers.randint(1, 2 * size, (count, 2))
    sizes[numbers.rand(count) < 0.1, 0] = 0
    boxes = np.concatenate([corners, corners + sizes], 1)
    again = numbers.rand(count) < 0.2
    boxes[again] = boxes[numbers.randint(0, count, again.sum())]
    return torch.from_numpy(boxes / 4).float()


def scores(name: str, count: int, levels: int = 12) -> Tensor:
    """Of few values, so that many are equal."""
    return torch.from_numpy(random(f'{name} scores').randint(1, levels, count) / levels).float()


def crowded(name: str, count: int) -> Tensors:
    classes = random(f'{name} classes').randint(0, 5, count)
    return dict(
        boxes=crowd(name, count), scores=scores(name, count), idxs=torch.from_numpy(classes)
    )


def rulers() -> Tensors:
    """Boxes whose overlaps are exactly 1/20, 2/20 and so on, with equal scores."""
    ends = torch.arange(1, 21.0)
    boxes = torch.stack([0 * ends, 0 * ends, ends, 0 * ends + 20], 1)
    boxes = torch.cat([boxes, boxes + 40, boxes + torch.tensor([80.0, 0, 80, 0])])
    order = torch.from_numpy(random('rulers').permutation(60))
    return dict(boxes=boxes[order], scores=torch.full((60,), 0.5), idxs=torch.arange(60) % 3)


def nothing() -> Tensors:
    return dict(boxes=torch.zeros(0, 4), scores=torch.zeros(0), idxs=torch.zeros(0).long())


def kept(found: tuple[Tensor, Tensor]) -> Tensors:
    return dict(boxes=found[0], kept=found[1])


def nms(boxes, scores, idxs, **options):
    return dict(kept=mmcv.ops.nms(boxes, scores, **options)[1])


def soft_nms(boxes, scores, idxs, **options):
    return kept(mmcv.ops.soft_nms(boxes, scores, **options))


def batched_nms(boxes, scores, idxs, nms_cfg, **options):
    found, indices = mmcv.ops.batched_nms(boxes, scores, idxs, nms_cfg, **options)
    assert torch.equal(found[:, :4], boxes[indices])
    return dict(scores=found[:, 4], kept=indices)


def nms_match(boxes, scores, idxs, iou_threshold):
    groups = mmcv.ops.nms_match(torch.cat([boxes, scores[:, None]], 1), iou_threshold)
    members = torch.cat([torch.zeros(0).long(), *groups])
    return dict(members=members, sizes=torch.tensor([len(group) for group in groups]).long())


def bbox_overlaps(bboxes1, bboxes2, **options):
    return dict(output=mmcv.ops.bbox_overlaps(bboxes1, bboxes2, **options))


def titled(function: Callable[..., Tensors], **options) -> tuple[str, Callable[..., Tensors]]:
    """A call with its setting in words."""
    return ', '.join(f'{k} {v}' for k, v in options.items()), partial(function, **options)


def box_cases() -> Iterator[Case]:
    for scene in ('crowd', 'rulers', 'nothing'):
        for threshold, offset in product((0.0, 0.3, 0.5, 0.6, 0.7, 1.0), (0, 1)):
            yield Case('nms', scene, *titled(nms, iou_threshold=threshold, offset=offset))
        for options in (dict(score_threshold=0.4), dict(max_num=4)):
            yield Case('nms', scene, *titled(nms, iou_threshold=0.5, **options))
        for method, offset in product(('naive', 'linear', 'gaussian'), (0, 1)):
            options = dict(method=method, offset=offset)
            yield Case('soft_nms', scene, *titled(soft_nms, **options))
        yield Case('soft_nms', scene, *titled(soft_nms, sigma=0.2, min_score=0.3))
        for threshold in (0.3, 0.6):
            yield Case('nms_match', scene, *titled(nms_match, iou_threshold=threshold))
    for scene in ('crowd', 'rulers'):  # mmcv's batched_nms takes the largest coordinate
        for options in (
            dict(nms_cfg=dict(type='nms', iou_threshold=0.5)),
            dict(nms_cfg=dict(type='nms', iou_threshold=0.6), class_agnostic=True),
            dict(nms_cfg=dict(type='nms', iou_threshold=0.6, class_agnostic=True)),
            dict(nms_cfg=dict(type='nms', iou_threshold=0.5, split_thr=20)),
            dict(nms_cfg=dict(type='nms', iou_threshold=0.5, split_thr=20, max_num=5)),
            dict(nms_cfg=dict(type='soft_nms', iou_threshold=0.3)),
            dict(nms_cfg=None),
        ):
            yield Case('batched_nms', scene, *titled(batched_nms, **options))
    for dtype in (SINGLE, DOUBLE, BRAIN):
        for mode, aligned, offset in product(('iou', 'iof'), (False, True), (0, 1)):
            options = dict(mode=mode, aligned=aligned, offset=offset)
            yield Case('bbox_overlaps', 'pairs', *titled(bbox_overlaps, **options), dtype)
    yield Case('bbox_overlaps', 'no pairs', *titled(bbox_overlaps, mode='iou'))


# --- regions


def regions() -> Tensors:
    rois = torch.tensor(
        [
            [0, 1.5, 2.25, 9, 8.5],
            [1, 0, 0, 12, 10],
            [1, 3, 4, 3.5, 4.75],  # smaller than a pixel
            [0, -6, -5, 5, 6],
            [1, 9, 7, 22, 30],
            [0, 40, 50, 60, 70],  # outside
            [0, -30, -20, -10, -9],
            [1, 5, 5, 5, 5],  # of no area
            [0, 1.5, 2.25, 9, 8.5],  # a duplicate
            [0, 11, 9, 12, 10],  # the last pixel
        ]
    )
    return dict(features=normal(random('regions'), 2, 2, 10, 12), rois=rois)


def inverted() -> Tensors:
    rois = torch.tensor([[0, 8.0, 7, 3, 2], [1, 5, 5, 5, 5], [0, 2, 9, 8, 4]])
    return dict(features=regions()['features'][:, :1], rois=rois)


def edges() -> Tensors:
    """Regions whose only sample lies a pixel outside, where there are values, or further."""
    rois = [[0, -2, 3, 0, 5], [0, 11, 3, 13, 5], [0, 3, -2, 5, 0], [1, 3, 9, 5, 11]]
    rois += [[0, -2.25, 3, 0, 5], [0, 11, 3, 13.25, 5], [0, 3, -2.25, 5, 0], [1, 3, 9, 5, 11.25]]
    return dict(features=regions()['features'][:, :1], rois=torch.tensor(rois))


def no_regions() -> Tensors:
    return dict(features=regions()['features'][:, :1], rois=torch.zeros(0, 5))


def roi_align(features, rois, **options):
    layer = mmcv.ops.RoIAlign(**options)
    inputs = dict(features=features, rois=rois)
    return with_gradients(lambda features, rois: layer(features, rois), inputs, 'features')


def region_cases() -> Iterator[Case]:
    for dtype, aligned, ratio in product((SINGLE, DOUBLE, HALF), (True, False), (0, 2)):
        options = dict(output_size=(3, 2), spatial_scale=0.5 + ratio / 4)
        options |= dict(sampling_ratio=ratio, aligned=aligned)
        yield Case('roi_align', 'regions', *titled(roi_align, **options), dtype)
    for options in (
        dict(output_size=7, spatial_scale=0.25, sampling_ratio=0),
        dict(output_size=1, spatial_scale=1.0, sampling_ratio=3),
    ):
        yield Case('roi_align', 'regions', *titled(roi_align, **options))
    options = dict(output_size=1, spatial_scale=1.0, sampling_ratio=1, aligned=False)
    yield Case('roi_align', 'edges', *titled(roi_align, **options))
    for ratio, aligned in ((0, True), (2, False)):
        options = dict(output_size=2, spatial_scale=0.5, sampling_ratio=ratio, aligned=aligned)
        yield Case('roi_align', 'regions', *titled(roi_align, **options, pool_mode='max'))
    options = dict(output_size=3, spatial_scale=1.0, sampling_ratio=2)
    yield Case('roi_align', 'inverted', *titled(roi_align, **options, aligned=False))
    yield Case('roi_align', 'no regions', *titled(roi_align, **options))


# --- convolutions

HEIGHT, WIDTH = 4, 6


def deformed(scale: float, offset_groups: int = 1, groups: int = 1) -> Tensors:
    """Offsets of this scale, in pixels; with 0, as at the start of a training."""
    numbers = random(f'deformed {scale} {offset_groups} {groups}')
    points = 9 * offset_groups
    return dict(
        x=normal(numbers, 2, 4, HEIGHT, WIDTH),
        offset=normal(numbers, 2, 2 * points, HEIGHT, WIDTH, scale=scale),
        mask=normal(numbers, 2, points, HEIGHT, WIDTH),
        weight=normal(numbers, 6, 4 // groups, 3, 3),
        bias=normal(numbers, 6),
    )


def whole_offsets() -> Tensors:
    """Whole pixels, so that points lie on pixels, on the border and just outside."""
    found = deformed(2.0)
    return {**found, 'offset': found['offset'].round()}


def cut(tensor: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
    """Only the values that belong to a position of the output."""
    height, width = (
        (size + 2 * padding - 2 * dilation - 1) // stride + 1 for size in (HEIGHT, WIDTH)
    )
    return tensor[..., :height, :width].contiguous()


def deform_conv(
    x, offset, mask, weight, bias, stride=1, padding=1, dilation=1, groups=1, offset_groups=1
):
    def function(x, offset, weight):
        geometry = (stride, padding, dilation, groups, offset_groups)
        return mmcv.ops.deform_conv2d(x, offset, weight, *geometry)

    inputs = dict(x=x, offset=cut(offset, stride, padding, dilation), weight=weight)
    return with_gradients(function, inputs, *inputs)


def modulated_deform_conv(
    x,
    offset,
    mask,
    weight,
    bias,
    stride=1,
    padding=1,
    dilation=1,
    groups=1,
    offset_groups=1,
    with_bias=True,
):
    def function(x, offset, mask, weight, bias=None):
        geometry = (stride, padding, dilation, groups, offset_groups)
        return mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry)

    offset, mask = (cut(tensor, stride, padding, dilation) for tensor in (offset, mask))
    inputs = dict(x=x, offset=offset, mask=mask, weight=weight)
    inputs |= dict(bias=bias) if with_bias else {}
    return with_gradients(function, inputs, *inputs)


def convolution_cases() -> Iterator[Case]:
    functions = dict(deform_conv=deform_conv, modulated_deform_conv=modulated_deform_conv)
    for operator, function in functions.items():
        for dtype in (SINGLE, DOUBLE, HALF):
            yield Case(operator, 'offsets', *titled(function, padding=1), dtype)
        for options in (dict(stride=2, padding=0), dict(stride=2, dilation=2, padding=2)):
            yield Case(operator, 'offsets', *titled(function, **options))
        yield Case(operator, 'offset groups', *titled(function, offset_groups=2))
        yield Case(operator, 'groups', *titled(function, groups=2, offset_groups=2, stride=2))
        yield Case(operator, 'no offsets', *titled(function, padding=1))
        yield Case(operator, 'whole offsets', *titled(function, padding=1))
    yield Case('modulated_deform_conv', 'offsets', *titled(modulated_deform_conv, with_bias=False))


# --- PSANet's masks


def psa_mask(x, **options):
    return with_gradients(mmcv.ops.PSAMask(**options), dict(input=x), 'input')


def mask_cases() -> Iterator[Case]:
    for dtype in (SINGLE, DOUBLE, HALF, BRAIN):
        for kind in ('collect', 'distribute'):
            options = dict(psa_type=kind, mask_size=(3, 5))
            yield Case('psa_mask', 'window', *titled(psa_mask, **options), dtype)
    for kind in ('collect', 'distribute'):
        options = dict(psa_type=kind, mask_size=(7, 5))
        yield Case('psa_mask', 'window larger than the map', *titled(psa_mask, **options))


SCENES: dict[str, Callable[[], Tensors]] = {
    'crowd': partial(crowded, 'crowd', 70),
    'rulers': rulers,
    'nothing': nothing,
    'pairs': lambda: dict(bboxes1=crowd('pairs', 12), bboxes2=crowd('of pairs', 12)),
    'no pairs': lambda: dict(bboxes1=torch.zeros(0, 4), bboxes2=crowd('no pairs', 3)),
    'regions': regions,
    'edges': edges,
    'inverted': inverted,
    'no regions': no_regions,
    'offsets': partial(deformed, 1.5),
    'offset groups': partial(deformed, 1.5, 2),
    'groups': partial(deformed, 1.5, 2, 2),
    'no offsets': partial(deformed, 0.0),
    'whole offsets': whole_offsets,
    'window': lambda: dict(x=normal(random('window'), 1, 15, 3, 4)),
    'window larger than the map': lambda: dict(x=normal(random('larger'), 1, 35, 3, 3)),
}
CASES = [*box_cases(), *region_cases(), *convolution_cases(), *mask_cases()]
