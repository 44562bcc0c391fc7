"""Prepare whole detectors and segmentors, timed from the decoded image to the predictions.

The random weights make a detector find as many objects as it may keep, a hundred by default, so
that boxes and masks are really computed, masks in the size of the image. Segmentors process the
image as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from safetensors.torch import load_file
from torch import Tensor, nn

from ..config.loading import load_config
from ..engine.build import build_on_meta
from ..engine.hardware import adapt_to_hardware
from ..inference.tuning import choices_of
from ..io.mmengine_patches import read_files_safely
from ..ops.providers import VARIABLE
from ..weights.layouts import LAYOUTS
from ..weights.names import export
from .case import INPUT, WEIGHTS, Case, State, is_v2, largest_difference, randomize
from .complexity import replace_backbone
from .counting import count_parts
from .peers import import_mmpretrain, mmpretrain_backbone, swin_backbone
from .runtimes import optimize
from .worker import Prepared

BACKBONE_PREFIX = 'backbone.'


def read_config(path: str) -> Config:
    """Read a detection or segmentation config, and set it up for timing.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: The config cannot be read, or its backbone is not our ConvNeXt.
    """
    cfg = load_config(path)
    if cfg.model.backbone.get('type') != 'ConvNeXt':
        raise ValueError(
            "expected a config whose backbone has type='ConvNeXt', got "
            f'{cfg.model.backbone.get("type")!r} in {path!r}'
        )
    cfg.model.backbone.pop('init_cfg', None)
    adapt_to_hardware(cfg)
    if cfg.default_scope == 'mmseg':
        cfg.model.test_cfg = dict(mode='whole')
    return cfg


def build_untrained(cfg: Config) -> nn.Module:
    """Build the model of a config; its weights are arbitrary."""
    read_files_safely()
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


def model_input(cfg: Config, image: Tensor) -> dict:
    """Return the input of ``test_step`` for one image.

    Args:
        cfg: Config of the model.
        image: uint8, (3, H, W).
    """
    if cfg.default_scope == 'mmdet':
        from mmdet.structures import DetDataSample as DataSample
    else:
        from mmseg.structures import SegDataSample as DataSample
    shape = tuple(image.shape[1:])
    metainfo = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, scale_factor=(1.0, 1.0))
    return dict(inputs=[image], data_samples=[DataSample(metainfo=metainfo)])


@torch.no_grad()
def compared_outputs(model: Any, data: dict) -> list[Tensor]:
    """Return the outputs to compare: the logits of a segmentor, the neck's maps of a detector.

    The boxes of a detector are not compared: rounding decides which of them survive NMS.
    """
    if hasattr(model, 'decode_head'):
        return [model.test_step(data)[0].seg_logits.data]
    inputs = model.data_preprocessor(data, False)['inputs']
    return list(model.extract_feat(inputs))


def whole_model(
    case: Case,
    folder: Path,
    backbone: str = 'ours',
    optimized: bool = False,
    dtype: torch.dtype | None = None,
    operators: str = '',
) -> Prepared:
    """Prepare ``test_step`` of a detector or a segmentor.

    Args:
        case: What to compute; it has a config.
        folder: Folder that :func:`.contenders.prepare` filled.
        backbone: ``ours``, ``mmpretrain``, or ``swin``, which has random weights of its own.
        optimized: Whether to use our form for inference.
        dtype: Data type of that form.
        operators: Provider of mmcv's operators; the best one by default.
    """
    if operators:
        os.environ[VARIABLE] = operators
    assert case.config is not None
    cfg = read_config(case.config)
    state = load_file(folder / WEIGHTS)
    images = load_file(folder / INPUT)['images'].clone()
    measures: dict[str, Callable[[], Any]] = {}
    if backbone == 'mmpretrain':
        import_mmpretrain()
        ours = _without_prefix(state)
        cfg.model.backbone = mmpretrain_backbone(case.arch, is_v2(ours))
        rest = {key: x for key, x in state.items() if not key.startswith(BACKBONE_PREFIX)}
        state = {**rest, **export(ours, LAYOUTS['mmpretrain'], inside=True)[0]}
    elif backbone == 'swin':
        cfg = replace_backbone(cfg, swin_backbone(case.arch))
        macs = sum(part.macs for part in count_parts(build_on_meta(cfg), case.shape))
        measures['flops'] = lambda: 2 * macs
    model: Any = build_untrained(cfg)
    if backbone == 'swin':
        randomize(model)
    else:
        model.load_state_dict(state)
    model.eval().requires_grad_(False)
    if optimized:
        model = optimize(model, dtype)
    data = model_input(cfg, images)

    @torch.no_grad()
    def run() -> Any:
        return model.test_step(data)

    measures['choices'] = lambda: choices_of(model)
    if cfg.default_scope == 'mmdet':
        measures['detections'] = lambda: len(run()[0].pred_instances)
    if backbone != 'swin':
        measures['difference'] = lambda: largest_difference(compared_outputs(model, data), folder)
    return Prepared(run, measures)


def _without_prefix(state: State) -> State:
    """Return the weights of the backbone under their own names."""
    return {
        key.removeprefix(BACKBONE_PREFIX): x
        for key, x in state.items()
        if key.startswith(BACKBONE_PREFIX)
    }
