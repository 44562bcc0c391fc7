"""Read checkpoints without executing them.

A ``.pth`` file is a pickle, and a pickle may name any function to call while it is read. Here files
are read weights-only: tensors, plain containers, and the few types that training scripts keep
beside them, allowed by name in :mod:`.mmengine_patches`. Anything else is refused before it runs.
Safetensors files hold no code at all.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .wording import first_names

# How torch words the refusal of a name, of an object, and of a call.
REFUSALS = (
    re.compile(r'GLOBAL ([\w.]+)'),
    re.compile(r"Can only (?:create|build).* got <class '([\w.]+)'>"),
    re.compile(r'reduce for unrecognized function (.+)'),
)
SUFFIXES = ('.pth', '.pt', '.bin', '.ckpt', '.safetensors')
# The entries of a checkpoint that may hold the weights, in the order of the search.
CONTAINERS = ('state_dict', 'model', 'module', 'model_state_dict')
EMA_CONTAINERS = ('model_ema', 'state_dict_ema')
# torch.compile adds this to the names of the modules it wraps.
COMPILED = '_orig_mod.'
# The entry of a safetensors header that holds what mmengine keeps in ``meta``, as JSON.
META_KEY = 'convnext_backbones.meta'
# HDF5 files begin with this: Keras' `.h5`. Its `.keras` files are archives with one inside.
HDF5 = b'\x89HDF\r\n\x1a\n'
KERAS_WEIGHTS = 'model.weights.h5'
KERAS_CONTAINERS = ('hdf5', 'keras')
# Other files that users find under the name of a checkpoint, by their first bytes in lower case.
TEXTS = (
    (b'<', 'a web page or another text with tags, not what the page links to'),
    (b'version https://git-lfs', 'a Git LFS pointer; fetch the file itself with git lfs pull'),
    (b'{"', 'JSON text; name the file with the weights beside it'),
    (b'{\n', 'JSON text; name the file with the weights beside it'),
)


def read_checkpoint(
    path: str | os.PathLike,
    map_location: str | torch.device | None = 'cpu',
    mmap: bool = False,
) -> Any:
    """Read a checkpoint file weights-only.

    Args:
        path: A local file, in any format that ``torch.load`` reads, or safetensors.
        map_location: The device of the tensors, as in ``torch.load``.
        mmap: Map tensors to the file instead of reading them, if the format allows it. Only for
            tensors that are copied at once: the file must not change while they are alive.

    Returns:
        The contents of the file, usually a dict. A safetensors file gives the tensors by name; one
        from ``tools/publish.py`` gives a dict with ``state_dict`` and ``meta``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is a folder, is not a checkpoint, is a file of Keras, is damaged, or
            would execute code.
    """
    path = os.fspath(path)
    kind = check_container(path)
    if kind in KERAS_CONTAINERS:
        raise ValueError(
            f'expected a checkpoint of PyTorch, got the Keras file {path!r}; '
            'tools/convert_weights.py --to official makes one of it'
        )
    try:
        if kind == 'safetensors':
            return _read_safetensors(path, map_location)
        return torch.load(
            path, map_location=map_location, weights_only=True, mmap=mmap and kind == 'zip'
        )
    except pickle.UnpicklingError as error:
        raise ValueError(_explain(path, error)) from None
    except Exception as error:  # readers raise anything on a damaged file
        raise ValueError(_unreadable(path, _first_line(error))) from error


def check_container(path: str | os.PathLike) -> str:
    """Refuse files that cannot be checkpoints, and harmful archives, without reading the contents.

    Returns:
        'safetensors', 'zip' (the format of torch since 1.6), 'pickle' (the one before), 'hdf5'
        (Keras' `.h5`) or 'keras' (its `.keras`).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a folder, is empty, is a web page or another kind of text, or is an
            archive that neither torch nor Keras wrote.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f'expected a checkpoint file, found nothing at {path!r}')
    if os.path.isdir(path):
        inside = sorted(p.name for p in Path(path).iterdir() if p.suffix in SUFFIXES)
        hint = f'name a file in it, such as {inside[0]!r}' if inside else 'it has none inside'
        raise ValueError(f'expected a checkpoint file, got the folder {path!r}; {hint}')
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
        head = file.read(64)
    if size == 0:
        raise ValueError(_unreadable(path, 'the file is empty'))
    # The length of a JSON header, and its opening brace.
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < size:
        return 'safetensors'
    if head.startswith(HDF5):
        return 'hdf5'
    if head.startswith(b'PK'):
        return 'keras' if KERAS_WEIGHTS in _check_zip(path, size) else 'zip'
    for start, what in TEXTS:
        if head.lstrip().lower().startswith(start):
            raise ValueError(_unreadable(path, f'the file is {what}'))
    return 'pickle'


def _check_zip(path: str, size: int) -> list[str]:
    """Refuse archives that neither torch nor Keras wrote; both store members uncompressed.

    Returns:
        The names of the members.

    Raises:
        ValueError: The archive is damaged, is a program, would expand, or names members outside of
            its folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # zipfile raises anything on a damaged archive
        raise ValueError(_unreadable(path, _first_line(error))) from error
    # The stored name: zipfile cuts its own copy at a NUL byte.
    names = [member.orig_filename for member in members]
    if any(name.endswith('/constants.pkl') for name in names):
        raise ValueError(
            f'expected weights in {path!r}, got a TorchScript program; save its state_dict()'
        )
    for name in names:
        if re.match(r'[/\\]|[A-Za-z]:', name) or '..' in re.split(r'[/\\]', name) or '\0' in name:
            raise ValueError(
                f'refused the checkpoint {path!r}: its member {name!r} is named to be written '
                'elsewhere; use a file from a source you trust'
            )
    stored = all(
        member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
        for member in members
    )
    if not stored or sum(member.file_size for member in members) > size:
        raise ValueError(
            f'refused the checkpoint {path!r}: its members expand when they are read, and torch '
            'writes none that do; use a file that torch.save wrote'
        )
    return names


def check_sums(path: str | os.PathLike) -> None:
    """Compare a file that torch wrote with the checksums in it, which reading does not do.

    Files in other formats have no checksums and pass.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or is not a checkpoint; see :func:`check_container`.
    """
    path = os.fspath(path)
    if check_container(path) != 'zip':
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises anything on a damaged archive
        raise ValueError(_unreadable(path, _first_line(error))) from error
    if damaged is not None:
        raise ValueError(_unreadable(path, f'the checksum of {damaged!r} in it is wrong'))


def _read_safetensors(path: str, map_location: str | torch.device | None) -> dict[str, Any]:
    """Read a safetensors file; see :func:`read_checkpoint`."""
    with safe_open(path, framework='pt', device=str(map_location or 'cpu')) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = (file.metadata() or {}).get(META_KEY)
    return tensors if meta is None else {'state_dict': tensors, 'meta': json.loads(meta)}


def named_tensors(
    checkpoint: Any, source: str | os.PathLike, ema: bool = False
) -> dict[str, Tensor]:
    """Return the weights of a checkpoint by name, taken out of their containers.

    Args:
        checkpoint: Contents of a file, from :func:`read_checkpoint`.
        source: The file, for messages.
        ema: Take the averaged weights. mmengine stores them in place of the ordinary ones, so its
            checkpoints give the same weights in either case.

    Raises:
        ValueError: The checkpoint holds no such weights.
    """
    source = os.fspath(source)
    if not isinstance(checkpoint, Mapping):
        raise ValueError(
            f'expected named tensors in {source!r}, got {type(checkpoint).__name__}; save '
            'model.state_dict()'
        )
    entries = first_names(checkpoint, shown=5)
    if ema and 'ema_state_dict' not in checkpoint:
        averaged = [name for name in EMA_CONTAINERS if name in checkpoint]
        if not averaged:
            raise ValueError(
                f'expected averaged weights in {source!r}, as {" or ".join(EMA_CONTAINERS)}, '
                f'found the entries {entries}; leave ema=True out'
            )
        checkpoint = checkpoint[averaged[0]]
    tensors = {
        key.replace(COMPILED, ''): tensor
        for key, tensor in _unpacked(checkpoint).items()
        if isinstance(key, str) and isinstance(tensor, Tensor) and not tensor.is_nested
    }
    if not tensors:
        raise ValueError(
            f'expected named tensors in {source!r}, found none; its entries are {entries}'
        )
    return tensors


def _unpacked(checkpoint: Any) -> Mapping:
    """Return the innermost container; an empty one if a forged checkpoint contains itself."""
    seen: set[int] = set()
    while isinstance(checkpoint, Mapping) and id(checkpoint) not in seen:
        seen.add(id(checkpoint))
        inside = (checkpoint.get(name) for name in CONTAINERS)
        container = next((entry for entry in inside if isinstance(entry, Mapping)), None)
        if container is None:
            return checkpoint
        checkpoint = container
    return {}


def write_safetensors(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], meta: Mapping | None = None
) -> None:
    """Write tensors, and ``meta`` as JSON, to a safetensors file, which holds no code.

    Raises:
        ValueError: ``meta`` holds objects that JSON cannot represent.
    """
    try:
        text = json.dumps(meta)
    except TypeError as error:
        raise ValueError(
            f'expected meta of strings, numbers, lists and dicts for {os.fspath(path)!r}, as '
            f'safetensors files hold no objects: {error}'
        ) from error
    # One entry only: safetensors writes several in random order. transformers requires `format`.
    header = {'format': 'pt'} if meta is None else {META_KEY: text}
    # Copies, as safetensors refuses tensors that share memory.
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path, header)


def _explain(path: str, error: Exception) -> str:
    """Return one sentence about a file that the weights-only reader refused."""
    for refusal in REFUSALS:
        if named := refusal.search(str(error)):
            return (
                f'refused the checkpoint {path!r}: reading it would execute {named[1]}, which is '
                'not plain data, so nothing was run; use a file that holds tensors only, from a '
                'source you trust'
            )
    return _unreadable(path, _first_line(error))


def _unreadable(path: str, reason: str) -> str:
    """Return one sentence about a file that cannot be read."""
    return (
        f'cannot read the checkpoint {path!r}: it is damaged or not a checkpoint ({reason}); copy '
        'or download it again'
    )


def _first_line(error: Exception) -> str:
    """Return the cause of an error, without torch's advice to read the file unsafely."""
    lines = str(error).rpartition('WeightsUnpickler error:')[2].strip().splitlines()
    return f'{type(error).__name__}: {lines[0] if lines else "no detail"}'
