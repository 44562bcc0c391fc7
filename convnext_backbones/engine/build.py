"""Build the model of a config: with trained weights, or on the meta device."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope, init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn
from torch.overrides import TorchFunctionMode

from ..config.errors import config_errors
from ..config.walk import entry_at
from ..io.checkpoint import read_checkpoint
from ..io.files import check_file
from ..io.mmengine_patches import read_files_safely
from ..models.convnext import ConvNeXt
from ..weights.loading import load_weights
from ..weights.zoo import weights_file
from .hardware import adapt_to_hardware


class WeightsOnMeta(TorchFunctionMode):
    """Create weights on the meta device, where they need neither memory nor time.

    Only ``torch.empty`` is redirected, so values that constructors compute stay numbers. Under
    ``torch.device('meta')`` drop rates and anchors have no values either, and mmdet's Swin cannot
    be built.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get('device') is None:
            kwargs['device'] = 'meta'
        return func(*args, **kwargs)


def build_on_meta(cfg: Config) -> nn.Module:
    """Return the model of a config on the meta device, in evaluation mode."""
    read_files_safely()  # a model may load class weights
    with DefaultScope.overwrite_default_scope(cfg.default_scope), WeightsOnMeta():
        model = MODELS.build(deepcopy(cfg.model))
    model.eval()  # SyncBN asks for a GPU in training
    return model.to('meta')


def load_trained(model: nn.Module, checkpoint: str, strict: bool = True) -> None:
    """Load trained weights into a detector or a segmentor.

    With a ConvNeXt backbone of this package all weights must fit. With another backbone mmengine
    loads those that fit.

    Args:
        model: A model built from a config, possibly wrapped for DDP or test-time augmentation.
        checkpoint: Name of published weights, a file or a URL; read weights-only. A file for other
            backbones.
        strict: Raise an error for weights that do not fit; otherwise log a warning.

    Raises:
        FileNotFoundError: There is no such name or file.
        ValueError: The weights cannot be read, would execute code, or do not fit.
    """
    while isinstance(inner := getattr(model, 'module', None), nn.Module):
        model = inner
    if isinstance(getattr(model, 'backbone', None), ConvNeXt):
        print_log(str(load_weights(model, checkpoint, strict=strict)), logger='current')
    else:
        check_file(checkpoint, 'a checkpoint')
        load_checkpoint(model, checkpoint, map_location='cpu')


def build_model(cfg: Config, checkpoint: str | None, device: str) -> nn.Module:
    """Return the detector or segmentor of ``cfg`` in evaluation mode, with trained weights.

    The model works with mmdet's ``inference_detector`` and mmseg's ``inference_model``. Its
    ``dataset_meta``, names and colors of the classes, comes from the checkpoint, or else from the
    config's test data.

    Args:
        cfg: A detection or segmentation config; changed in place on a machine without a GPU.
        checkpoint: As in :func:`load_trained`; None leaves the weights as they are initialized.
        device: Where the model is placed.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The config does not make a model; or the checkpoint cannot be read, would
            execute code, or does not fit.
    """
    with config_errors():
        adapt_to_hardware(cfg)
        read_files_safely()
        init_default_scope(cfg.default_scope)
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True))
    model.dataset_meta = {**dataset.metainfo}
    if checkpoint is not None:
        load_trained(model, checkpoint)
        contents = read_checkpoint(weights_file(checkpoint), mmap=True)
        trained = entry_at(contents, 'meta.dataset_meta')
        model.dataset_meta.update(trained if isinstance(trained, dict) else {})
    model.cfg = cfg
    return model.to(device).eval()
