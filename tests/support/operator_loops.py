"""Operators that compiled mmcv has for GPUs only, as loops in float64 over their definitions.

The gradients are autograd's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import NamedTuple

import mmcv.ops
import torch
import torch.nn.functional as F
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from torch import Tensor

from support.operator_cases import Tensors, normal, random
from support.operators import with_gradients

DOUBLE = torch.float64


class Case(NamedTuple):
    """An operator and a loop, which get the same arguments."""

    operator: str
    setting: str
    function: Callable[..., Tensor]
    loop: Callable[..., Tensor]
    inputs: Tensors
    differentiable: tuple[str, ...]

    def __str__(self) -> str:
        return f'{self.operator}, {self.setting}'

    def of(self, inputs: Tensors) -> Tensors:
        """The operator's output and gradients."""
        return with_gradients(self.function, inputs, *self.differentiable)

    def run(self, dtype: torch.dtype = DOUBLE) -> Tensors:
        """The same, of the inputs of this case."""
        return self.of(cast(self.inputs, dtype))

    def expected(self, dtype: torch.dtype = DOUBLE) -> Tensors:
        """The loop's, in float64, of inputs that this dtype can represent."""
        inputs = cast(cast(self.inputs, dtype), DOUBLE)
        found = with_gradients(self.loop, inputs, *self.differentiable)
        return {name: tensor.to(dtype) for name, tensor in found.items()}


def cast(inputs: Tensors, dtype: torch.dtype) -> Tensors:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def case(operator: str, function, loop, inputs: Tensors, differentiable, **options) -> Case:
    setting = ', '.join(f'{name} {value}' for name, value in options.items()) or 'plain'
    calls = partial(function, **options), partial(loop, **options)
    return Case(operator, setting, *calls, inputs, differentiable)


# --- RoIPool


def roi_pool(features, rois, size, scale):
    return mmcv.ops.RoIPool(size, scale)(features, rois)


def roi_pool_loop(features, rois, size, scale):
    """The largest value of the pixels that a bin touches; 0 where it touches none."""
    channels, height, width = features.shape[1:]
    bins = []
    for image, x1, y1, x2, y2 in rois.tolist():
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        for row, column in product(range(size), range(size)):
            if x2 <= x1 or y2 <= y1:
                bins.append(features.new_zeros(channels))
                continue
            top, bottom = (y1 + (y2 - y1) / size * (row + i) for i in (0, 1))
            left, right = (x1 + (x2 - x1) / size * (column + i) for i in (0, 1))
            ys = slice(min(max(math.floor(top), 0), height), min(max(math.ceil(bottom), 0), height))
            xs = slice(min(max(math.floor(left), 0), width), min(max(math.ceil(right), 0), width))
            pixels = features[int(image), :, ys, xs].flatten(1)
            bins.append(pixels.max(1)[0] if pixels.numel() else features.new_zeros(channels))
    return torch.stack(bins, 1).view(channels, len(rois), size, size).transpose(0, 1)


def roi_pool_cases() -> Iterator[Case]:
    rois = torch.tensor(
        [
            [0.0, 1, 1.5, 8, 7.25],
            [1, 0, 0, 11, 9],
            [1, 3, 4, 3, 4],  # one pixel
            [0, -6, -5, 5, 6],
            [1, 9, 7, 22, 30],
            [0, 40, 50, 60, 70],  # outside
            [0, -30, -20, -10, -9],
            [1, 8, 8, 5, 9],  # inverted
            [0, 1, 1.5, 8, 7.25],
        ]
    )
    inputs = dict(features=normal(random('roi_pool'), 2, 3, 10, 12), rois=rois)
    for size, scale in ((1, 1.0), (3, 0.5), (7, 0.25), (2, 1.0)):
        calls = roi_pool, roi_pool_loop
        yield case('roi_pool', *calls, inputs, ('features',), size=size, scale=scale)


# --- deformable RoIPool


def deform_roi_pool(features, rois, offset=None, **options):
    return mmcv.ops.DeformRoIPool(**options)(features, rois, offset)


def sample(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The values of (C, H, W) between four pixels; 0 outside."""
    height, width = image.shape[1:]
    if not (0 <= y <= height - 1 and 0 <= x <= width - 1):
        return image.new_zeros(len(image))
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = image[:, top, left] * (1 - x + left) + image[:, top, right] * (x - left)
    lower = image[:, bottom, left] * (1 - x + left) + image[:, bottom, right] * (x - left)
    return upper * (1 - y + top) + lower * (y - top)


def sample_of_rois(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """As RoIAlign has it: the pixels at the edge go on for a pixel."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(len(image))
    return sample(image, y.clamp(0, height - 1), x.clamp(0, width - 1))


def deform_roi_pool_loop(
    features, rois, offset=None, *, output_size, spatial_scale, sampling_ratio, gamma=0.1
):
    channels, height, width = features.shape[1:]
    rows, columns = output_size
    bins = []
    for number, (image, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (corner * spatial_scale - 0.5 for corner in corners)
        roi_height, roi_width = y2 - y1, x2 - x1
        bin_height, bin_width = roi_height / rows, roi_width / columns
        points_y = sampling_ratio or math.ceil(bin_height)
        points_x = sampling_ratio or math.ceil(bin_width)
        for row, column in product(range(rows), range(columns)):
            shift_x = shift_y = 0
            if offset is not None:
                shift_x = gamma * roi_width * offset[number, 0, row, column]
                shift_y = gamma * roi_height * offset[number, 1, row, column]
            total = features.new_zeros(channels)
            for i, j in product(range(points_y), range(points_x)):
                y = y1 + shift_y + (row + (i + 0.5) / points_y) * bin_height
                x = x1 + shift_x + (column + (j + 0.5) / points_x) * bin_width
                total = total + sample_of_rois(features[int(image)], y, x)
            bins.append(total / max(points_y * points_x, 1))
    return torch.stack(bins, 1).view(channels, len(rois), rows, columns).transpose(0, 1)


def deform_roi_pool_cases() -> Iterator[Case]:
    numbers = random('deform_roi_pool')
    features = normal(numbers, 2, 3, 9, 10)
    inside = torch.tensor([[0.0, 3, 3, 8.5, 9], [1, 4, 4, 12, 11.5], [1, 4, 5, 4.5, 5.25]])
    outside = torch.tensor([[0.0, -6, -5, 5, 6], [1, 12, 9, 30, 26], [0, 40, 50, 60, 70]])
    outside = torch.cat([outside, torch.tensor([[1.0, 5, 5, 5, 5], [1, 8, 8, 5, 9]])])
    offset = normal(numbers, 3, 2, 2, 3, scale=0.5)
    calls = deform_roi_pool, deform_roi_pool_loop
    for ratio in (0, 2):
        options = dict(output_size=(2, 3), spatial_scale=0.5 + ratio / 8, sampling_ratio=ratio)
        inputs = dict(features=features, rois=inside, offset=offset)
        both = ('features', 'offset')
        # Outside, where values are constant, mmcv's gradient of an offset is not 0.
        yield case('deform_roi_pool', *calls, inputs, both, **options, gamma=0.1)
        inputs = dict(features=features, rois=inside)
        yield case('deform_roi_pool', *calls, inputs, ('features',), **options)
        inputs = dict(features=features, rois=outside, offset=normal(numbers, 5, 2, 2, 3))
        yield case('deform_roi_pool', *calls, inputs, ('features',), **options, gamma=0.2)


# --- deformable attention

LEVELS = ((6, 5), (3, 4), (1, 2))


def deform_attention(value, locations, weights):
    shapes = torch.tensor(LEVELS)
    sizes = shapes.prod(1)
    first = sizes.cumsum(0) - sizes
    return MultiScaleDeformableAttnFunction.apply(value, shapes, first, locations, weights, 64)


def deform_attention_loop(value, locations, weights):
    levels = value.split([height * width for height, width in LEVELS], 1)
    samples, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    found = []
    for n, query, head in product(range(samples), range(queries), range(heads)):
        total = value.new_zeros(channels)
        for level, (height, width) in enumerate(LEVELS):
            image = F.pad(levels[level][n, :, head].T.view(channels, height, width), (1, 1, 1, 1))
            for point in range(points):
                x, y = locations[n, query, head, level, point] * torch.tensor([width, height])
                # Pixels have their values at their centers, and zeros around them.
                part = sample(image, y + 0.5, x + 0.5)
                total = total + part * weights[n, query, head, level, point]
        found.append(total)
    return torch.stack(found).view(samples, queries, heads * channels)


def deform_attention_cases() -> Iterator[Case]:
    numbers = random('deform_attention')
    heads, points, queries = 2, 2, 4
    shape = (2, queries, heads, len(LEVELS), points)
    inputs = dict(
        value=normal(numbers, 2, sum(h * w for h, w in LEVELS), heads, 3),
        locations=torch.from_numpy(numbers.uniform(-0.3, 1.3, (*shape, 2))).float(),
        weights=normal(numbers, *shape).softmax(-1),
    )
    yield case('deform_attention', deform_attention, deform_attention_loop, inputs, (*inputs,))


# --- focal losses


def sigmoid_focal_loss(x, target, weight=None, gamma=2.0, alpha=0.25, reduction='mean'):
    return mmcv.ops.sigmoid_focal_loss(x, target, gamma, alpha, weight, reduction)


def sigmoid_focal_loss_loop(x, target, weight=None, gamma=2.0, alpha=0.25, reduction='mean'):
    rows = []
    for scores, label in zip(x, target.tolist(), strict=True):
        row = []
        for place, score in enumerate(scores):
            p = 1 / (1 + (-score).exp())
            hit = place == label
            right, share = (p, alpha) if hit else (1 - p, 1 - alpha)
            loss = -share * (1 - right) ** gamma * right.clamp(min=2**-126).log()
            row.append(loss if weight is None else loss * weight[label])
        rows.append(torch.stack(row))
    return reduced(torch.stack(rows), reduction)


def softmax_focal_loss(x, target, weight=None, gamma=2.0, alpha=0.25, reduction='mean'):
    return mmcv.ops.softmax_focal_loss(x, target, gamma, alpha, weight, reduction)


def softmax_focal_loss_loop(x, target, weight=None, gamma=2.0, alpha=0.25, reduction='mean'):
    losses = []
    for scores, label in zip(x, target.tolist(), strict=True):
        p = scores.softmax(0)[label]
        loss = -alpha * (1 - p) ** gamma * p.log() if label >= 0 else 0 * p
        losses.append(loss if weight is None else loss * weight[label])
    return reduced(torch.stack(losses), reduction)


def reduced(losses: Tensor, reduction: str) -> Tensor:
    total = losses if reduction == 'none' else losses.sum()
    return total / len(losses) if reduction == 'mean' else total


def focal_loss_cases() -> Iterator[Case]:
    numbers = random('focal_loss')
    x = normal(numbers, 9, 4, scale=3)
    weight = normal(numbers, 4).abs()
    labels = torch.from_numpy(numbers.randint(0, 4, 9))
    background = labels.clone()
    background[[1, 5]] = 4  # of none of the classes
    ignored = labels.clone()
    ignored[[1, 5]] = -1
    sigmoid = 'sigmoid_focal_loss', sigmoid_focal_loss, sigmoid_focal_loss_loop
    softmax = 'softmax_focal_loss', softmax_focal_loss, softmax_focal_loss_loop
    for calls, others in ((sigmoid, background), (softmax, ignored)):
        inputs = dict(x=x, target=others)
        for gamma, alpha in ((2.0, 0.25), (1.5, 0.6), (1.0, 0.5)):
            yield case(*calls, inputs, ('x',), gamma=gamma, alpha=alpha)
        for reduction in ('mean', 'sum'):
            weighted = dict(x=x, target=labels, weight=weight)
            yield case(*calls, weighted, ('x',), reduction=reduction)
    # A gradient for every element.
    inputs = dict(x=x, target=background)
    yield case(*sigmoid, inputs, ('x',), reduction='none')


# --- CARAFE


def carafe(features, masks, **options):
    return mmcv.ops.CARAFE(**options)(features, masks)


def carafe_naive(features, masks, **options):
    return mmcv.ops.CARAFENaive(**options)(features, masks)


def carafe_loop(features, masks, kernel_size, group_size, scale_factor):
    samples, channels, height, width = features.shape
    reach = kernel_size // 2
    padded = F.pad(features, (reach,) * 4)
    pixels = []
    places = product(range(samples), range(channels), range(height * scale_factor))
    for (n, channel, y), x in product(places, range(width * scale_factor)):
        top, left = y // scale_factor, x // scale_factor
        window = padded[n, channel, top : top + kernel_size, left : left + kernel_size]
        group = channel * group_size // channels
        kernel = masks[n].view(group_size, kernel_size, kernel_size, *masks.shape[2:])
        pixels.append((window * kernel[group, :, :, y, x]).sum())
    return torch.stack(pixels).view(samples, channels, height * scale_factor, -1)


def carafe_cases() -> Iterator[Case]:
    for kernel, groups, scale in ((3, 1, 2), (5, 2, 1), (1, 4, 3)):
        numbers = random(f'carafe {kernel}')
        inputs = dict(
            features=normal(numbers, 2, 4, 3, 4),
            masks=normal(numbers, 2, groups * kernel**2, 3 * scale, 4 * scale),
        )
        options = dict(kernel_size=kernel, group_size=groups, scale_factor=scale)
        yield case('carafe', carafe, carafe_loop, inputs, (*inputs,), **options)


CASES = [
    *roi_pool_cases(),
    *deform_roi_pool_cases(),
    *deform_attention_cases(),
    *focal_loss_cases(),
    *carafe_cases(),
]
