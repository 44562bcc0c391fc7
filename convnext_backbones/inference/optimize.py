"""Entry point of the fast form: copy a network and give its parts their fast classes."""

from __future__ import annotations

import copy
import logging
import sys

import torch
from mmengine.logging import print_log
from torch import nn

from ..models.convnext import ConvNeXt
from .backbone import optimize_backbone
from .fast_form import bf16_is_fast
from .tuning import make_tuner


def optimize_for_inference(
    model: nn.Module, *, dtype: torch.dtype | None = None, tune: str | None = None
) -> nn.Module:
    """Copy a network into a form that is faster on CPUs, and leave the argument as it was.

    The copy has the parameters and state dict of the original, takes inputs of any size, can be
    copied, saved and pickled, and can load other weights. It is in evaluation mode, and its
    parameters require no gradients. Where the fast form does not apply (another device, fp64,
    gradients with respect to the input, autocast, training mode, no oneDNN) it computes as the
    original does.

    Subclasses of ConvNeXt and of its blocks are served as well. Each part gets a fast form only
    where this computes the same: a class that overrides ``forward``, or a layer of another kind,
    computes as before, and the rest is fast.

    Args:
        model: A :class:`ConvNeXt`, or a detector or segmentor of mmdet or mmseg with one; necks
            and heads become faster too, see :mod:`.heads`.
        dtype: ``torch.bfloat16`` computes the backbone in bf16, and layers of necks and heads that
            are faster so. On CPUs without bf16 instructions all stays in fp32, with a warning.
            Inputs, parameters and outputs are fp32 in both cases.
        tune: Whether the first call with maps of a new size measures which way to compute a layer
            is the fastest: ``'auto'`` in a few seconds, and keeps the choice in the user's cache;
            ``'full'`` tries more, torch's compiler too; ``'off'`` measures nothing. By default the
            environment variable ``CONVNEXT_BACKBONES_TUNE``, or ``'auto'``.

    Returns:
        The copy. In fp32 its outputs equal the original's up to rounding.

    Raises:
        TypeError: ``model`` neither is nor contains a ConvNeXt of this package.
        ValueError: Another ``dtype`` or ``tune``.
    """
    tuner = make_tuner(tune)
    if dtype not in (None, torch.float32, torch.bfloat16):
        raise ValueError(f'expected dtype to be torch.float32 or torch.bfloat16, got {dtype}')
    if not any(isinstance(module, ConvNeXt) for module in model.modules()):
        raise TypeError(
            'expected a ConvNeXt of this package, or a detector or segmentor with one, got '
            f'{type(model).__name__}'
        )
    if dtype == torch.bfloat16 and not bf16_is_fast():
        print_log(
            'This CPU has no bf16 instructions: the network stays in fp32, which is faster here.',
            logger='current',
            level=logging.WARNING,
        )
        dtype = None
    model = copy.deepcopy(model)
    model.eval()
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, ConvNeXt):
            optimize_backbone(module, dtype or torch.float32, tuner)
    # Necks and heads are mmcv modules; if mmcv was never imported, there are none.
    if not isinstance(model, ConvNeXt) and 'mmcv' in sys.modules:
        from .heads import optimize_heads

        optimize_heads(model, tuner, dtype or torch.float32)
    return model
