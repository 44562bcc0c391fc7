"""List the layers of a model with their output shapes and parameters, as Keras' summary does.

A row is a module without children, in the order in which the forward pass reaches it. Parameters
that a module with children has itself get a row each, such as position embeddings; the layer scale
of a block follows the layer that it scales.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from ..models.block import Block
from ..models.convnext import ConvNeXtClassifier
from ..weights.keras_layers import NORM_EPS
from ..weights.keras_writing import layers_in_keras
from .complexity import image_size
from .counting import count_parts

LAYER_SCALE, PARAMETER = 'LayerScale', 'Parameter'


@dataclass(frozen=True)
class Layer:
    """A row of the table.

    Attributes:
        name: Path of the module or of the parameter in the model.
        kind: Class of the module; ``LayerScale`` or ``Parameter`` for a parameter.
        shape: Shape of the output for one image, at the first call; None for what is not called,
            such as an auxiliary head, which is used in training only.
        calls: How many times the forward pass calls it; never for the parameters of others.
        params: Number of parameters.
        trainable: How many of them are trained; none in frozen stages.
        keras: Name of the same layer in ``keras.applications``; empty if it has none.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    calls: int
    params: int
    trainable: int
    keras: str = ''


@dataclass(frozen=True)
class LayerTable:
    """The layers of a model.

    Attributes:
        name: Name of the model.
        input_shape: Height and width of the image.
        layers: In the order in which they run.
    """

    name: str
    input_shape: tuple[int, int]
    layers: tuple[Layer, ...]

    @property
    def params(self) -> int:
        """Parameters of the whole model."""
        return sum(layer.params for layer in self.layers)

    @property
    def trainable(self) -> int:
        """Parameters that are trained."""
        return sum(layer.trainable for layer in self.layers)


@dataclass
class _Row:
    """A row before and while the model runs.

    Attributes:
        kind: As in :class:`Layer`, and so the next two.
        params: Number of parameters.
        trainable: How many of them are trained.
        order: Its place among the rows; None before the model runs.
        shape: As in :class:`Layer`, and so is ``calls``.
    """

    kind: str
    params: int
    trainable: int
    order: float | None = None
    shape: tuple[int, ...] | None = None
    calls: int = 0


def list_layers(
    name: str, model: nn.Module, input_shape: tuple[int, int] | None = None
) -> LayerTable:
    """List the layers of a model.

    Args:
        name: As in :func:`~.complexity.measure`, and so are the others.
        model: On the meta device.
        input_shape: Height and width of the image; by default those of the tables.

    Raises:
        ValueError: The tables do not state the size, or the model cannot be counted.
    """
    input_shape = image_size(name, input_shape)
    total = sum(parameter.numel() for parameter in model.parameters())
    rows = _rows(model)  # before the run, which may put other parameters in their place
    with ExitStack() as hooks:
        entered = _watch(model, rows, hooks)
        count_parts(model, input_shape)
    _place_layer_scales(rows)
    for path, row in rows.items():
        if row.order is None:
            row.order = _order_around(path, entered)
    # Rows of the same place keep their order in the model.
    in_order = sorted(rows.items(), key=lambda item: cast(float, item[1].order))
    keras = _keras_names(model)
    layers = tuple(
        Layer(path, row.kind, row.shape, row.calls, row.params, row.trainable, keras.get(path, ''))
        for path, row in in_order
        if row.params or row.calls
    )
    table = LayerTable(name, input_shape, layers)
    assert table.params == total, 'each parameter is in one row'
    return table


def _rows(model: nn.Module) -> dict[str, _Row]:
    """Return the rows of a model by name: modules without children, and parameters of others."""
    rows = {}
    seen: set[nn.Parameter] = set()
    for path, module in model.named_modules():
        own = {
            name: parameter
            for name, parameter in module.named_parameters(recurse=False)
            if parameter not in seen
        }
        seen.update(own.values())
        if next(module.children(), None) is None:
            trained = (parameter.numel() for parameter in own.values() if parameter.requires_grad)
            params = sum(parameter.numel() for parameter in own.values())
            rows[path] = _Row(type(module).__name__, params, sum(trained))
            continue
        is_block = isinstance(module, Block)
        for name, parameter in own.items():
            kind = LAYER_SCALE if is_block and name == 'gamma' else PARAMETER
            params = parameter.numel()
            row = _Row(kind, params, params if parameter.requires_grad else 0)
            rows[f'{path}.{name}' if path else name] = row
    return rows


def _watch(model: nn.Module, rows: Mapping[str, _Row], hooks: ExitStack) -> dict[str, int]:
    """Note in the rows when modules run and what they give.

    Args:
        model: The model.
        rows: Changed in place while the model runs.
        hooks: Takes the hooks, and removes them when it closes.

    Returns:
        The place at which each module was entered first; it fills while the model runs.
    """
    entered: dict[str, int] = {}
    places = itertools.count()

    def watch(path: str, module: nn.Module) -> None:
        def enter(*_: Any) -> None:
            entered.setdefault(path, next(places))

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            row = rows[path]
            if not row.calls:
                row.order, row.shape = entered[path], _shape(output)
            row.calls += 1

        hooks.callback(module.register_forward_pre_hook(enter).remove)
        if path in rows:
            hooks.callback(module.register_forward_hook(leave).remove)

    for path, module in model.named_modules():
        watch(path, module)
    return entered


def _shape(output: Any) -> tuple[int, ...] | None:
    """Return the shape of the first tensor of an output; None if there is none."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    members = output if isinstance(output, (tuple, list)) else ()
    return next((shape for member in members if (shape := _shape(member)) is not None), None)


def _place_layer_scales(rows: Mapping[str, _Row]) -> None:
    """Put each layer scale behind the layer that it scales, whose output has the same shape."""
    for path, row in rows.items():
        if row.kind == LAYER_SCALE:
            scaled = rows[path.removesuffix('gamma') + 'pwconv2']
            row.shape, row.calls = scaled.shape, scaled.calls
            row.order = None if scaled.order is None else scaled.order + 0.5


def _order_around(path: str, entered: Mapping[str, int]) -> float:
    """Return the place of the innermost module around a row that did not run; else the end."""
    while path:
        path = path.rpartition('.')[0]
        if path in entered:
            return entered[path]
    return math.inf


def _keras_names(model: nn.Module) -> dict[str, str]:
    """Return Keras' names of the layers of a classifier, by ours; none if Keras has no such one."""
    if not isinstance(model, ConvNeXtClassifier):
        return {}
    if model.head_norm_first or model.norm_eps != NORM_EPS:
        return {}
    try:
        layers = layers_in_keras(model.state_dict())
    except ValueError:
        return {}
    names = {layer.ours: layer.name for layer in layers}
    for path, block in model.named_modules():
        if isinstance(block, Block):
            theirs = names[f'{path}.dwconv'].removesuffix('depthwise_conv')
            names[f'{path}.act'] = f'{theirs}gelu'
            # Keras has another layer for a rate of zero.
            names[f'{path}.drop_path'] = theirs + (
                'stochastic_depth' if block.drop_path.rate else 'identity'
            )
    return names
