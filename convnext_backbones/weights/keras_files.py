"""Read ConvNeXts of ``keras.applications`` from the files of Keras.

=====================  ============================================================================
``.h5``                Keras 2's ``save_weights``, which the published files are, and the whole
                       model of ``model.save``: layers in their order, by name
``.weights.h5``        Keras 3, and 2.12 and later: layers by class and number
``.keras``             an archive with a ``.weights.h5`` and the network's config, which is not read
=====================  ============================================================================

Layers are paired by class and order, as Keras itself does, since users may name a network as they
like; every shape is checked. Keras has V1 only, tiny to xlarge.

The network of Keras takes RGB values of 0 to 255 and normalizes them itself, with ImageNet's mean
and standard deviation. Those are constants of the graph and in no file: ours expects images that
are normalized already. ``include_top=False`` leaves out the head, but not the final norm: Keras
applies it to every position of the last map, or after ``pooling`` if that is given.
``layer_scale_init_value=0.0`` does not build a network without layer scale, as Keras' documentation
says: it builds one whose blocks add nothing until they are trained; ``None`` builds one without.
"""

from __future__ import annotations

import io
import mmap
import os
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..io.checkpoint import KERAS_CONTAINERS, KERAS_WEIGHTS, check_container
from ..io.wording import first_names
from .hdf5 import (
    RefusedError,
    check_heaps,
    dataset,
    read_tensor,
    require_h5py,
    size,
    strings,
    subgroup,
)
from .keras_layers import HEAD_NORM, STAGES, VARIABLES, Layer, from_keras, keras_layers

if TYPE_CHECKING:
    import h5py

# The group of the layers in a `.weights.h5`, and in those of Keras 2.12 and 2.13.
LAYER_GROUPS = ('layers', '_layer_checkpoint_dependencies')
# A class and its number, which Keras leaves out if it is zero.
NUMBERED = re.compile(r'(\w+?)(?:_(\d{1,6}))?')
SEQUENTIAL = 'sequential/'
# What the names of layers and weights tell about files of other projects.
FOREIGN = (
    (
        re.compile(r'(^|/)tf_\w+/'),
        'it is the TensorFlow file of transformers; use model.safetensors of the same repository',
    ),
    (
        re.compile(r'(^|[/_])(grn|global_response\w*)([/_]|$)'),
        "it has global response normalization: a ConvNeXt V2 of another project, while Keras' own "
        "are V1; use the authors' or timm's file of V2",
    ),
)
NESTED = (
    'one of its layers is a network itself; if that is the ConvNeXt, save it alone, such as with '
    "model.get_layer('convnext_tiny').save_weights('convnext.weights.h5')"
)


@dataclass
class Stored:
    """A layer of a file: its name, empty if the file does not say it, and its variables."""

    name: str
    variables: dict[str, h5py.Dataset]

    def shape(self) -> tuple[int, ...]:
        """Return the shape of the first variable."""
        return next(iter(self.variables.values())).shape


def is_keras_file(path: str | os.PathLike) -> bool:
    """Whether a file is one of Keras, or another in its container.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no kind of checkpoint; see
            :func:`~convnext_backbones.io.checkpoint.check_container`.
    """
    return check_container(path) in KERAS_CONTAINERS


def read_keras(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read a ConvNeXt of ``keras.applications`` from a file of Keras.

    Nothing in the file is executed, and no other file is read; see :mod:`.hdf5`.

    Args:
        path: A ``.h5``, ``.weights.h5`` or ``.keras`` file.

    Returns:
        Tensors under the authors' names, in our shapes, as float32. A file of
        ``include_top=False`` has ``norm``, but no ``head``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: h5py is not installed; the file is damaged, points to other files, or holds
            another network.
    """
    path = os.fspath(path)
    if not is_keras_file(path):
        raise ValueError(f'expected a file of Keras, got {path!r}, which is of another format')
    h5py = require_h5py()
    try:
        with _opened(path) as content, h5py.File(content, 'r') as file:
            return _read(_layers_of(file), os.path.getsize(path))
    except RefusedError as refused:
        raise ValueError(
            f'cannot read a ConvNeXt of keras.applications from {path!r}: {refused}'
        ) from None
    except Exception as error:  # h5py and zipfile raise anything on a damaged file
        reason = first_names(str(error).splitlines()[:1])
        raise ValueError(
            f'cannot read the Keras file {path!r}: it is damaged ({type(error).__name__}: '
            f'{reason}); copy or download it again'
        ) from error


@contextmanager
def _opened(path: str) -> Iterator[str | io.BytesIO]:
    """Give what h5py opens: the path, or the contents of the weights in an archive.

    Raises:
        RefusedError: The HDF5 library would not come back from it.
    """
    if check_container(path) == 'hdf5':
        with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            check_heaps(view)
        yield path
        return
    with zipfile.ZipFile(path) as archive:
        content = archive.read(KERAS_WEIGHTS)
    check_heaps(content)
    yield io.BytesIO(content)


def _layers_of(file: h5py.File) -> dict[str, list[Stored]]:
    """Return the layers with variables of a file, by class, in the order of the network.

    Raises:
        RefusedError: They are not stored as Keras does, or are not those of a ConvNeXt.
    """
    for name in LAYER_GROUPS:
        if name in file:
            return _by_class(subgroup(file, name), name)
    if 'layer_names' not in file.attrs and 'model_weights' in file:
        file = subgroup(file, 'model_weights')
    names = strings(file, 'layer_names')
    if not names:
        raise RefusedError(
            f'it is an HDF5 file that Keras did not write; it holds {first_names(file)}'
        )
    return _by_order(file, names)


def _by_class(root: h5py.Group, word: str) -> dict[str, list[Stored]]:
    """Return the layers of a ``.weights.h5``, whose groups are numbered by class.

    Args:
        root: The group of the layers.
        word: Its name, which a ``Sequential`` repeats inside.
    """
    groups = []
    for name in root:
        found = NUMBERED.fullmatch(name)
        if found is not None:
            groups.append((found[1], int(found[2] or 0), name))
    stored: dict[str, list[Stored]] = defaultdict(list)
    for kind, _, name in sorted(groups):
        _refuse_foreign([name])
        group = subgroup(root, name)
        if kind == 'sequential':
            inner = subgroup(group, word)
            for part in inner:
                found = NUMBERED.fullmatch(part)
                _add_numbered(
                    stored, found[1] if found else part, subgroup(inner, part), SEQUENTIAL
                )
        elif word in group:
            raise RefusedError(NESTED)
        elif 'vars' in group and len(subgroup(group, 'vars')):
            _add_numbered(stored, kind, group)
    return stored


def _add_numbered(
    stored: dict[str, list[Stored]], kind: str, group: h5py.Group, inside: str = ''
) -> None:
    """Add a layer of a ``.weights.h5``, whose variables are numbered, to ``stored``."""
    group = subgroup(group, 'vars')
    variables = [dataset(group, str(i)) for i in range(len(group))]
    names = VARIABLES.get(kind, {})
    if len(names) != len(variables):
        kind = f'{kind} of {len(variables)} variables'
        names = dict.fromkeys(map(str, range(len(variables))), '')
    name = ''.join(strings(group, 'name')[:1])
    stored[inside + kind].append(Stored(name, dict(zip(names, variables, strict=True))))


def _by_order(root: h5py.Group, names: list[str]) -> dict[str, list[Stored]]:
    """Return the layers of a ``.h5``, which lists their names, and the weights of each."""
    stored: dict[str, list[Stored]] = defaultdict(list)
    for name in names:
        group = subgroup(root, *name.split('/'))
        weights = strings(group, 'weight_names')
        _refuse_foreign([name, *weights])
        variables: dict[str, h5py.Dataset] = {}
        for weight in weights:
            *folders, last = weight.split('/')
            variable = last.partition(':')[0]
            if variable in variables:
                raise RefusedError(NESTED)
            variables[variable] = dataset(subgroup(group, *folders), last)
        # The convolution and the norm of a Sequential have different variables.
        convolution: dict[str, h5py.Dataset] = {
            key: variables.pop(key) for key in ('kernel', 'bias') if key in variables
        }
        inside = SEQUENTIAL if convolution and variables else ''
        for part in (convolution, variables):
            if part:
                kind, part = _class_of(part)
                stored[inside + kind].append(Stored(name, part))
    return stored


def _class_of(variables: dict[str, h5py.Dataset]) -> tuple[str, dict[str, h5py.Dataset]]:
    """Return the class of a layer, and its variables by the names of :data:`VARIABLES`."""
    first = next(iter(variables.values()))
    if len(variables) == 1 and first.ndim == 1:
        # Keras calls it `Variable`, `variable_7` or `gamma`, by version.
        return 'layer_scale', {'gamma': first}
    if variables.keys() == {'kernel', 'bias'}:
        return 'conv2d' if first.ndim == 4 else 'dense', variables
    if variables.keys() == {'gamma', 'beta'}:
        return 'layer_normalization', variables
    return f'with {first_names(variables, shown=5)}', variables


def _refuse_foreign(names: list[str]) -> None:
    """Refuse networks of other projects by the names in their files.

    Raises:
        RefusedError: A name is one of theirs.
    """
    for pattern, what in FOREIGN:
        if any(map(pattern.search, names)):
            raise RefusedError(what)


def _read(stored: dict[str, list[Stored]], limit: int) -> dict[str, Tensor]:
    """Return the tensors of a ConvNeXt under the authors' names.

    Args:
        stored: From :func:`_layers_of`.
        limit: Number of bytes that the tensors may need together: the size of the file.

    Raises:
        RefusedError: The layers are not those of a ConvNeXt, or do not fit together.
    """
    layers = _expected(stored)
    queues = {kind: iter(found) for kind, found in stored.items()}
    values: dict[str, h5py.Dataset] = {}
    for layer in layers:
        found = next(queues[(SEQUENTIAL if layer.inside else '') + layer.kind])
        for theirs, ours, shape in layer.variables():
            variable = found.variables[theirs]
            if variable.shape != shape:
                raise RefusedError(
                    f'expected {theirs} of {layer.name.lstrip("_")} to have the shape {shape}, got '
                    f'{variable.shape}; its layers do not fit together'
                )
            values[ours] = variable
    # A few values under many names could need more memory than there is.
    if sum(map(size, values.values())) > limit:
        raise RefusedError('its layers share their values, which those of a ConvNeXt do not')
    return {name: from_keras(read_tensor(variable)) for name, variable in values.items()}


def _expected(stored: dict[str, list[Stored]]) -> list[Layer]:
    """Return the layers of the ConvNeXt that a file holds, by the shapes of its convolutions.

    Raises:
        RefusedError: The file holds another network, or a part of one.
    """
    counts = Counter({kind: len(found) for kind, found in stored.items()})
    stems, depthwise = stored.get(f'{SEQUENTIAL}conv2d', []), stored.get('conv2d', [])
    convolutions = [layer.shape() for layer in (*stems, *depthwise)]
    blocks, heads = len(depthwise), counts['dense'] - 2 * len(depthwise)
    expected = {
        f'{SEQUENTIAL}conv2d': STAGES,
        f'{SEQUENTIAL}layer_normalization': STAGES,
        'conv2d': blocks,
        'layer_normalization': blocks + 1,
        'dense': 2 * blocks + (heads == 1),
        'layer_scale': blocks if counts['layer_scale'] else 0,
    }
    if not blocks or not stems or any(len(shape) != 4 for shape in convolutions):
        raise RefusedError(
            f'it holds another network: its layers are {_listed(counts)}; a ConvNeXt of Keras has '
            f'{STAGES} Sequential of a convolution and a norm'
        )
    if +counts != +Counter(expected):
        raise RefusedError(
            f'expected {_listed(Counter(expected))} for {blocks} blocks, got {_listed(counts)}; '
            'layers are missing, or were added to the ConvNeXt: save it alone'
        )
    dims = [shape[-1] for shape in convolutions[:STAGES]]
    if len(set(dims)) != STAGES:
        raise RefusedError(f'expected stages of different sizes, got the channels {dims}')
    depths = [sum(shape[-1] == dim for shape in convolutions[STAGES:]) for dim in dims]
    norm = stored['layer_normalization'][-1].name
    if heads == 1 and norm and not norm.endswith(HEAD_NORM):
        raise RefusedError(
            f'its head is not the one of Keras, and follows the norm {norm!r} in a way that no '
            'file of weights says; save the ConvNeXt alone, as it was before layers were added'
        )
    return keras_layers(
        '',
        depths,
        dims,
        channels=convolutions[0][2],
        classes=stored['dense'][-1].shape()[-1] if heads == 1 else None,
        layer_scale=counts['layer_scale'] > 0,
    )


def _listed(counts: Counter[str]) -> str:
    """Return classes of layers and how many there are of each, for a sentence."""
    return first_names((f'{number} {kind}' for kind, number in sorted((+counts).items())), shown=6)
