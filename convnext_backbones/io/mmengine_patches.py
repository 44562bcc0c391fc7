"""Every change that this package makes to mmengine, torch or the registries beyond its own objects.

Importing the package registers its own types, calls :func:`allow_mmengine_types`, and answers
mmcv's import of its compiled operators (``ops.finder``); nothing else.
Reading a config changes nothing. The other changes begin when a Runner, a model or a dataset is
built: their callers are in ``engine``, ``checks``, ``evaluation``, ``benchmark`` and ``tools``.

===================================  ==========================================================
function                             what it changes, for how long
===================================  ==========================================================
:func:`allow_mmengine_types`         torch's allow-list of types, for the process
:func:`mmseg_bases_found`            mmengine's ``MODULE2PACKAGE``, restored on exit
:func:`read_checkpoints_safely`      ``CheckpointLoader`` and ``load_from_http``, for the process
:func:`refuse_code_in_data`          mmengine's readers of pickle and YAML, for the process
:func:`write_checkpoints_atomically` mmengine's backend for local files, for the process
:func:`replace_loading_transforms`   two transforms in the registries, for the process
===================================  ==========================================================

All of them are needed with mmengine 0.10.4 to 0.10.7, the last release so far. Pillow's limit of
pixels is lifted, and restored, by a context manager in :mod:`.images`.
"""

from __future__ import annotations

import argparse
import inspect
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy
import torch
import yaml
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.fileio import LocalBackend, register_backend
from mmengine.fileio.handlers import PickleHandler, YamlHandler, register_handler
from mmengine.logging import HistoryBuffer
from mmengine.registry import TRANSFORMS
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
# numpy's array builders moved in numpy 2; a file names the place where the writer's numpy had them.
NUMPY_BUILDERS: tuple[Any, ...] = (
    numpy.ndarray.__reduce__(numpy.zeros(1))[0],
    numpy.float64(0).__reduce__()[0],
)
NUMPY_MODULES = ('numpy.core.multiarray', 'numpy._core.multiarray')
HISTORY_STATISTICS = ('min', 'max', 'mean', 'current')


# --- configs --------------------------------------------------------------------------------


@contextmanager
def mmseg_bases_found() -> Iterator[None]:
    """Let ``Config.fromfile`` find ``mmseg::`` bases with OneDL's distribution of mmseg.

    mmengine looks for their files in the distribution ``mmsegmentation``. OneDL's fork has another
    name; the module ``mmseg`` has the same name in both.
    """
    original = MODULE2PACKAGE.get('mmseg')
    MODULE2PACKAGE['mmseg'] = 'mmseg'
    try:
        yield
    finally:
        if original is None:
            del MODULE2PACKAGE['mmseg']
        else:
            MODULE2PACKAGE['mmseg'] = original


# --- reading --------------------------------------------------------------------------------


def read_files_safely() -> None:
    """Keep checkpoints and data files from executing code, in the whole process from here on."""
    read_checkpoints_safely()
    refuse_code_in_data()


def allow_mmengine_types() -> None:
    """Let ``torch.load`` read mmengine's own checkpoints weights-only.

    That is the default since torch 2.6, and mmengine's inferencers and Runner call ``torch.load``
    without a flag. Only the types named above are added to torch's allow-list.
    """
    builders = [(f, f'{module}.{f.__name__}') for f in NUMPY_BUILDERS for module in NUMPY_MODULES]
    torch.serialization.add_safe_globals(
        [*SAFE_TYPES, *builders, (_history_buffer_method, 'builtins.getattr')]
    )


def _history_buffer_method(owner: object, name: str) -> Callable:
    """Stand in for ``getattr`` in a checkpoint.

    A HistoryBuffer pickles its table of statistics as ``getattr(HistoryBuffer, 'mean')`` and the
    like. The real ``getattr`` would open every object to a forged file; this function returns
    those methods only.
    """
    if owner is not HistoryBuffer or name not in HISTORY_STATISTICS:
        raise pickle.UnpicklingError(f'Unsupported GLOBAL builtins.getattr of {owner!r}, {name!r}')
    return getattr(HistoryBuffer, name)


def read_checkpoints_safely() -> None:
    """Make mmengine read every checkpoint of this process through :mod:`.checkpoint`.

    Its downloads end in torch.hub, which unpacks archives and executes what it reads.
    """
    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)
    CheckpointLoader.register_scheme(
        prefixes=('http://', 'https://'), loader=load_from_http, force=True
    )
    # The loaders of torchvision:// and open-mmlab:// names call this function.
    mmengine_checkpoint.load_from_http = load_from_http


def load_from_local(filename: str, map_location: str | torch.device | None = None) -> Any:
    """Read a local checkpoint for mmengine, which prints the name of this function in the log."""
    return read_checkpoint(os.path.expanduser(filename), map_location)


def load_from_http(filename: str, map_location: str | torch.device | None = None) -> Any:
    """Read the checkpoint of a URL for mmengine; it is downloaded once and kept."""
    return read_checkpoint(find_or_fetch(filename, check=check_container), map_location)


def refuse_code_in_data() -> None:
    """Keep mmengine from executing code in the data files that it reads in this process.

    mmengine reads the files that a config names, such as annotations, proposals and class weights,
    through these handlers. Messages between processes, in memory or in temporary files of their
    own, do not pass through them.
    """
    register_handler(['pkl', 'pickle'])(RefusedPickles)
    register_handler(['yaml', 'yml'])(PlainYaml)


class RefusedPickles(PickleHandler):
    """Handler of ``.pkl`` files that writes them but refuses to read them."""

    def load_from_fileobj(self, file: IO[bytes], **kwargs: Any) -> Any:
        """Refuse to read any file.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            'refused to read a pickle, which can execute code: expected JSON where the config '
            'names data (such as ann_file and proposal_file), got a .pkl or .pickle file; convert '
            'it with json.dump(pickle.load(...), ...), if you trust it'
        )


class PlainYaml(YamlHandler):
    """Handler of YAML files for plain data: tags of Python objects are errors."""

    def load_from_fileobj(self, file: IO[str], **kwargs: Any) -> Any:
        """Return the contents of the file."""
        return yaml.safe_load(file)


def replace_loading_transforms(
    scope: str, load_image: type, wrap_annotations: Callable[[Any], Any]
) -> None:
    """Replace LoadImageFromFile and LoadAnnotations in the registries, for pipelines built later.

    OpenMMLab's transforms do not say which file they cannot read. Configs stay as they are.

    Args:
        scope: The ``default_scope`` of the config, ``mmdet`` or ``mmseg``.
        load_image: The class to register as LoadImageFromFile.
        wrap_annotations: Called with every LoadAnnotations that is built, returns the transform to
            use in its place.
    """
    TRANSFORMS.register_module('LoadImageFromFile', force=True, module=load_image)
    with TRANSFORMS.switch_scope_and_registry(scope) as registry:
        original = registry.get('LoadAnnotations')
        if not inspect.isclass(original):  # replaced already, by the function below
            return

        def load_annotations(*args: Any, **kwargs: Any) -> Any:
            return wrap_annotations(original(*args, **kwargs))

        registry.register_module('LoadAnnotations', force=True, module=load_annotations)


# --- writing --------------------------------------------------------------------------------


def write_checkpoints_atomically() -> None:
    """Make mmengine write checkpoints as a whole or not at all, in this process from here on.

    mmengine writes into the final file; a process killed meanwhile leaves half a checkpoint.
    """
    register_backend('local', AtomicBackend, force=True, prefixes='')


class AtomicBackend(LocalBackend):
    """Backend for local files that replaces a file as a whole; mmengine's default otherwise."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` to ``filepath``, whose folder is created if needed."""
        mkdir_or_exist(os.path.dirname(filepath))
        write_atomically(Path(filepath), obj)
