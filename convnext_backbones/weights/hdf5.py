"""Read HDF5 files of unknown origin: what is in them is data, and nothing outside of them is read.

An HDF5 file can point to others: by links, by datasets whose values lie elsewhere, by datasets that
are put together from other files. It can also declare values that it does not hold, or need a
plug-in to unpack them. Keras writes none of these, so all are refused before they are followed.
Errors here are phrases; :mod:`.keras_files` puts the name of the file before them.
"""

from __future__ import annotations

import math
import mmap
import struct
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..io.wording import first_names

if TYPE_CHECKING:
    import h5py

# Keras keeps attributes below 64 KiB and counts the parts of longer ones.
MAX_ATTRIBUTE_BYTES = 1 << 20
# A global heap holds strings: "GCOL", version 1, reserved bytes, its size; then objects of an index
# (0 for the rest, which is free), a reference count, their size, and the data.
HEAP = b'GCOL\x01\0\0\0'
HEAP_SIZE = struct.Struct('<Q')
HEAP_OBJECT = struct.Struct('<HHIQ')
MAX_HEAP_OBJECTS = 1_000_000


class RefusedError(ValueError):
    """Error whose message is a phrase without the name of the file."""


def require_h5py() -> ModuleType:
    """Return h5py, which only files of Keras need.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ValueError(
            'expected h5py for files of Keras, but it is not installed; run: pip install '
            "'convnext_backbones[keras]'"
        ) from None
    return h5py


def check_heaps(content: bytes | mmap.mmap) -> None:
    """Refuse heaps in which the HDF5 library would go round for ever.

    It adds the length of an object to its place without a look at the result, which stays the same,
    or gets smaller by overflow. Seen with HDF5 2.0, when bytes of a file are changed at random.

    Raises:
        RefusedError: An object is longer than its heap or has no length, or there are more objects
            than in any file of Keras.
    """
    count = 0
    start = content.find(HEAP)
    while start >= 0:
        position = start + len(HEAP) + HEAP_SIZE.size
        declared = content[position - HEAP_SIZE.size : position]
        end = start + HEAP_SIZE.unpack(declared.rjust(HEAP_SIZE.size, b'\xff'))[0]
        damaged = end > len(content)
        while not damaged and position + HEAP_OBJECT.size <= end:
            header = content[position : position + HEAP_OBJECT.size]
            index, _, _, length = HEAP_OBJECT.unpack(header)
            # Free space counts its header, an object does not.
            length = length if index == 0 else HEAP_OBJECT.size + length + -length % 8
            position, count = position + length, count + 1
            damaged = length == 0 or position > end or count > MAX_HEAP_OBJECTS
        if damaged:
            raise RefusedError('the heap of its names is damaged; copy or download it again')
        start = content.find(HEAP, start + 1)


def child(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """Return a member of ``group`` that is stored in the same file.

    Raises:
        RefusedError: There is none of that name, or it is a link to somewhere else.
    """
    h5py = require_h5py()
    raw = name.encode('utf8', 'surrogateescape')
    if not name or not group.id.links.exists(raw):
        raise RefusedError(f'{_place(group)} has no {name!r}; the file is incomplete')
    if group.id.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
        raise RefusedError(
            f'{name!r} in {_place(group)} is a link to another place or file, which is not '
            'followed; use a file that Keras wrote'
        )
    return group[raw]


def subgroup(group: h5py.Group, *names: str) -> h5py.Group:
    """Return a group in a group, ...; see :func:`child`.

    Raises:
        RefusedError: One of them is missing, is a link to somewhere else, or is no group.
    """
    h5py = require_h5py()
    for name in names:
        group = child(group, name)
        if not isinstance(group, h5py.Group):
            raise RefusedError(f'{_place(group)} is not a group, as it is in files of Keras')
    return group


def dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset that can be read: its values are in the file, and as many as it declares.

    Raises:
        RefusedError: It is missing or no dataset, or its values are not simply stored.
    """
    h5py = require_h5py()
    found = child(group, name)
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise RefusedError(f'{_place(found)} holds no values, as it does in files of Keras')
    if found.external or found.is_virtual:
        raise RefusedError(
            f'the values of {_place(found)} are in another file, which is not read; use a file '
            'that Keras wrote'
        )
    # A filter may be a plug-in, and packed values may expand to any size.
    if found.id.get_create_plist().get_nfilters():
        raise RefusedError(f'{_place(found)} is compressed, which Keras does not do; unpack it')
    if found.id.get_storage_size() < size(found):
        raise RefusedError(f'{_place(found)} declares more values than the file holds')
    return found


def size(values: h5py.Dataset | h5py.h5a.AttrID) -> int:
    """Return the number of bytes that a dataset or an attribute needs in memory."""
    return math.prod(values.shape) * values.dtype.itemsize


def read_tensor(values: h5py.Dataset) -> Tensor:
    """Read a dataset that :func:`dataset` returned, as float32.

    Raises:
        RefusedError: It holds no floating-point numbers.
    """
    # numpy has no bfloat16: Keras stores two opaque bytes, and says so beside them.
    if values.dtype == np.dtype('V2') and strings(values, 'dtype') == ['bfloat16']:
        bits = torch.from_numpy(values[()].view(np.int16))
        return bits.view(torch.bfloat16).float().reshape(values.shape)
    if values.dtype.kind != 'f':
        raise RefusedError(
            f'expected floating-point numbers in {_place(values)}, got {values.dtype}; a '
            'quantized model cannot be read'
        )
    return torch.from_numpy(np.array(values[()], dtype=np.float32))


def strings(holder: h5py.Group | h5py.Dataset, name: str) -> list[str]:
    """Return an attribute that is a string or a list of strings; empty if there is none.

    Keras splits long lists: ``layer_names0``, ``layer_names1``, ...

    Raises:
        RefusedError: The attribute is of another type, or is too long to be Keras'.
    """
    if name in holder.attrs:
        return _strings(holder, name)
    found, part = [], 0
    while f'{name}{part}' in holder.attrs:
        found += _strings(holder, f'{name}{part}')
        part += 1
    return found


def _strings(holder: h5py.Group | h5py.Dataset, name: str) -> list[str]:
    """Return one attribute; see :func:`strings`."""
    h5py = require_h5py()
    attribute = holder.attrs.get_id(name)
    if attribute.shape is None or math.prod(attribute.shape) == 0:
        return []
    if size(attribute) > MAX_ATTRIBUTE_BYTES:
        raise RefusedError(f'the attribute {name!r} of {_place(holder)} is too long')
    if h5py.check_string_dtype(attribute.dtype) is None:
        raise RefusedError(
            f'expected the attribute {name!r} of {_place(holder)} to hold names, got values of '
            f'type {attribute.dtype}'
        )
    values = np.ravel(np.asarray(holder.attrs[name], dtype=object))
    return [
        value.decode('utf8', 'surrogateescape') if isinstance(value, bytes) else str(value)
        for value in values
    ]


def _place(holder: h5py.Group | h5py.Dataset) -> str:
    """Return the path of something in the file, on one line."""
    return first_names([holder.name], quoted=True)
