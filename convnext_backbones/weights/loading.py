"""Load pretrained weights into a model.

``load_weights`` reads a file of any layout of :mod:`.layouts` into a backbone, a classifier, or a
whole detector or segmentor, and returns a report. Weights that do not fit are an error, so that no
training starts from scratch unnoticed.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from ..models.convnext import ConvNeXt, ConvNeXtClassifier
from ..models.roadmap import RoadmapClassifier, RoadmapNet, as_convnext
from .matching import match_weights, unwrap
from .published import find_published
from .reading import read_contents
from .report import LoadReport
from .zoo import weights_file


def load_weights(
    model: nn.Module,
    source: str | os.PathLike,
    *,
    strict: bool = True,
    ema: bool = False,
    prefix: str | None = None,
) -> LoadReport:
    """Fill a model with the weights of a file, and report on every tensor.

    Two kinds of files load without a warning: those that fill the model, and, for a backbone,
    those without output norms, such as a classifier's. ``norm0`` to ``norm3`` then keep their
    initial values, as in the authors' code. The head of a classifier keeps its own, with a warning,
    if the file has another number of classes or no head. Any other file is an error that leaves
    the model untouched, unless ``strict=False``.

    Where the final norm of the file was trained on every position of the last map, as in DINOv3, it
    fills the norm of the last output. A stem for more than three input channels gets the weights of
    R, G and B in turn; one for fewer gets their average, see
    :func:`~convnext_backbones.weights.matching.adapt_stem`. The report has a note on each.

    Args:
        model: A :class:`ConvNeXt`, a :class:`ConvNeXtClassifier`, or a detector or segmentor whose
            ``backbone`` is a ConvNeXt; or a wrapper for distributed training around one of them.
        source: A name of :data:`PUBLISHED`, a file, a folder or repository of the hub, or a URL.
        strict: Whether tensors that do not fit are an error; otherwise they are logged as a
            warning. A file of which nothing fits is always an error.
        ema: Take the averaged weights (``model_ema``) of a training checkpoint.
        prefix: The network to take from a file with several, such as ``'teacher.backbone.'``.

    Returns:
        The outcome for every tensor.

    Raises:
        FileNotFoundError: There is no such name or file.
        TypeError: ``model`` is none of the above.
        ValueError: The file cannot be read, would execute code, holds no ConvNeXt, or does not
            fit.
    """
    published = find_published(os.fspath(source))
    if published is not None and published.obstacle and strict:
        raise ValueError(f'cannot load {os.fspath(source)!r}: {published.obstacle}')
    path = weights_file(source)
    published = published or find_published(os.fspath(path))  # by the file that a folder has
    contents = read_contents(path, ema)
    report, matched = match_weights(model, contents.tensors, path, prefix, published)
    report.layout = contents.form or report.layout
    if report.surprises and strict:
        raise ValueError(
            f'cannot load {report.source!r} ({report.layout} layout) into '
            f'{type(model).__name__}: {"; ".join(report.surprises)}; strict=False loads the '
            f'{len(report.loaded)} tensors that fit'
        )
    if report.surprises or report.notes:
        print_log(str(report), logger='current', level=logging.WARNING)
    target = unwrap(model).state_dict()
    with torch.no_grad():
        for name, tensor in matched.items():
            target[name].copy_(tensor)
    return report


@WEIGHT_INITIALIZERS.register_module()
class PretrainedConvNeXt:
    """Initializer of a backbone: ``init_cfg=dict(type='PretrainedConvNeXt', checkpoint=...)``.

    Nothing is read or downloaded before ``init_weights`` runs, which mmengine's Runner calls at the
    start of training.

    Args:
        checkpoint: As ``source`` in :func:`load_weights`.
        strict: As in :func:`load_weights`; so are the errors.
        ema: As in :func:`load_weights`.
        prefix: As in :func:`load_weights`.
    """

    def __init__(
        self, checkpoint: str, strict: bool = True, ema: bool = False, prefix: str | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.options: dict[str, Any] = dict(strict=strict, ema=ema, prefix=prefix)

    def __call__(self, module: nn.Module) -> None:
        """Fill ``module``, a ConvNeXt or a ConvNeXtClassifier; called by mmengine.

        The last step of the road from ResNet to ConvNeXt is one of them.
        """
        name = type(self).__name__
        network = module
        if isinstance(module, (RoadmapNet, RoadmapClassifier)):
            network = as_convnext(module)
        if not isinstance(network, (ConvNeXt, ConvNeXtClassifier)):
            raise ValueError(
                f'expected {name} in the init_cfg of a ConvNeXt, got it in that of '
                f'{type(module).__name__}, which initializes its parts afterwards; use load_from '
                'for the weights of a whole detector or segmentor'
            )
        if isinstance(module.init_cfg, list) and module.init_cfg[-1]['type'] not in (
            name,
            type(self),
        ):
            raise ValueError(
                f'expected {name} at the end of init_cfg, got '
                f'{module.init_cfg[-1]["type"]!r} there, which would overwrite the weights'
            )
        report = load_weights(network, self.checkpoint, **self.options)
        if not (report.surprises or report.notes):  # with them, it is logged as a warning already
            print_log(str(report), logger='current', level=logging.INFO)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'{name}: load from {self.checkpoint}')
