"""Write ConvNeXts to files that the networks of ``keras.applications`` load."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..io.wording import first_names
from ..models.variants import VARIANTS
from .hdf5 import require_h5py
from .keras_layers import (
    NORM_EPS,
    PATCH_SIZE,
    STAGES,
    Layer,
    keras_layers,
    to_keras,
)
from .names import sizes, variant_name

if TYPE_CHECKING:
    import h5py

# Without these Keras takes a file for one of Keras 1, and changes kernels as it loads them.
FORMAT = {'backend': 'tensorflow', 'keras_version': '2.12.1'}
BY_CLASS = '.weights.h5'
STEM = 'downsample_layers.0.0.weight'
# What Keras' networks do not have: names of tensors, what they are.
ELSEWHERE = (
    (re.compile(r'.*\.grn\.'), 'global response normalization (V2)'),
    (re.compile(r'downsample_layers\.0\.2\.'), 'an overlapping stem'),
    (re.compile(r'pre_logits\.'), 'a hidden layer in the head'),
    (re.compile(r'norm[0-2]\.'), 'norms of several outputs'),
)


def write_keras(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], name: str | None = None
) -> None:
    """Write a ConvNeXt V1 to a file that ``model.load_weights`` of Keras reads.

    With a head, the file is for ``include_top=True`` and as many ``classes``; without one, for
    ``include_top=False``, where Keras applies the final norm to every position unless it is given
    ``pooling='avg'``. Images go to the network of Keras as RGB values of 0 to 255: it normalizes
    them with ImageNet's mean and standard deviation; weights that were trained with others need
    ``include_preprocessing=False``.

    Args:
        path: ``.weights.h5``, the format of Keras 3 and of Keras 2.14 and later; any other ``.h5``
            is Keras 2's, which Keras 3 reads too.
        tensors: A classifier, or its trunk and ``norm``, under the authors' names. In place of
            ``norm`` a backbone may have ``norm3``.
        name: The name of the network, with which the names of its layers begin. None means that of
            Keras, such as ``convnext_tiny``. Keras loads these files whatever the names are.

    Raises:
        ValueError: h5py is not installed, the ending is another one, or Keras has no such network.
    """
    path = os.fspath(path)
    if not path.endswith('.h5'):
        raise ValueError(
            f'expected a file that ends in {BY_CLASS} or .h5, got {path!r}; a .keras file needs '
            f'the code of a network: write {BY_CLASS} and load it into one'
        )
    h5py = require_h5py()
    tensors = _with_one_norm(tensors)
    layers = _layers_for(tensors, name)
    with h5py.File(path, 'w') as file:
        if path.endswith(BY_CLASS):
            _write_by_class(file, layers, tensors)
        else:
            _write_by_order(file, layers, tensors)


def layers_in_keras(tensors: Mapping[str, Tensor]) -> list[Layer]:
    """Return the layers with variables that Keras has for a network, under Keras' own names.

    Args:
        tensors: By the authors' names, of the network.

    Raises:
        ValueError: Keras builds no such network.
    """
    return _layers_for(_with_one_norm(tensors), None)


def _with_one_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with ``norm3`` as the final norm, and a layer scale in every block.

    Raises:
        ValueError: There are parts that no network of Keras has.
    """
    for pattern, what in ELSEWHERE:
        found = [key for key in tensors if pattern.match(key)]
        if found:
            raise ValueError(
                f'expected a ConvNeXt V1 as keras.applications has it, got {what}: '
                f'{first_names(found)}; Keras has no place for it'
            )
    tensors = dict(tensors)
    for parameter in ('weight', 'bias'):
        if f'norm3.{parameter}' in tensors and f'norm.{parameter}' not in tensors:
            tensors[f'norm.{parameter}'] = tensors.pop(f'norm3.{parameter}')
    if not any(key.endswith('.gamma') for key in tensors):
        # Keras' networks always scale.
        for key in [*tensors]:
            if block := re.fullmatch(r'(stages\.\d+\.\d+)\.dwconv\.bias', key):
                tensors[f'{block[1]}.gamma'] = torch.ones_like(tensors[key])
    return tensors


def _layers_for(tensors: dict[str, Tensor], name: str | None) -> list[Layer]:
    """Return the layers of the network that holds ``tensors``.

    Raises:
        ValueError: Keras builds no such network, or tensors are missing or too many.
    """
    depths, dims = sizes(tensors)
    stem = tensors.get(STEM)
    if len(dims) != STAGES or stem is None or stem.dim() != 4:
        raise ValueError(
            f'expected a ConvNeXt with a stem and {STAGES} stages, as keras.applications has it, '
            f'got {len(dims)} stages; its tensors are {first_names(tensors)}'
        )
    variant = variant_name(depths, dims)
    if variant is not None and VARIANTS[variant].norm_eps != NORM_EPS:
        raise ValueError(
            f'expected norms with an epsilon of {NORM_EPS}, as keras.applications has them, got a '
            f'{variant}, whose is {VARIANTS[variant].norm_eps}; Keras would compute other values'
        )
    if tuple(stem.shape[2:]) != (PATCH_SIZE, PATCH_SIZE):
        raise ValueError(
            f'expected a stem of {PATCH_SIZE}x{PATCH_SIZE}, as keras.applications has it, got '
            f'{stem.shape[2]}x{stem.shape[3]}; Keras has no place for it'
        )
    head = tensors.get('head.weight')
    name = name or ('convnext' if variant is None else f'convnext_{variant}')
    layers = keras_layers(
        name, depths, dims, stem.shape[1], None if head is None else head.shape[0]
    )
    expected = {ours: shape for layer in layers for _, ours, shape in layer.variables()}
    missing = [key for key in expected if key not in tensors]
    unknown = [key for key in tensors if key not in expected]
    if missing or unknown:
        raise ValueError(
            f'expected the tensors of a classifier, or of a trunk and its norm; missing are '
            f'{first_names(missing)}; Keras has no place for {first_names(unknown)}'
        )
    for key, shape in expected.items():
        tensor = tensors[key]
        if tensor.layout != torch.strided or to_keras(tensor).shape != shape:
            raise ValueError(
                f'expected {key} in a shape that fits to the other tensors, {shape} in Keras, got '
                f'{tuple(tensor.shape)} of layout {tensor.layout} in ours'
            )
    return layers


def _values(tensor: Tensor) -> np.ndarray:
    """Return what Keras stores of a tensor."""
    return to_keras(tensor.detach()).to('cpu', torch.float32).numpy()


def _write_by_order(file: h5py.File, layers: list[Layer], tensors: dict[str, Tensor]) -> None:
    """Write Keras 2's format: names of layers, and of the weights of each, in their order."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        weights = groups.setdefault(layer.inside or layer.name, [])
        for theirs, ours, _ in layer.variables():
            weights.append(f'{layer.name}/{theirs}:0')
            file[f'{layer.inside or layer.name}/{weights[-1]}'] = _values(tensors[ours])
    for group, weights in groups.items():
        file[group].attrs['weight_names'] = _encoded(weights)
    file.attrs['layer_names'] = _encoded(groups)
    for key, value in FORMAT.items():
        file.attrs[key] = value.encode()


def _encoded(names: dict | list[str]) -> np.ndarray:
    """Return names as Keras 2 stores them."""
    return np.array([name.encode() for name in names])


def _write_by_class(file: h5py.File, layers: list[Layer], tensors: dict[str, Tensor]) -> None:
    """Write Keras 3's format: layers by class and number, and their variables by number."""
    counts: Counter[str] = Counter()
    paths: dict[str, str] = {}

    def numbered(kind: str) -> str:
        counts[kind] += 1
        return f'layers/{kind}_{counts[kind] - 1}'.removesuffix('_0')

    for layer in layers:
        if layer.inside and layer.inside not in paths:
            paths[layer.inside] = numbered('sequential')
            file.create_group(f'{paths[layer.inside]}/vars').attrs['name'] = layer.inside
        if layer.inside:
            path = f'{paths[layer.inside]}/layers/{layer.kind}'
        else:
            path = numbered(layer.kind)
        group = file.create_group(f'{path}/vars')
        group.attrs['name'] = layer.name
        for i, (_, ours, _) in enumerate(layer.variables()):
            group[str(i)] = _values(tensors[ours])
