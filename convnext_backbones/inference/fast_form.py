"""When the fast form applies: which inputs, modes and CPUs oneDNN's fused operations cover."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.layers import HAS_AVX512, HAS_ONEDNN

OPERATORS = (
    '_convolution_pointwise',
    '_convolution_pointwise_',
    '_reorder_convolution_weight',
)


def bf16_is_fast() -> bool:
    """Whether this CPU has instructions for bf16 and oneDNN uses them.

    On x86 oneDNN takes bf16 wherever there is AVX-512, and emulates what is missing.
    """
    if not HAS_ONEDNN or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    native = getattr(torch.cpu, '_is_avx512_bf16_supported', bool)  # not in older versions
    return not HAS_AVX512 or native()


def has_fast_form(module: nn.Module, *inputs: Tensor) -> bool:
    """Whether oneDNN's fused operations apply to ``module`` with these inputs.

    They support neither gradients nor autocast, no device but the CPU and no type but fp32.
    """
    if not HAS_ONEDNN or not all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS):
        return False
    tensors = (*inputs, *module.parameters())
    return (
        bool(torch.backends.mkldnn.enabled)
        and all(x.device.type == 'cpu' and x.dtype == torch.float32 for x in tensors)
        and not module.training
        and not torch.is_autocast_enabled('cpu')
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
        and not torch.compiler.is_compiling()
    )
