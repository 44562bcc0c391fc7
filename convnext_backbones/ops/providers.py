"""Who computes mmcv's operators: compiled mmcv, torchvision, or plain torch.

mmcv's own Python asks one module for all of them, ``mmcv._ext``. :func:`find_extension` answers
that import with the best provider that runs here, or with the one that
``CONVNEXT_BACKBONES_OPS=mmcv|torchvision|torch`` names.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType

import torch

from .stand_in import StandIn

EXTENSION = 'mmcv._ext'
VARIABLE = 'CONVNEXT_BACKBONES_OPS'
logger = logging.getLogger('convnext_backbones')


class ProviderError(ImportError):
    """A provider does not run here; the message says why in a sentence."""


class NotInstalledError(ProviderError):
    """A provider is not installed."""


def find_extension(path: Sequence[str]) -> ModuleType:
    """Return the module that serves as ``mmcv._ext``.

    Args:
        path: Folders of mmcv's submodules, its ``__path__``.

    Raises:
        ImportError: The environment variable names a provider that does not run here.
        ValueError: It names no provider.
    """
    wanted = os.environ.get(VARIABLE, '')
    if wanted and wanted not in PROVIDERS:
        raise ValueError(
            f'{VARIABLE} is {wanted!r}: expected {", ".join(PROVIDERS)}, or nothing for the best '
            'one that runs'
        )
    reasons = []
    for name in (wanted,) if wanted else PROVIDERS:
        try:
            module = PROVIDERS[name](path)
        except ProviderError as error:
            reasons.append(str(error))
            # Whoever compiled mmcv expects it to serve.
            if name == 'mmcv' and not isinstance(error, NotInstalledError):
                logger.warning('%s', error)
            continue
        why = f' ({"; ".join(reasons)})' if reasons else ''
        logger.info("mmcv's operators are computed by %s%s", describe(module), why)
        return module
    raise ImportError(f'{VARIABLE} is {wanted!r}, but {reasons[0]}', name=EXTENSION)


def serving() -> str:
    """Return the provider of this process: mmcv, torchvision or torch; empty before its choice.

    It is chosen at the first import of ``mmcv.ops``, and stays.
    """
    module = sys.modules.get(EXTENSION)
    return provider_of(module) if module else ''


def serving_description() -> str:
    """Return the provider of this process with its version; empty before its choice."""
    module = sys.modules.get(EXTENSION)
    return describe(module) if module else ''


def provider_of(module: ModuleType) -> str:
    """Return the name of the provider behind a module that serves as ``mmcv._ext``."""
    return module.provider if isinstance(module, StandIn) else 'mmcv'


def describe(module: ModuleType) -> str:
    """Return the provider behind a module that serves as ``mmcv._ext``, for a log."""
    if isinstance(module, StandIn):
        return module.description
    return 'compiled mmcv'


def _compiled(path: Sequence[str]) -> ModuleType:
    """Return mmcv's own extension."""
    spec = PathFinder.find_spec(EXTENSION, path)
    if spec is None or spec.loader is None:
        raise NotInstalledError('mmcv is installed without its compiled operators')
    try:
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30]])
        kept = module.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), iou_threshold=0.5, offset=0)
        cuda = module.get_compiling_cuda_version()
    except Exception as error:
        raise ProviderError(
            f"mmcv's compiled operators do not run, as if built for another torch than "
            f'{torch.__version__}: {error}'
        ) from error
    if kept.tolist() != [0, 2]:
        raise ProviderError(f"mmcv's compiled operators are wrong: nms keeps boxes {kept.tolist()}")
    if cuda == 'not available' and torch.cuda.is_available():
        raise ProviderError("mmcv's compiled operators were built without CUDA, and there is a GPU")
    return module


def _torchvision(path: Sequence[str]) -> ModuleType:
    """Return the stand-in over torchvision's operators."""
    try:
        import torchvision
    except ImportError as error:
        raise NotInstalledError(f'torchvision is not installed ({error})') from error
    except Exception as error:
        raise ProviderError(
            f'torchvision does not load beside torch {torch.__version__}: {error}'
        ) from error
    version = getattr(torchvision, '__version__', 'of no version')
    keys = ['CPU', *['CUDA'] * torch.cuda.is_available()]
    for key in keys:
        if not _torchvision_has_kernels(key):
            raise ProviderError(f'torchvision {version} has no operators for {key}')
    from .torchvision_operators import OPERATORS

    return StandIn('torchvision', f'torchvision {version}', OPERATORS)


def _torchvision_has_kernels(key: str) -> bool:
    """Whether torchvision's operators are loaded and have kernels for a kind of device."""
    try:
        return torch._C._dispatch_has_kernel_for_dispatch_key('torchvision::nms', key)
    except RuntimeError:  # there is no such operator
        return False


def _torch(path: Sequence[str]) -> ModuleType:
    """Return the stand-in in plain torch."""
    return StandIn('torch', f'plain torch {torch.__version__}')


# Best first.
PROVIDERS: dict[str, Callable[[Sequence[str]], ModuleType]] = {
    'mmcv': _compiled,
    'torchvision': _torchvision,
    'torch': _torch,
}
