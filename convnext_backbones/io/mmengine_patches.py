"""Every change this package makes to mmengine or torch beyond its own objects, with reasons."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path

import numpy
import torch
import yaml
from mmengine.fileio import LocalBackend, register_backend
from mmengine.fileio.handlers import PickleHandler, YamlHandler, register_handler
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.utils import mkdir_or_exist

from .checkpoint import check_container, read_checkpoint
from .download import find_or_fetch
from .files import write_atomically

# What training checkpoints hold beside tensors and plain containers: mmengine's log buffers, the
# numpy arrays in them, and the parsed flags of the authors' and timm's scripts. Each is a plain
# record; building one runs no foreign code.
SAFE_TYPES = (
    HistoryBuffer,
    argparse.Namespace,
    numpy.ndarray,
    numpy.dtype,
    *(type(numpy.dtype(kind)) for kind in ('float32', 'float64', 'int32', 'int64', 'bool')),
)
# numpy's own array builders moved in numpy 2; files of either version name the place of theirs.
NUMPY_BUILDERS = (numpy.ndarray.__reduce__(numpy.zeros(1))[0], numpy.float64(0).__reduce__()[0])
HISTORY_STATISTICS = ('min', 'max', 'mean', 'current')
NUMPY_MODULES = ('numpy.core.multiarray', 'numpy._core.multiarray')


class RefusedPickles(PickleHandler):
    """mmengine's handler of ``.pkl`` files, which writes them and does not read them."""

    def load_from_fileobj(self, file, **kwargs):
        """Refuse, whatever the file holds.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            'refused to read a pickle, which can execute code: expected JSON where the config '
            'names data (such as ann_file and proposal_file), got a .pkl or .pickle file; convert '
            'it with json.dump(pickle.load(...), ...), if you trust it'
        )


class PlainYaml(YamlHandler):
    """mmengine's handler of YAML files, for plain data: tags of Python objects are errors."""

    def load_from_fileobj(self, file, **kwargs):
        """What the file holds."""
        return yaml.safe_load(file)


def refuse_code_in_data() -> None:
    """Make mmengine execute nothing in the data files that it reads in this process.

    It reads what a config names, such as annotations, proposals and class weights, through these
    handlers. What processes tell each other, in memory or in temporary files of their own, does
    not pass here.
    """
    register_handler(['pkl', 'pickle'])(RefusedPickles)
    register_handler(['yaml', 'yml'])(PlainYaml)


def read_files_safely() -> None:
    """Execute nothing of what checkpoints and data say, in the whole process from here on."""
    read_checkpoints_safely()
    refuse_code_in_data()


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


def read_checkpoints_safely() -> None:
    """Make mmengine read every checkpoint of this process through this module.

    Its own way of downloading ends in torch.hub, which executes what it reads.
    """
    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)
    CheckpointLoader.register_scheme(
        prefixes=('http://', 'https://'), loader=load_from_http, force=True
    )
    # The loaders of torchvision:// and open-mmlab:// names call this one.
    mmengine_checkpoint.load_from_http = load_from_http


def load_from_local(filename: str, map_location: str | torch.device | None = None):
    """mmengine's loader interface over :func:`read_checkpoint`; the log prints its name."""
    return read_checkpoint(os.path.expanduser(filename), map_location)


def load_from_http(filename: str, map_location: str | torch.device | None = None):
    """The same for a URL, which is downloaded once and kept."""
    return read_checkpoint(find_or_fetch(filename, check=check_container), map_location)


class AtomicBackend(LocalBackend):
    """mmengine's access to local files, by which it writes checkpoints, all or nothing."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` to ``filepath``, whose folder is made if it is not there."""
        mkdir_or_exist(os.path.dirname(filepath))
        write_atomically(Path(filepath), obj)


def write_checkpoints_atomically() -> None:
    """Make mmengine write checkpoints through this module, in this process from here on."""
    register_backend('local', AtomicBackend, force=True, prefixes='')
