"""What tests of the kernels in C need."""

import pytest
import torch

from convnext_backbones.native.compiler import why_unavailable

needs_compiler = pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or 'none')


def randomized(module):
    """Parameters of which none is 0 or 1."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 1))
    return module.eval()
