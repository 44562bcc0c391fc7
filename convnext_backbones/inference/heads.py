"""What follows the backbone, faster on CPUs: necks and heads of mmdet and mmseg.

:func:`optimize_heads` gives their modules classes that compute the same from the same parameters:
everything stays in channels_last, batch norm and ReLU are done by the convolutions, 3x3 ones with
half of the multiplications (:mod:`.winograd`), and RoIAlign is a weighted sum of rows. What only
mmseg has is in :mod:`.inference_segmentors`.
"""

from __future__ import annotations

import torch
from mmcv.cnn import ConvModule
from mmcv.ops import RoIAlign
from torch import Tensor, nn

from ..models.layers import HAS_AVX512
from ..ops.winograd import is_covered
from .backbone import InferenceConvNeXt
from .convolutions import InferenceConv2d, InferenceConvModule, InferenceLinear, is_fusible
from .roi_align import InferenceRoIAlign


def optimize_heads(model: nn.Module) -> None:
    """Give neck and heads of a detector or a segmentor their faster classes, in place."""
    faster = {RoIAlign: InferenceRoIAlign} | _faster_segmentation_parts()
    if HAS_AVX512:
        faster[nn.Linear] = InferenceLinear
    operators = [module for module in model.modules() if _is_operator(module)]
    theirs = {part for operator in operators for part in operator.modules()}
    for module in model.modules():
        if type(module) is ConvModule and is_fusible(module):
            module.__class__ = InferenceConvModule
        elif type(module) in faster:
            module.__class__ = faster[type(module)]
        elif module in operators:
            module.register_forward_pre_hook(_contiguous, with_kwargs=True)
        if isinstance(module, InferenceConvNeXt):
            module.maps_channels_last = True
        elif type(module) is nn.Conv2d and module not in theirs:
            module.weight.data = module.weight.contiguous(memory_format=torch.channels_last)
            if is_covered(module):
                module.__class__ = InferenceConv2d


def _is_operator(module: nn.Module) -> bool:
    """Whether ``module`` is mmcv's, or derived from it, and may read memory ignoring strides.

    Its own layers may compute what it reads: they keep their layout, and so that of their inputs.
    """
    return not isinstance(module, InferenceRoIAlign) and any(
        base.__module__.startswith('mmcv.ops.') for base in type(module).__mro__
    )


def _contiguous(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    def contiguous(x: object) -> object:
        return x.contiguous() if isinstance(x, Tensor) else x

    return tuple(map(contiguous, args)), {name: contiguous(x) for name, x in kwargs.items()}


def _faster_segmentation_parts() -> dict[type, type]:
    """The parts of mmseg with a faster class, where mmseg is installed."""
    try:
        from mmseg.models import EncoderDecoder, UPerHead
    except ImportError:
        return {}
    from .segmentors import InferenceEncoderDecoder, InferenceUPerHead

    return {EncoderDecoder: InferenceEncoderDecoder, UPerHead: InferenceUPerHead}
