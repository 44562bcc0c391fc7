"""Answer ``import mmcv._ext``, with which mmcv asks for its compiled operators.

Importing this package installs :class:`Finder`. In processes that import mmcv first, the file
``convnext_backbones_ops.pth`` has done so: Python reads it at its start, and the finder in it
calls :func:`find_spec` at the first ``import mmcv.ops``. It costs one comparison of two strings per
module that is found, and imports nothing until then.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from .providers import EXTENSION, find_extension


class Ready(Loader):
    """Loader of a module that exists already."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module as it is."""


def find_spec(
    name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
) -> ModuleSpec | None:
    """Return a spec for ``mmcv._ext``, and None for every other module.

    Raises:
        ImportError: ``CONVNEXT_BACKBONES_OPS`` names a provider that does not run here.
        ValueError: It names no provider.
    """
    if name != EXTENSION:
        return None
    return ModuleSpec(name, Ready(find_extension(path or ())))


class Finder(MetaPathFinder):
    """Finder of ``mmcv._ext``, ahead of Python's own."""

    find_spec = staticmethod(find_spec)


def install() -> None:
    """Let this process find ``mmcv._ext`` here."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
