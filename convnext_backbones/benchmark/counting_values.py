"""Count the transformers of detectors and segmentors that look at the values of tensors.

DETR and its followers, and Mask2Former, compute the sizes of their maps as tensors, which the meta
device cannot read. They run on the CPU instead, with parameters and maps of zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

# Heads that contain a transformer, by the model's name for them.
MASK_HEADS = ('MaskFormerHead', 'Mask2FormerHead')
PLACES = ('panoptic_head', 'decode_head')


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Attributes:
        name: Name of the part.
        params: Number of parameters.
        macs: Multiply-adds for one image.
    """

    name: str
    params: int
    macs: int


def needs_values(model: Any) -> bool:
    """Whether a model is a detection transformer or has the head of MaskFormer or Mask2Former."""
    return hasattr(model, 'forward_transformer') or _mask_head(model) is not None


def _mask_head(model: Any) -> nn.Module | None:
    heads = (getattr(model, place, None) for place in PLACES)
    return next((head for head in heads if type(head).__name__ in MASK_HEADS), None)


def count_with_values(
    model: Any, features: tuple[Tensor, ...], input_shape: tuple[int, int]
) -> list[Part]:
    """Count what follows the neck.

    Args:
        model: On the meta device; afterwards it is on the CPU, with zeros that require no
            gradients.
        features: The maps that its neck, or else its backbone, makes, on the meta device.
        input_shape: Height and width of the image.

    Returns:
        One part, for transformer and heads are one in these models.
    """
    samples = [_sample(input_shape)]
    head = _mask_head(model)
    model.to_empty(device='cpu')
    model.requires_grad_(False)  # torch's counter asks queries that require gradients for a history
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.zero_()
    maps = tuple(torch.zeros(x.shape) for x in features)
    run: Callable[[], Any]
    if head is not None:
        name, run = 'transformer head', lambda: head(maps, samples)
    else:
        name, run = 'transformer', lambda: _run_detr(model, maps, samples)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    operations = counter.get_flop_counts()['Global']
    counted = ('backbone.', 'neck.')
    named = model.named_parameters()
    params = sum(one.numel() for key, one in named if not key.startswith(counted))
    return [Part(name, params, sum(operations.values()) // 2)]


def _run_detr(model: Any, maps: tuple[Tensor, ...], samples: list) -> Any:
    return model.bbox_head(**model.forward_transformer(maps, samples))


def _sample(input_shape: tuple[int, int]) -> Any:
    """Return the description of an image without padding."""
    from mmengine.structures import BaseDataElement

    keys = ('img_shape', 'batch_input_shape', 'ori_shape', 'pad_shape')
    return BaseDataElement(metainfo=dict.fromkeys(keys, input_shape))
