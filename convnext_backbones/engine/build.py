"""Build a config's model: with trained weights, or on the meta device."""

from __future__ import annotations

from copy import deepcopy

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
    """Weights take neither memory nor time; what constructors compute stays a number.

    Under ``torch.device('meta')`` a drop rate or an anchor is no number either, and mmdet's Swin
    cannot be built.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get('device') is None:
            kwargs['device'] = 'meta'
        return func(*args, **kwargs)


def build_on_meta(cfg: Config) -> nn.Module:
    """The model of a detection or segmentation config on the meta device, in evaluation mode."""
    read_files_safely()  # a model may load class weights
    with DefaultScope.overwrite_default_scope(cfg.default_scope), WeightsOnMeta():
        model = MODELS.build(deepcopy(cfg.model))
    model.eval()  # SyncBN asks for a GPU in training
    return model.to('meta')


def load_trained(model: nn.Module, checkpoint: str, strict: bool = True) -> None:
    """Fill a detector or a segmentor with trained weights; a ConvNeXt's must fit entirely.

    Args:
        model: What a config builds; wrappers of DDP and of test-time augmentation are looked
            through.
        checkpoint: The name of published weights, a file or a URL; read weights-only. With a
            backbone that is not of this package a file, of which mmengine takes what fits.
        strict: Whether what does not fit is an error, or a warning.

    Raises:
        FileNotFoundError: There is no such name or file.
        ValueError: The weights cannot be read, would execute code, or do not fit.
    """
    while hasattr(model, 'module'):
        model = model.module
    if isinstance(getattr(model, 'backbone', None), ConvNeXt):
        print_log(str(load_weights(model, checkpoint, strict=strict)), logger='current')
    else:
        check_file(checkpoint, 'a checkpoint')
        load_checkpoint(model, checkpoint, map_location='cpu')


def build_model(cfg: Config, checkpoint: str, device: str) -> nn.Module:
    """The detector or segmentor of ``cfg`` in evaluation mode, with trained weights.

    It serves mmdet's ``inference_detector`` or mmseg's ``inference_model``. Its
    ``dataset_meta``, names and colors of the classes, is the checkpoint's, or else that of the
    config's test data.

    Args:
        cfg: A detection or segmentation config.
        checkpoint: As in :func:`load_trained`.
        device: Where the model goes.

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
    load_trained(model, checkpoint)
    trained = entry_at(read_checkpoint(weights_file(checkpoint), mmap=True), 'meta.dataset_meta')
    model.dataset_meta = {**dataset.metainfo, **(trained if isinstance(trained, dict) else {})}
    model.cfg = cfg
    return model.to(device).eval()
