"""Reading checkpoints without executing them.

A ``.pth`` file is a pickle, and a pickle may name any function to call while it is read. Here
files are read weights-only: tensors, plain containers, and the few records that training scripts
keep beside them, allowed by name. Anything else is refused before it runs. Safetensors files hold
no code at all.
"""

from __future__ import annotations

import inspect
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

# How torch words the refusal of a name, of an object, and of a call.
REFUSALS = (
    re.compile(r'GLOBAL ([\w.]+)'),
    re.compile(r"Can only (?:create|build).* got <class '([\w.]+)'>"),
    re.compile(r'reduce for unrecognized function (.+)'),
)
MMAP_AVAILABLE = 'mmap' in inspect.signature(torch.load).parameters
SUFFIXES = ('.pth', '.pt', '.bin', '.ckpt', '.safetensors')
# The entries of a checkpoint that hold the weights, in the order in which they are looked for.
CONTAINERS = ('state_dict', 'model', 'module', 'model_state_dict')
EMA_CONTAINERS = ('model_ema', 'state_dict_ema')
# What torch.compile puts into the names of the modules it wraps.
COMPILED = '_orig_mod.'
# The entry of a safetensors header that holds what mmengine keeps in ``meta``, as JSON.
META_KEY = 'convnext_backbones.meta'
# What users find under the name of a checkpoint, by its first bytes in lower case.
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
):
    """Read a checkpoint file weights-only.

    Args:
        path: A local file: of any layout that ``torch.load`` reads, or safetensors.
        map_location: Where the tensors go, as in ``torch.load``.
        mmap: Read tensors from the disk when they are used, where the format allows it. Only for
            tensors that are copied at once: the file must not change while they are alive.

    Returns:
        What the file holds, usually a dict. Of a safetensors file, the tensors by name; of one
        that ``tools/publish.py`` wrote, a dict with ``state_dict`` and ``meta``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is a folder, is not a checkpoint, is damaged, or would execute code.
    """
    path = os.fspath(path)
    kind = check_container(path)
    try:
        if kind == 'safetensors':
            return _read_safetensors(path, map_location)
        options = {'mmap': True} if mmap and kind == 'zip' and MMAP_AVAILABLE else {}
        return torch.load(path, map_location=map_location, weights_only=True, **options)
    except pickle.UnpicklingError as error:
        raise ValueError(_explain(path, error)) from None
    except Exception as error:  # what a damaged file makes the readers raise is open-ended
        raise ValueError(_unreadable(path, _first_line(error))) from error


def check_container(path: str | os.PathLike) -> str:
    """Refuse what cannot be a checkpoint, or is packed to do harm, without reading its contents.

    Returns:
        'safetensors', 'zip' (what torch has written since 1.6) or 'pickle' (before).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a folder, is empty, is a web page or another kind of text, or is an
            archive that torch did not write.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f'expected a checkpoint file, found nothing at {path!r}')
    if os.path.isdir(path):
        inside = sorted(p.name for p in Path(path).iterdir() if p.suffix in SUFFIXES)
        hint = f'such as {inside[0]!r}' if inside else 'of which it has none'
        raise ValueError(
            f'expected a checkpoint file, got the folder {path!r}; name a file in it, {hint}'
        )
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
        head = file.read(64)
    if size == 0:
        raise ValueError(_unreadable(path, 'the file is empty'))
    # The length of a JSON header, and its opening brace.
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < size:
        return 'safetensors'
    if head.startswith(b'PK'):
        _check_zip(path, size)
        return 'zip'
    for start, what in TEXTS:
        if head.lstrip().lower().startswith(start):
            raise ValueError(_unreadable(path, f'the file is {what}'))
    return 'pickle'


def _check_zip(path: str, size: int) -> None:
    """Refuse archives that torch did not write: it stores members as they are, side by side."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # what a damaged archive makes zipfile raise is open-ended
        raise ValueError(_unreadable(path, _first_line(error))) from error
    # The name as it is stored, before zipfile cuts it at a NUL.
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


def check_sums(path: str | os.PathLike) -> None:
    """Compare a file that torch wrote with the checksums in it; reading does not.

    Raises:
        ValueError: A part of the file is not what was written.
    """
    path = os.fspath(path)
    if check_container(path) != 'zip':
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # what a damaged archive makes zipfile raise is open-ended
        raise ValueError(_unreadable(path, _first_line(error))) from error
    if damaged is not None:
        raise ValueError(_unreadable(path, f'the checksum of {damaged!r} in it is wrong'))


def _read_safetensors(path: str, map_location: str | torch.device | None):
    with _safetensors(path).safe_open(
        path, framework='pt', device=str(map_location or 'cpu')
    ) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = (file.metadata() or {}).get(META_KEY)
    return tensors if meta is None else {'state_dict': tensors, 'meta': json.loads(meta)}


def named_tensors(checkpoint, source: str | os.PathLike, ema: bool = False) -> dict[str, Tensor]:
    """The weights of a checkpoint by name, taken out of their containers.

    Args:
        checkpoint: What :func:`read_checkpoint` returned.
        source: The file, for messages.
        ema: Take the averaged weights. mmengine writes them as the ordinary ones.

    Raises:
        ValueError: There are none.
    """
    source = os.fspath(source)
    if not isinstance(checkpoint, Mapping):
        raise ValueError(
            f'expected named tensors in {source!r}, got {type(checkpoint).__name__}; save '
            'model.state_dict()'
        )
    names = [repr(str(name))[1:-1] for name in list(checkpoint)[:5]]  # they may hold line breaks
    entries = ', '.join(names) or 'none'
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


def _unpacked(checkpoint) -> Mapping:
    """The innermost container; empty if there is none, as where a forged one holds itself."""
    seen = set()
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
    """Write tensors, and ``meta`` as JSON, to a file that holds no code.

    Raises:
        ValueError: ``meta`` holds what JSON does not have, or safetensors is not installed.
    """
    try:
        text = json.dumps(meta)
    except TypeError as error:
        raise ValueError(
            f'expected meta of strings, numbers, lists and dicts for {os.fspath(path)!r}, as '
            f'safetensors files hold no objects: {error}'
        ) from error
    save_file = _safetensors(path).torch.save_file
    # One entry only: safetensors writes several in random order. transformers asks for `format`.
    header = {'format': 'pt'} if meta is None else {META_KEY: text}
    # Copies, as safetensors refuses tensors that share memory.
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path, header)


def _safetensors(path: str | os.PathLike):
    """The package, which is needed for files of its kind only."""
    try:
        import safetensors.torch
    except ImportError:
        raise ValueError(
            f'{os.fspath(path)!r} needs the package safetensors; pip install safetensors'
        ) from None
    return safetensors


def _explain(path: str, error: Exception) -> str:
    """One sentence on a file that the weights-only reader refused."""
    for refusal in REFUSALS:
        if named := refusal.search(str(error)):
            return (
                f'refused the checkpoint {path!r}: reading it would execute {named[1]}, which is '
                'not plain data, so nothing was run; use a file that holds tensors only, from a '
                'source you trust'
            )
    return _unreadable(path, _first_line(error))


def _unreadable(path: str, reason: str) -> str:
    return (
        f'cannot read the checkpoint {path!r}: it is damaged or not a checkpoint ({reason}); copy '
        'or download it again'
    )


def _first_line(error: Exception) -> str:
    """What happened, without torch's advice to read the file in another way."""
    lines = str(error).rpartition('WeightsUnpickler error:')[2].strip().splitlines()
    return f'{type(error).__name__}: {lines[0] if lines else "no detail"}'
