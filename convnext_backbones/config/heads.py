"""Heads by name: those of this package, and every config of mmdet and mmseg.

A head is everything of a detector or segmentor but the backbone.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config

from .errors import config_errors
from .exchange import exchange
from .toolbox_configs import close_toolbox_names, read_toolbox_config
from .walk import transform_name, walk

PACKAGE = 'convnext_backbones'
# Heads whose configs stand in configs/_base_/models, and whether they need masks.
OWN: dict[str, tuple[str, bool]] = dict(
    mask_rcnn=('mmdet', True),
    mask_rcnn_small=('mmdet', True),
    cascade_mask_rcnn=('mmdet', True),
    upernet=('mmseg', False),
    upernet_small=('mmseg', False),
)
# Short names of heads that are often asked for.
SHORT: dict[str, str] = dict(
    faster_rcnn='mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
    retinanet='mmdet::retinanet/retinanet_r50_fpn_1x_coco',
    fcos='mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
    htc='mmdet::htc/htc-without-semantic_r50_fpn_1x_coco',
    rtmdet='mmdet::rtmdet/rtmdet_l_8xb32-300e_coco',
    rtmdet_ins='mmdet::rtmdet/rtmdet-ins_l_8xb32-300e_coco',
    dino='mmdet::dino/dino-4scale_r50_8xb2-12e_coco',
    mask2former_instance='mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco',
    mask2former_panoptic='mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic',
    mask2former_semantic='mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512',
    pspnet='mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512',
    deeplabv3plus='mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512',
    segformer='mmseg::segformer/segformer_mit-b2_8xb2-160k_ade20k-512x512',
    knet='mmseg::knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512',
)


@dataclass(frozen=True)
class Head:
    """A head, and what its training needs.

    Attributes:
        name: As it was asked for.
        task: ``detection`` or ``segmentation``.
        scope: ``mmdet`` or ``mmseg``.
        needs_masks: Whether objects must have masks.
        needs_semantic_maps: Whether a detector needs label maps besides objects.
        config: Before the backbone is exchanged; for the heads of this package, the model alone.
    """

    name: str
    task: Literal['detection', 'segmentation']
    scope: Literal['mmdet', 'mmseg']
    needs_masks: bool
    needs_semantic_maps: bool
    config: Config


def describe_head(head: str) -> Head:
    """Return a head by name.

    Args:
        head: A name of :data:`OWN`, such as ``mask_rcnn``, or a short one of :data:`SHORT`; a
            config of mmdet or mmseg, such as ``mmdet::dino/dino-4scale_r50_8xb2-12e_coco``; or the
            path of a config file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There is no such head, or its file is no config.
    """
    if head in OWN:
        scope, masks = OWN[head]
        cfg = Config.fromfile(str(_configs() / '_base_' / 'models' / f'{head}.py'))
        cfg.default_scope = scope
        return _described(head, cfg, scope, masks, False)
    name = SHORT.get(head, head)
    if '::' in name:
        cfg = read_toolbox_config(name)
    elif name.endswith('.py'):
        if not Path(name).is_file():
            raise FileNotFoundError(f'expected a config file, found none at {name!r}')
        with config_errors():
            cfg = Config.fromfile(name, import_custom_modules=False)
    else:
        raise ValueError(f'expected the name of a head, got {head!r}; {_hint(head)}')
    scope = cfg.get('default_scope') or name.partition('::')[0]
    if scope not in ('mmdet', 'mmseg') or 'model' not in cfg:
        raise ValueError(f'expected a config of mmdet or mmseg with a model, got {head!r}')
    cfg.default_scope = scope
    loads = _annotations(cfg)
    if not cfg.get('train_dataloader'):  # a model alone
        loads = [(any(path.endswith('mask_head') for path, _ in walk(cfg.model)), False)]
    return _described(
        head,
        cfg,
        scope,
        scope == 'mmdet' and any(masks for masks, _ in loads),
        scope == 'mmdet' and any(maps for _, maps in loads),
    )


def _described(head: str, cfg: Config, scope: Any, masks: bool, maps: bool) -> Head:
    task: Any = 'segmentation' if scope == 'mmseg' else 'detection'
    return Head(head, task, scope, masks, maps, cfg)


def head_settings(
    head: str,
    arch: str | Mapping | None = None,
    *,
    weights: str | None = None,
    lr: float | None = None,
    **options: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the config entries ``model`` and ``optim_wrapper`` of a head over a ConvNeXt.

    They are for a config file whose bases have data and a schedule. Over bases that have a model,
    put ``_delete_=True`` into both. What is lost with the old backbone is not logged: a config is
    read often.

    Args:
        head: As in :func:`describe_head`.
        arch: As in :func:`~convnext_backbones.config.with_convnext`, and so the following.
        weights: Initial weights of the backbone.
        lr: Learning rate of the heads.
        options: Further keywords of the backbone.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There is no such head, or it takes no pyramid of maps.
    """
    cfg, _ = exchange(describe_head(head).config, arch, weights=weights, lr=lr, **options)
    entries = cfg.to_dict()
    return entries['model'], entries['optim_wrapper']


def _annotations(cfg: Config) -> list[tuple[bool, bool]]:
    """Return, for each loader of annotations in training, whether it loads masks and label maps."""
    found = []
    for _, part in walk(cfg.get('train_dataloader')):
        name = transform_name(part) if 'type' in part else ''
        if name.startswith('Load') and 'Annotations' in name:
            panoptic = 'Panoptic' in name
            found.append(
                (bool(part.get('with_mask', panoptic)), bool(part.get('with_seg', panoptic)))
            )
    return found


def _hint(head: str) -> str:
    names = [*OWN, *SHORT]
    close = difflib.get_close_matches(head, names, n=2) or close_toolbox_names(head)
    if close:
        return f'did you mean {" or ".join(map(repr, close))}?'
    return f'known are {", ".join(names)}, and configs such as {SHORT["dino"]!r}'


def _configs() -> Path:
    """Return the folder of this package's configs: in a wheel, or beside the package."""
    root = Path(str(resources.files(PACKAGE)))
    shipped = root / '.mim' / 'configs'
    return shipped if shipped.is_dir() else root.parent / 'configs'
