"""What tests of the kernels in C need."""

import os

import pytest
import torch

from convnext_backbones.native.compiler import VARIABLE, UnavailableError, find_compiler


def why_not() -> str:
    """Why there can be no kernels here. Kernels that fail their check are no reason to skip."""
    if os.environ.get(VARIABLE) == '0':
        return f'{VARIABLE}=0 turns them off'
    try:
        find_compiler()
    except UnavailableError as error:
        return str(error)
    return ''


needs_compiler = pytest.mark.skipif(bool(why_not()), reason=why_not() or 'none')


def randomized(module):
    """Parameters of which none is 0 or 1."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 1))
    return module.eval()
