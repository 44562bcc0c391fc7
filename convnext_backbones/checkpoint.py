"""Reading checkpoints without executing them.

A ``.pth`` file is a pickle, and a pickle may name any function to call while it is read. Here
files are read weights-only: tensors, plain containers, and mmengine's own log records, allowed by
name. Anything else is refused before it runs.
"""

from __future__ import annotations

import os
import pickle

import numpy
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

# What mmengine's training checkpoints hold beside tensors and plain containers: log buffers, and
# the numpy arrays in them. Each is a plain record of numbers; building one runs no foreign code.
SAFE_TYPES = (
    HistoryBuffer,
    numpy.ndarray,
    numpy.dtype,
    *(type(numpy.dtype(kind)) for kind in ('float32', 'float64', 'int32', 'int64', 'bool')),
)
# numpy's own array builders moved in numpy 2; files of either version name the place of theirs.
NUMPY_BUILDERS = (numpy.ndarray.__reduce__(numpy.zeros(1))[0], numpy.float64(0).__reduce__()[0])
HISTORY_STATISTICS = ('min', 'max', 'mean', 'current')
NUMPY_MODULES = ('numpy.core.multiarray', 'numpy._core.multiarray')


def allow_mmengine_types() -> None:
    """Let ``torch.load`` read mmengine's own checkpoints weights-only, as torch >= 2.6 does.

    Only what is named above is added to torch's allow-list. A torch without the list keeps
    mmengine's way of reading; :func:`read_checkpoint` is weights-only there too.
    """
    if not hasattr(torch.serialization, 'add_safe_globals'):
        return
    torch.serialization.add_safe_globals(
        [
            *SAFE_TYPES,
            *((f, f'{module}.{f.__name__}') for f in NUMPY_BUILDERS for module in NUMPY_MODULES),
            (_history_buffer_method, 'builtins.getattr'),
        ]
    )


def _history_buffer_method(owner: object, name: str):
    """What stands in for ``getattr`` in a checkpoint.

    A HistoryBuffer pickles its table of statistics as ``getattr(HistoryBuffer, 'mean')`` and the
    like. The true ``getattr`` would open every object to a forged file; this gives those only.
    """
    if owner is not HistoryBuffer or name not in HISTORY_STATISTICS:
        raise pickle.UnpicklingError(f'Unsupported GLOBAL builtins.getattr of {owner!r}, {name!r}')
    return getattr(HistoryBuffer, name)


def read_checkpoint(path: str | os.PathLike, map_location: str | torch.device | None = 'cpu'):
    """Read a checkpoint file weights-only.

    Args:
        path: A local file, of any layout that ``torch.load`` reads.
        map_location: Where the tensors go, as in ``torch.load``.

    Returns:
        What the file holds, usually a dict.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is a folder, is not a checkpoint, is damaged, or would execute code.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f'expected a checkpoint file, found nothing at {path!r}')
    if os.path.isdir(path):
        raise ValueError(f'expected a checkpoint file, got the folder {path!r}; name a file in it')
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_explain(path, error)) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ValueError(
            f'cannot read the checkpoint {path!r}: it is damaged or not a checkpoint '
            f'({_first_line(error)}); copy or download it again'
        ) from error


def read_checkpoints_safely() -> None:
    """Make mmengine read every local checkpoint of this process through this module."""
    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)


def load_from_local(filename: str, map_location: str | torch.device | None = None):
    """mmengine's loader interface over :func:`read_checkpoint`; the log prints its name."""
    return read_checkpoint(os.path.expanduser(filename), map_location)


def _explain(path: str, error: Exception) -> str:
    """One sentence on a file that the weights-only reader refused."""
    message = str(error)
    if 'GLOBAL' not in message:
        return (
            f'cannot read the checkpoint {path!r}: it is damaged or not a checkpoint '
            f'({_first_line(error)}); copy or download it again'
        )
    return (
        f'refused the checkpoint {path!r}: reading it would execute {_named_global(message)}, '
        'which is not plain data, so nothing was run; use a file that holds tensors only, from a '
        'source you trust'
    )


def _named_global(message: str) -> str:
    """The function or class that torch's refusal names, such as ``posix.system``."""
    words = message.replace('`', ' ').replace(',', ' ').split()
    for word, following in zip(words, words[1:], strict=False):
        if word == 'GLOBAL':
            return following
    return 'code'


def _first_line(error: Exception) -> str:
    return f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else "no detail"}'
