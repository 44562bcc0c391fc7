"""Prepare whole detectors and segmentors, timed from the image to the predictions.

The random weights make a detector find as many objects as it may keep, a hundred by default, so
that boxes and masks are really computed, masks in the size of the image. Segmentors process the
image as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy
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
from ..exporting.folder import Wanted, write_model
from ..exporting.graphs import make_graph
from ..inference.exported import exported_model
from ..inference.tuning import choices_of
from ..io.mmengine_patches import read_files_safely
from ..models.arguments import normalize_out_indices
from ..ops.providers import VARIABLE
from ..weights.layouts import LAYOUTS
from ..weights.names import export
from .case import OUTPUTS, WEIGHTS, Case, State, is_v2, largest_difference, randomize
from .complexity import replace_backbone
from .counting import count_parts, image_for
from .model_inputs import input_reader, write_image
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


def case_config(case: Case) -> Config:
    """Read the config of a case, with queries that the image has places for.

    A two-stage detection transformer takes its queries from the positions of its maps. A small
    image has fewer positions than the usual 900 queries, and would fail.

    Args:
        case: What to compute; it has a config.

    Raises:
        FileNotFoundError, ValueError: See :func:`read_config`.
    """
    assert case.config is not None
    cfg = read_config(case.config)
    if cfg.model.get('as_two_stage') and 'num_queries' in cfg.model:
        model: Any = build_on_meta(cfg)
        with torch.no_grad():
            maps = model.extract_feat(image_for(model.backbone, case.shape))
        positions = sum(map_.shape[2] * map_.shape[3] for map_ in maps)
        cfg.model.num_queries = min(cfg.model.num_queries, positions)
    return cfg


def build_untrained(cfg: Config) -> nn.Module:
    """Build the model of a config; its weights are arbitrary."""
    read_files_safely()
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(deepcopy(cfg.model))  # some models write into their config


def prepare_model(case: Case, folder: Path) -> tuple[nn.Module, list[Tensor], int]:
    """Write the image of a case to ``folder``.

    Returns:
        The plain model, its outputs to compare, and the multiply-adds of a forward pass.
    """
    cfg = case_config(case)
    write_image(case, folder)
    model = randomize(build_untrained(cfg)).eval()
    outputs = compared_outputs(model, input_reader(case, cfg, folder)())
    return model, outputs, sum(part.macs for part in count_parts(build_on_meta(cfg), case.shape))


@torch.no_grad()
def compared_outputs(model: Any, data: dict) -> list[Tensor]:
    """Return the outputs to compare.

    They are the logits of a segmentor; the neck's maps of a detector, and what the encoder of a
    detection transformer makes of them. The boxes are not compared: rounding decides which of them
    survive NMS, and which positions become the queries of a transformer.

    Args:
        model: A detector or segmentor.
        data: Input of its ``test_step``.
    """
    if hasattr(model, 'decode_head'):
        return [model.test_step(data)[0].seg_logits.data]
    batch = model.data_preprocessor(data, False)
    outputs = list(model.extract_feat(batch['inputs']))
    if hasattr(model, 'forward_encoder'):
        encoder_inputs, _ = model.pre_transformer(tuple(outputs), batch['data_samples'])
        outputs.append(model.forward_encoder(**encoder_inputs)['memory'])
    return outputs


def whole_model(
    case: Case,
    folder: Path,
    backbone: str = 'ours',
    optimized: bool = False,
    dtype: torch.dtype | None = None,
    operators: str = '',
    format_: str = '',
) -> Prepared:
    """Prepare ``test_step`` of a detector or a segmentor, with reading the image if it is a file.

    Args:
        case: What to compute; it has a config.
        folder: Folder that :func:`.contenders.prepare` filled.
        backbone: ``ours``, ``mmpretrain``, or ``swin``, which has random weights of its own.
        optimized: Whether to use our form for inference.
        dtype: Data type of that form.
        operators: Provider of mmcv's operators; the best one by default.
        format_: Of :data:`~convnext_backbones.inference.exported.FILES`, to export the model to.
    """
    if operators:
        os.environ[VARIABLE] = operators
    cfg = case_config(case)
    read = input_reader(case, cfg, folder)
    state = load_file(folder / WEIGHTS)
    stages = normalize_out_indices(cfg.model.backbone.get('out_indices', OUTPUTS), len(OUTPUTS))
    measures: dict[str, Callable[[], Any]] = {}
    if backbone == 'mmpretrain':
        import_mmpretrain()
        ours = _without_prefix(state)
        cfg.model.backbone = mmpretrain_backbone(case.arch, is_v2(ours), stages)
        rest = {key: x for key, x in state.items() if not key.startswith(BACKBONE_PREFIX)}
        state = {**rest, **export(ours, LAYOUTS['mmpretrain'], inside=True)[0]}
    elif backbone == 'swin':
        cfg = replace_backbone(cfg, swin_backbone(case.arch, stages))
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

    if format_:
        model = _exported(model, format_, folder / f'exported_{format_}')

    @torch.no_grad()
    def run() -> Any:
        return model.test_step(read())

    measures['choices'] = lambda: choices_of(model)
    if cfg.default_scope == 'mmdet':
        measures['detections'] = lambda: len(run()[0].pred_instances)
    if backbone != 'swin' and not (format_ and cfg.default_scope == 'mmdet'):
        measures['difference'] = lambda: largest_difference(compared_outputs(model, read()), folder)
    return Prepared(run, measures)


def _exported(model: nn.Module, format_: str, folder: Path) -> nn.Module:
    folder.mkdir(exist_ok=True)
    write_model(model, make_graph(model, 'model'), Wanted(format_), folder)
    return exported_model(model, folder)


def _without_prefix(state: State) -> State:
    """Return the weights of the backbone under their own names."""
    return {
        key.removeprefix(BACKBONE_PREFIX): x
        for key, x in state.items()
        if key.startswith(BACKBONE_PREFIX)
    }
