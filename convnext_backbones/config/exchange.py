"""Put this package's ConvNeXt into any config of mmdet or mmseg."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..models.arguments import normalize_out_indices
from ..models.variants import DEFAULT_VARIANT, resolve_variant
from ..weights.published import find_published, preprocessing
from ..weights.rows import IMAGENET, NORMALIZATIONS
from .exchange_training import drop_path_for, recipe_for, set_normalization, set_optimizer
from .foreign_backbones import (
    KEPT,
    is_dilated,
    is_mmpretrains,
    is_ours,
    kind_of,
    stages_of,
    translate_mmpretrain,
)
from .maps import follow_backbone, leaves_a_map_unread
from .walk import walk

PACKAGE = 'convnext_backbones'
# With this config of a text encoder a model is of use only with the weights that it came with.
TEXT = 'it compares images with texts, and its backbone was trained together with a text encoder'
REFUSED: dict[str, str] = {
    **dict.fromkeys(('GLIP', 'GroundingDINO', 'MultimodalEncoderDecoder'), TEXT),
    'Detectron2Wrapper': 'its model is built by detectron2',
    'ImageClassifier': 'it is a classifier, which reads no pyramid of maps',
    'BaseReID': 'it tells persons apart by one vector of an image, not by a pyramid of maps',
    'DepthEstimator': 'its backbone is a diffusion model',
}
# Parts with a backbone of their own that stays: other networks, trained before.
LEFT = ('reid',)
PRETRAINED = ('Pretrained', 'PretrainedInit')


def with_convnext(
    cfg: Config,
    arch: str | Mapping | None = None,
    *,
    weights: str | None = None,
    lr: float | None = None,
    **options: Any,
) -> Config:
    """Return a copy of a config whose backbone is this package's ConvNeXt.

    The neck and the heads read the same strides as before, and get the channels; what they do not
    read is not made, so that every parameter is trained. A ConvNeXt has no dilation: below heads
    that were made for a dilated ResNet (PSPNet, DeepLabV3) the last map has stride 32 instead of 8.
    Images are normalized as the weights expect. The optimizer becomes AdamW with layer-wise decay,
    which is 1 without weights; an AdamW of the config keeps its rate and its decay.
    ``frozen_stages`` of the old backbone, with which mmdet keeps the batch norms of a ResNet, is
    not taken over: all of the ConvNeXt is trained. What was pretrained and is gone is logged as a
    warning.

    From mmpretrain's ConvNeXt everything is taken over, weights included, unless ``arch`` or
    ``weights`` say otherwise.

    Args:
        cfg: Any config of mmdet or mmseg; it is not changed.
        arch: Name of a size or a dict with ``depths`` and ``dims``. By default that of the weights,
            or else of the ConvNeXt that is there, or else tiny.
        weights: Initial weights of the backbone: a published name, a file or a URL. Published ones
            also set ``use_grn`` and whatever else they need.
        lr: Learning rate of the heads.
        options: Further keywords of :class:`~convnext_backbones.ConvNeXt`.

    Raises:
        ValueError: The model takes no pyramid of maps; or ``arch`` and ``weights`` do not agree.
    """
    changed, notes = exchange(cfg, arch, weights=weights, lr=lr, **options)
    if notes:
        text = f'ConvNeXt in {kind_of(changed.model)}: {"; ".join(notes)}.'
        print_log(text, logger='current', level=logging.WARNING)
    return changed


def exchange(
    cfg: Config,
    arch: str | Mapping | None = None,
    *,
    weights: str | None = None,
    lr: float | None = None,
    **options: Any,
) -> tuple[Config, list[str]]:
    """Return what :func:`with_convnext` does, and phrases about what is lost, which it logs.

    Raises:
        ValueError: As :func:`with_convnext`.
    """
    cfg = deepcopy(cfg)
    model = cfg.get('model')
    if not isinstance(model, dict):
        raise ValueError(f'expected a config with a model, got {model!r} in {cfg.filename}')
    if kind_of(model) in REFUSED:
        raise ValueError(f'cannot put a ConvNeXt into {kind_of(model)}: {REFUSED[kind_of(model)]}')
    networks = list(_networks(model))
    if not networks:
        raise ValueError(f'expected a model with a backbone, found none in {kind_of(model)}')
    weights = None if weights is None else os.fspath(weights)
    stays = arch is None and weights is None
    # What our own config, or mmpretrain's, says of its images remains true without new weights.
    is_kept = weights is None and all(
        is_ours(network.backbone) or is_mmpretrains(network.backbone) for network in networks
    )
    notes = [note for network in networks for note in _lost_weights(network, cfg, stays)]
    scope = cfg.get('default_scope', 'mmdet')
    for network in networks:
        notes += _exchange(network, scope, arch, weights, options)
        if leaves_a_map_unread(network):
            cfg.find_unused_parameters = True
            notes.append(
                'the neck does not read the first of its maps: find_unused_parameters is set'
            )
    backbone = networks[0].backbone
    name = weights or (backbone.get('init_cfg') or {}).get('checkpoint')
    set_normalization(cfg, _normalization(name), keep=is_kept)
    recipe = recipe_for(scope, kind_of(model), _size(backbone), name)
    notes += [f'not taken over: {phrase}' for phrase in set_optimizer(cfg, recipe, lr)]
    if name is None:
        if not cfg.get('load_from'):  # nothing is learned yet that slow layers would keep
            cfg.optim_wrapper['paramwise_cfg']['decay_rate'] = 1.0
        notes.append('the backbone starts from random weights, because none are given')
    _set_imports(cfg)
    return cfg, notes


def _networks(model: dict[str, Any]) -> Iterator[Any]:
    """Iterate over the parts of a model that have a backbone: itself, or what it wraps."""
    for path, part in walk(model):
        if isinstance(part.get('backbone'), dict) and not {*LEFT} & {*path.split('.')}:
            yield part


def _exchange(
    network: Any, scope: str, arch: Any, weights: str | None, options: dict[str, Any]
) -> list[str]:
    """Exchange the backbone of a network in place, and return phrases about what changes."""
    old = network.backbone
    notes = []
    if is_dilated(old):
        if scope == 'mmdet':
            raise ValueError(
                f'cannot put a ConvNeXt in the place of a dilated {kind_of(old)}: the anchors are '
                'for its last map at stride 16'
            )
        if 'OCRHead' in str(network.get('decode_head')):
            raise ValueError(
                f'cannot put a ConvNeXt in the place of a dilated {kind_of(old)} below OCRHead, '
                'which needs its two maps at one resolution; take ocrnet_hr18'
            )
        notes.append(
            f'{kind_of(old)} was dilated, and its last map had stride 8 or 16; that of a ConvNeXt '
            'has stride 32'
        )
    new = _backbone(old, scope, arch, weights, options)
    wanted = new.pop('out_indices', None)
    stages = stages_of(old) if wanted is None else [*normalize_out_indices(wanted, 4)]
    new['out_indices'] = tuple(follow_backbone(network, stages, resolve_variant(_size(new)).dims))
    network.backbone = new
    network.pop('pretrained', None)
    return notes


def _backbone(
    old: Any, scope: str, arch: Any, weights: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    """Return the keywords of the new backbone; ``out_indices`` only if the options set it."""
    kept = {key: old[key] for key in KEPT if key in old}
    if is_ours(old):
        kept = {key: value for key, value in old.items() if key not in ('type', 'out_indices')}
        if {'depths', 'dims'} & {*kept}:
            kept['arch'] = _size(kept)
    elif is_mmpretrains(old):
        kept = translate_mmpretrain(old)
    kept.pop('depths', None)
    kept.pop('dims', None)
    if arch is not None or weights is not None:  # nothing of another size or start
        for key in ('arch', 'use_grn', 'layer_scale_init_value', 'norm_eps', 'drop_path_rate'):
            kept.pop(key, None)
        for key in ('stem_type', 'patch_size', 'init_cfg'):
            kept.pop(key, None)
        if weights is None:
            kept.pop('frozen_stages', None)  # random ones must be trained
    published = find_published(weights) if weights else None
    fitting = published.backbone_options() if published else {}
    if arch is not None and 'arch' in fitting:
        if resolve_variant(arch) != resolve_variant(fitting['arch']):
            raise ValueError(
                f'expected arch={fitting["arch"]!r}, the size of {weights!r}, got {arch!r}'
            )
    elif arch is not None:
        fitting['arch'] = arch
    new = dict(type='ConvNeXt', arch=DEFAULT_VARIANT) | kept | fitting | options
    if weights:
        new.setdefault('init_cfg', dict(type='PretrainedConvNeXt', checkpoint=weights))
    new.setdefault('drop_path_rate', drop_path_for(scope, new['arch'], weights))
    new.setdefault('layer_scale_init_value', 0.0 if new.get('use_grn') else 1.0)
    return new


def _size(backbone: Mapping[str, Any]) -> Any:
    """Return the ``arch`` of a ConvNeXt, which may be given in two ways."""
    if {'depths', 'dims'} & {*backbone}:
        variant = resolve_variant(None, backbone.get('depths'), backbone.get('dims'))
        return dict(depths=variant.depths, dims=variant.dims)
    arch = backbone.get('arch', DEFAULT_VARIANT)
    return arch if isinstance(arch, str) else dict(arch)


def _normalization(weights: str | None) -> dict[str, Any]:
    if weights and find_published(weights):
        return preprocessing(weights)
    mean, std = NORMALIZATIONS[IMAGENET]
    return dict(mean=[*mean], std=[*std], bgr_to_rgb=True)


def _lost_weights(network: Any, cfg: Config, stays: bool) -> Iterator[str]:
    """Yield phrases about weights that belong to the old backbone, and forget those of the whole.

    Weights of the backbone go with it. A ConvNeXt keeps all of them if it ``stays`` as it is.
    """
    old = network.backbone
    if stays and (is_ours(old) or is_mmpretrains(old)):
        return
    start = old.get('init_cfg')
    starts = [start] if isinstance(start, dict) else start or []
    names = [one.get('checkpoint') for one in starts if kind_of(one) in PRETRAINED]
    names += [old.get('pretrained'), network.get('pretrained')]
    for name in filter(None, names):
        yield f'the pretrained {kind_of(old)} is gone ({name})'
    whole = network.get('init_cfg')
    if isinstance(whole, dict) and kind_of(whole) in PRETRAINED:
        yield f'its weights of the whole are gone ({whole.get("checkpoint")})'
        network.pop('init_cfg')
    if cfg.get('load_from'):
        yield f'load_from is gone ({cfg.load_from})'
        cfg.load_from = None


def _set_imports(cfg: Config) -> None:
    """Import this package with the config, and mmpretrain only where something still needs it."""
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    names = [imports] if isinstance(imports, str) else list(imports)
    if 'mmpretrain.' not in str(cfg.model):
        names = [name for name in names if not name.startswith('mmpretrain')]
    cfg.custom_imports = dict(
        imports=list(dict.fromkeys([PACKAGE, *names])), allow_failed_imports=False
    )
