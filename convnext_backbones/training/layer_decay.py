"""Layer-wise learning-rate decay: the authors' rule for detection and segmentation.

Layers near the input of a pretrained backbone train at a lower rate than the heads. The authors
give every parameter a layer id and scale its rate by ``decay_rate ** (id of the heads - id)``.
The number of layers is derived from the backbone: if a config had to state it, a wrong number
would train late blocks above the base rate without any error.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import HOOKS, OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from torch import nn

from ..models.convnext import ConvNeXt
from ..models.layer_ids import count_layers, layer_id

BACKBONE = 'backbone'
DECAY_TYPES = ('layer_wise', 'stage_wise')
PARAMWISE_KEYS = ('decay_rate', 'decay_type', 'custom_keys')
MULTIPLIERS = ('lr_mult', 'decay_mult')


@dataclass
class Group:
    """Parameters with the same layer, weight decay and custom multipliers."""

    lr_scale: float
    weight_decay: float
    names: list[str] = field(default_factory=list)
    params: list[nn.Parameter] = field(default_factory=list)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ConvNeXtLayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Builder of the optimizer of the authors' downstream experiments, for mmdet and mmseg.

    ``optim_wrapper=dict(constructor='ConvNeXtLayerDecayConstructor', paramwise_cfg=...)`` with

    - ``decay_rate``: the factor from one layer to the one below, in (0, 1];
    - ``decay_type``: ``layer_wise`` (default; detection) or ``stage_wise`` (segmentation);
    - ``custom_keys``: as in mmengine: the longest key that is part of a parameter's name
      multiplies its rate by ``lr_mult`` and its weight decay by ``decay_mult``.

    Vectors and biases (norms, ``gamma``) have no weight decay. Frozen parameters are skipped.
    The backbone may be of a subclass of this package's ConvNeXt, and in a model that wraps a
    detector, for tracking or with a teacher.
    The groups, their order and their scales are those of mmdet's and mmseg's
    ``LearningRateDecayOptimizerConstructor`` with the authors' ``num_layers``.

    Raises:
        ValueError: An option is missing, unknown or out of range; the model's ``backbone``, or that
            of what it wraps, is not this package's ConvNeXt; no rule covers a backbone parameter; a
            custom key matches nothing.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        cfg = self.paramwise_cfg
        unknown = sorted(map(str, set(cfg) - set(PARAMWISE_KEYS)))
        if unknown:
            raise ValueError(
                f'expected paramwise_cfg to hold only {", ".join(PARAMWISE_KEYS)}, got '
                f'{", ".join(unknown)}; num_layers is derived from the backbone'
            )
        rate = cfg.get('decay_rate')
        if not _is_number(rate) or not 0 < rate <= 1:
            raise ValueError(f'expected paramwise_cfg.decay_rate in (0, 1], got {rate!r}')
        if cfg.get('decay_type', DECAY_TYPES[0]) not in DECAY_TYPES:
            raise ValueError(
                f'expected paramwise_cfg.decay_type to be one of {", ".join(DECAY_TYPES)}, got '
                f'{cfg["decay_type"]!r}'
            )
        for key, multipliers in cfg.get('custom_keys', {}).items():
            if not isinstance(multipliers, dict) or not all(
                name in MULTIPLIERS and _is_number(value) for name, value in multipliers.items()
            ):
                raise ValueError(
                    f'expected custom_keys[{key!r}] to hold numbers as {" and ".join(MULTIPLIERS)} '
                    f'only, got {multipliers!r}'
                )
        for name in ('lr', 'weight_decay'):
            if not _is_number(value := self.optimizer_cfg.get(name)):
                raise ValueError(
                    f'expected optimizer.{name} to be set to a number for layer-wise decay, got '
                    f'{value!r}'
                )

    def add_params(self, params: list[dict], module: nn.Module, **kwargs: Any) -> None:
        """Append the parameter groups of ``module``, a detector or segmentor, to ``params``."""
        groups = self._group(module, _find_backbones(module))
        for name, group in groups.items():
            params.append(
                dict(
                    params=group.params,
                    lr=self.base_lr * group.lr_scale,
                    lr_scale=group.lr_scale,
                    weight_decay=group.weight_decay,
                    group_name=name,
                    param_names=group.names,
                )
            )
        print_log(f'Parameter groups of the optimizer:\n{_table(groups)}', logger='current')

    def _group(self, module: nn.Module, backbones: dict[str, int]) -> dict[str, Group]:
        num_layers = max(backbones.values())
        decay_type = self.paramwise_cfg.get('decay_type', DECAY_TYPES[0])
        custom_keys = self.paramwise_cfg.get('custom_keys', {})
        unmatched = set(custom_keys)
        groups: dict[str, Group] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            prefix = next(filter(name.startswith, backbones), None)
            if prefix is None:
                layer = num_layers + 1
            else:
                layer = layer_id(name.removeprefix(prefix), num_layers, decay_type)
            decays = param.dim() > 1 and not name.endswith('.bias')
            matches = [key for key in custom_keys if key in name]
            unmatched.difference_update(matches)
            # The longest match wins; among equally long ones, the first in alphabetical order.
            custom = min(matches, key=lambda key: (-len(key), key), default=None)
            group_name = f'layer_{layer}_{"decay" if decays else "no_decay"}'
            if custom is not None:
                group_name += f'_{custom}'
            if group_name not in groups:
                multipliers = custom_keys.get(custom, {})
                scale = self.paramwise_cfg['decay_rate'] ** (num_layers + 1 - layer)
                groups[group_name] = Group(
                    lr_scale=scale * multipliers.get('lr_mult', 1),
                    weight_decay=self.base_wd * multipliers.get('decay_mult', 1) if decays else 0.0,
                )
            groups[group_name].names.append(name)
            groups[group_name].params.append(param)
        if unmatched:
            raise ValueError(
                f'expected every custom key to be part of a trained parameter name, got '
                f'{", ".join(sorted(unmatched))}, which match none'
            )
        return groups


def _find_backbones(module: nn.Module) -> dict[str, int]:
    """Return the prefix of the parameters of each ConvNeXt, and its number of layers.

    It is the model's ``backbone``, or stands in a detector that the model wraps: for tracking, or
    as a teacher and its student.
    """
    backbone = getattr(module, 'backbone', None)
    found = {
        f'{name}.': count_layers(part.variant.depths)
        for name, part in module.named_modules()
        if isinstance(part, ConvNeXt)
    }
    if isinstance(backbone, ConvNeXt) and f'{BACKBONE}.' in found:
        return {f'{BACKBONE}.': found[f'{BACKBONE}.']}
    if backbone is not None or not found:
        raise ValueError(
            "expected a model whose backbone is this package's ConvNeXt, got "
            f'{type(backbone).__name__} in {type(module).__name__}'
        )
    if len({*found.values()}) > 1:
        raise ValueError(
            f'expected backbones of one size for layer-wise decay, got {", ".join(found)} with '
            f'{", ".join(map(str, found.values()))} layers'
        )
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _table(groups: dict[str, Group]) -> str:
    table = Table('group', 'tensors', 'parameters', 'lr scale', 'weight decay')
    for name, group in groups.items():
        table.add_row(
            name,
            str(len(group.params)),
            f'{sum(param.numel() for param in group.params):,}',
            f'{group.lr_scale:.4g}',
            f'{group.weight_decay:g}',
        )
    text = io.StringIO()
    Console(file=text, width=100).print(table)
    return text.getvalue()


@HOOKS.register_module()
class LearningRateRangeHook(Hook):
    """Log the lowest and the highest learning rate of all parameter groups.

    mmengine logs only the rate of the first group, which with layer-wise decay is the stem's. The
    two numbers are scalars of mmengine's message hub, so they reach the log, TensorBoard and every
    other visualizer backend.
    """

    # After mmengine's RuntimeInfoHook, so that both log the rate of the same iteration.
    priority = 'NORMAL'

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Record both rates for this iteration."""
        lowest, highest = learning_rate_range(runner)
        # The log shows names that end in "lr" beside mmengine's own rate.
        runner.message_hub.update_scalar('train/lowest_lr', lowest)
        runner.message_hub.update_scalar('train/highest_lr', highest)


def learning_rate_range(runner: Runner) -> tuple[float, float]:
    """Return the lowest and the highest learning rate of all parameter groups."""
    rates = [
        rate
        for name, group_rates in runner.optim_wrapper.get_lr().items()
        if not name.endswith('base_lr')  # mmengine's extra entry, the rate before any scaling
        for rate in group_rates
    ]
    return min(rates), max(rates)
