"""The optimizer of a config whose backbone becomes a ConvNeXt, and what it is normalized with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from ..experiments import EXPERIMENTS, Recipe
from ..models.variants import VARIANTS, resolve_variant
from .foreign_backbones import kind_of
from .walk import walk

CONSTRUCTOR = 'ConvNeXtLayerDecayConstructor'
# mmdet's and mmseg's own, whose rule ours has too.
LAYER_DECAY = 'LearningRateDecayOptimizerConstructor'
DECAY_TYPES = dict(mmdet='layer_wise', mmseg='stage_wise')
# Parts of the names of parameters that other backbones have; and norms, which never decay here.
OTHERS_KEYS = (
    *('absolute_pos_embed', 'relative_position_bias_table', 'pos_block', 'pos_embed', 'cls_token'),
    *('norm', 'backbone'),
)
# What layer-wise decay does anyway.
IMPLIED = ('norm_decay_mult', 'bias_decay_mult', 'bypass_duplicate', 'num_layers')
# Stochastic depth for what is smaller than the paper's models.
SMALL_DROP_PATH = 0.1
PAD = 32  # the stride of the last map


# --- recipes --------------------------------------------------------------------------------


def recipe_for(scope: str, model_type: str, arch: Any, weights: str | None) -> Recipe:
    """Return the published recipe that is nearest to a model.

    Args:
        scope: ``mmdet`` or ``mmseg``.
        model_type: Name of the detector or segmentor.
        arch: As in ConvNeXt.
        weights: Name of the initial weights.
    """
    method = 'UperNet'
    if scope == 'mmdet':
        method = 'Mask R-CNN' if model_type == 'MaskRCNN' else 'Cascade Mask R-CNN'
    task = 'segmentation' if scope == 'mmseg' else 'detection'
    rows = [one for one in EXPERIMENTS.values() if one.task == task]
    size = _nearest(arch)
    ranked = sorted(
        rows,
        key=lambda one: (one.method != method, one.arch != size, one.weights != weights),
    )
    return ranked[0]


def drop_path_for(scope: str, arch: Any, weights: str | None) -> float:
    """Return the stochastic depth for a size."""
    if resolve_variant(arch).dims[-1] < VARIANTS['tiny'].dims[-1]:
        return SMALL_DROP_PATH
    return _by_size(scope, arch, weights).drop_path_rate


def _by_size(scope: str, arch: Any, weights: str | None) -> Recipe:
    """Return the recipe of a method that was trained with all sizes."""
    return recipe_for(scope, '', arch, weights)


def _nearest(arch: Any) -> str:
    """Return the size among the experiments' that is nearest to an ``arch``."""
    variant = resolve_variant(arch)
    sizes = dict.fromkeys(one.arch for one in EXPERIMENTS.values())
    return min(
        sizes,
        key=lambda name: (
            abs(VARIANTS[name].dims[-1] - variant.dims[-1]),
            abs(sum(VARIANTS[name].depths) - sum(variant.depths)),
        ),
    )


# --- the optimizer --------------------------------------------------------------------------


def set_optimizer(cfg: Config, recipe: Recipe, lr: float | None) -> list[str]:
    """Give a config AdamW with layer-wise decay, and return phrases about what is dropped.

    AdamW of the config keeps its rate and decay, which its authors chose for its heads; another
    optimizer becomes that of the recipe. A schedule's lowest rate follows the base rate.

    Args:
        cfg: Changed in place.
        recipe: Where a value is not in the config.
        lr: The learning rate; None for the config's or the recipe's.
    """
    wrapper = dict(cfg.get('optim_wrapper') or _wrapper(recipe))
    old, paramwise = wrapper.get('optimizer') or {}, dict(wrapper.get('paramwise_cfg') or {})
    keeps = kind_of(old) == 'AdamW'
    optimizer: dict[str, Any] = dict(
        type='AdamW', lr=recipe.lr, betas=(0.9, 0.999), weight_decay=0.05
    )
    if keeps:
        optimizer |= old
    if lr is not None:
        optimizer['lr'] = lr
    scope = cfg.get('default_scope', 'mmdet')
    decays = kind_of(dict(type=wrapper.get('constructor'))) in (LAYER_DECAY, CONSTRUCTOR)
    own = {key: paramwise.pop(key) for key in ('decay_rate', 'decay_type') if key in paramwise}
    new = dict(decay_rate=recipe.decay_rate, decay_type=DECAY_TYPES[scope])
    if decays:
        new |= own
    keys = dict(paramwise.pop('custom_keys', None) or {})
    if cfg.model.get('as_two_stage') or kind_of(cfg.model) == 'DINO':
        keys.pop('reference_points', None)  # computed by the encoder, not learned
    custom, dropped = _kept_keys(keys)
    if custom:
        new['custom_keys'] = custom
    dropped += [f'paramwise_cfg.{key}={paramwise[key]}' for key in paramwise if key not in IMPLIED]
    wrapper |= dict(optimizer=optimizer, constructor=CONSTRUCTOR, paramwise_cfg=new)
    cfg.optim_wrapper = wrapper
    _scale_schedule(cfg, optimizer['lr'], old.get('lr'))
    return dropped


def _wrapper(recipe: Recipe) -> dict[str, Any]:
    return dict(type='AmpOptimWrapper' if recipe.amp else 'OptimWrapper')


def _kept_keys(keys: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the custom keys that are about the heads, and phrases about those that are lost."""
    kept, dropped = {}, []
    for key, multipliers in keys.items():
        if key in OTHERS_KEYS or key.startswith('backbone.'):
            continue
        if not {*multipliers} <= {'lr_mult', 'decay_mult'}:
            dropped.append(f'custom_keys[{key!r}]={dict(multipliers)}')
            continue
        kept[key] = dict(multipliers)
    return kept, dropped


def _scale_schedule(cfg: Config, lr: float, old_lr: float | None) -> None:
    """Keep the ratio of a schedule's lowest rate to the base rate."""
    if not old_lr or lr == old_lr:
        return
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]:
        if scheduler.get('eta_min'):
            scheduler['eta_min'] = scheduler['eta_min'] * lr / old_lr


# --- images ---------------------------------------------------------------------------------


def set_normalization(cfg: Config, normalization: dict[str, Any], *, keep: bool = False) -> None:
    """Set mean, std and order of the channels in every data preprocessor; pad detectors' images.

    Args:
        cfg: Changed in place.
        normalization: ``mean``, ``std`` and ``bgr_to_rgb``.
        keep: Whether a data preprocessor that has a mean stays as it is.
    """
    for preprocessor in _preprocessors(cfg):
        if not keep or preprocessor.get('mean') is None:
            preprocessor.update(normalization)
            preprocessor.pop('rgb_to_bgr', None)
        if cfg.get('default_scope', 'mmdet') == 'mmdet':
            preprocessor['pad_size_divisor'] = max(preprocessor.get('pad_size_divisor') or 1, PAD)


def _preprocessors(cfg: Config) -> Iterator[dict[str, Any]]:
    """Iterate over the data preprocessors of a model, without those that wrap another."""
    roots = [cfg.model]
    if 'data_preprocessor' not in cfg.model and cfg.get('data_preprocessor'):
        roots = [dict(data_preprocessor=cfg.data_preprocessor), cfg.model]
    for root in roots:
        for path, part in walk(root):
            named = path.rpartition('.')[2] == 'data_preprocessor'
            if named and 'data_preprocessor' not in part and 'reid' not in path.split('.'):
                yield part
