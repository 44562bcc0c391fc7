"""Faster necks and heads of mmdet and mmseg, for inference on CPUs.

:func:`optimize_heads` gives their modules classes that compute the same from the same parameters:
everything stays in channels_last; convolutions include batch norm and ReLU, and those of 3x3 need
half of the multiplications (:mod:`~convnext_backbones.ops.winograd`); RoIAlign is a weighted sum of
rows. The parts that only mmdet or mmseg has are in :mod:`.detectors` and :mod:`.segmentors`.
"""

from __future__ import annotations

from typing import Any

import mmcv.ops
import torch
from mmcv.cnn import ConvModule
from mmcv.ops import RoIAlign
from torch import Tensor, nn

from ..models.layers import PatchConv2d
from ..ops.winograd import is_covered
from .backbone import InferenceConvNeXt
from .convolutions import InferenceConv2d, InferenceConvModule, InferenceLinear, is_fusible
from .roi_align import InferenceRoIAlign
from .tuning import Tuner, make_tuner

TUNED = (InferenceConv2d, InferenceConvModule, InferenceLinear)
# Parts of mmdet and mmseg that view maps that they, or their layers, made as contiguous ones.
VIEWING = ('CenterNetHead', 'GridHead', 'DCM')


def optimize_heads(
    model: nn.Module, tuner: Tuner | None = None, dtype: torch.dtype = torch.float32
) -> None:
    """Give neck and heads of a detector or a segmentor their faster classes, in place.

    Only modules of exactly the classes that have a faster one are changed, no subclasses.

    Args:
        model: The detector or segmentor.
        tuner: Chooses how layers are computed; by default as ``CONVNEXT_BACKBONES_TUNE`` says.
        dtype: bf16 lets the tuner round products of convolutions and linear layers to it.
    """
    tuner = tuner or make_tuner(None)
    faster: dict[type, type] = {
        RoIAlign: InferenceRoIAlign,
        nn.Linear: InferenceLinear,
        **_faster_detection_parts(),
        **_faster_segmentation_parts(),
    }
    kinds = _operator_classes()
    operators = {module for module in model.modules() if _is_operator(module, kinds)}
    in_operators = {part for operator in operators for part in operator.modules()}
    for module in model.modules():
        if type(module) is ConvModule and is_fusible(module):
            module.__class__ = InferenceConvModule
        elif type(module) in faster:
            module.__class__ = faster[type(module)]
        elif module in operators:
            module.register_forward_pre_hook(_contiguous, with_kwargs=True)
        elif type(module).__name__ in VIEWING:
            for part in (module, *module.children()):
                part.register_forward_hook(_contiguous_output)
        if isinstance(module, InferenceConvNeXt):
            module.maps_channels_last = True
        elif isinstance(module, nn.Conv2d) and _is_plain(module) and module not in in_operators:
            module.weight.data = module.weight.contiguous(memory_format=torch.channels_last)
            if is_covered(module):
                module.__class__ = InferenceConv2d
        if isinstance(module, TUNED):
            module.tuner, module.compute_dtype = tuner, dtype


def _is_plain(module: nn.Conv2d) -> bool:
    """Whether ``module`` is of no subclass but our own."""
    return type(module) in (nn.Conv2d, PatchConv2d)


def _operator_classes() -> tuple[type[nn.Module], ...]:
    """Return the modules that mmcv.ops exports, whichever package implements them.

    torch's own layers are excluded: mmcv.ops may export them, and they respect strides.
    """
    names = getattr(mmcv.ops, '__all__', None) or vars(mmcv.ops)
    exported = (getattr(mmcv.ops, name, None) for name in names)
    return tuple(
        value
        for value in exported
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and value.__module__.partition('.')[0] != 'torch'
    )


def _is_operator(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether ``module`` is an mmcv operator.

    These may ignore strides, so their inputs, and the layers inside them, must stay contiguous.
    """
    return isinstance(module, kinds) and not isinstance(module, InferenceRoIAlign)


def _contiguous(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Pass contiguous tensors on to ``forward``."""

    def contiguous(x: object) -> object:
        return x.contiguous() if isinstance(x, Tensor) else x

    return tuple(map(contiguous, args)), {name: contiguous(x) for name, x in kwargs.items()}


def _contiguous_output(module: nn.Module, args: tuple, output: Any) -> Any:
    """Return contiguous tensors, in the containers that a head returns them in."""
    if isinstance(output, Tensor):
        return output.contiguous()
    if isinstance(output, dict):
        return {key: _contiguous_output(module, args, value) for key, value in output.items()}
    if isinstance(output, (list, tuple)):
        return type(output)(_contiguous_output(module, args, value) for value in output)
    return output


def _faster_detection_parts() -> dict[type, type]:
    """Return the faster classes of mmdet's parts, by the class they replace."""
    try:
        from mmdet.models.dense_heads import RPNHead
        from mmdet.models.necks import FPN
        from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
    except ImportError:
        return {}
    from .detectors import InferenceFPN, InferenceRPNHead, InferenceSingleRoIExtractor

    return {
        FPN: InferenceFPN,
        RPNHead: InferenceRPNHead,
        SingleRoIExtractor: InferenceSingleRoIExtractor,
    }


def _faster_segmentation_parts() -> dict[type, type]:
    """Return the faster classes of mmseg's parts, by the class they replace."""
    try:
        from mmseg.models import EncoderDecoder, UPerHead
    except ImportError:
        return {}
    from .segmentors import InferenceEncoderDecoder, InferenceUPerHead

    return {EncoderDecoder: InferenceEncoderDecoder, UPerHead: InferenceUPerHead}
