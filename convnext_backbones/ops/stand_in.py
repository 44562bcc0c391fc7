"""The module that mmcv's Python gets in place of its compiled one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

import torch

# Modules of operators in plain torch. Each lists, in OPERATORS, those that it has.
PLAIN = (
    'boxes',
    'roi_align',
    'roi_pool',
    'deform_conv',
    'deform_roi_pool',
    'deform_attention',
    'masked_conv',
    'focal_loss',
    'carafe',
    'psa_mask',
    'sync_bn',
)
Operators = Mapping[str, Callable[..., Any]]


class StandIn(ModuleType):
    """A module with mmcv's operators, by the names and arguments of the compiled one.

    Operators that it lacks can be looked up, since mmcv looks up all of them at its import, and
    raise NotImplementedError when they are called.

    Attributes:
        provider: ``torchvision`` or ``torch``.
        description: The provider with its version.
        operators: Those that it has, by name.

    Args:
        provider: See above.
        description: See above.
        faster: Operators of the provider, in place of those in plain torch.
    """

    def __init__(self, provider: str, description: str, faster: Operators | None = None) -> None:
        super().__init__('mmcv._ext', __doc__)
        self.provider = provider
        self.description = description
        self.operators: dict[str, Callable[..., Any]] = {
            'get_compiler_version': lambda: f'none: {description}',
            'get_compiling_cuda_version': lambda: torch.version.cuda or 'not available',
        }
        for name in PLAIN:
            self.operators |= import_module(f'.{name}', __package__).OPERATORS
        self.operators |= faster or {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return an operator; for one that is missing, a function that says so.

        Raises:
            AttributeError: The name cannot be an operator's.
        """
        if name.startswith('_'):
            raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')
        return self.operators.get(name) or _missing(name, self.description)


def _missing(name: str, description: str) -> Callable[..., NoReturn]:
    def operator(*arguments: Any, **keywords: Any) -> NoReturn:
        raise NotImplementedError(
            f"mmcv's operator {name} needs a compiled mmcv: here {description} computes the "
            'operators, and has those of the detectors and segmentors of mmdet and mmseg only'
        )

    operator.__name__ = operator.__qualname__ = name
    return operator
