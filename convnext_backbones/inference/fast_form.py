"""When the fast form applies: which inputs, modes and CPUs oneDNN's fused operations cover."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..models.layers import HAS_AVX512, HAS_ONEDNN
from ..native.compiler import load

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


def has_onednn() -> bool:
    """Whether oneDNN's fused operations can be used now."""
    return HAS_ONEDNN and bool(torch.backends.mkldnn.enabled) and _are_there(OPERATORS)


@functools.cache
def _are_there(operators: tuple[str, ...]) -> bool:
    return all(hasattr(torch.ops.mkldnn, name) for name in operators)


def can_be_faster() -> bool:
    """Whether there is anything besides torch's own operators: the kernels or oneDNN."""
    return has_onednn() or load() is not None


def has_fast_form(module: nn.Module, *inputs: Tensor) -> bool:
    """Whether oneDNN's fused operations apply to ``module`` with these inputs."""
    return has_onednn() and is_plain_call(module, *inputs)


def is_plain_call(module: nn.Module, *inputs: Tensor) -> bool:
    """Whether ``module`` computes fp32 on the CPU, and nothing but its output is wanted.

    Neither oneDNN's fused operations nor the kernels support gradients, autocast or compilers.
    """
    tensors = (*inputs, *_parameters(module))
    return (
        all(x.device.type == 'cpu' and x.dtype == torch.float32 for x in tensors)
        and not module.training
        and not torch.is_autocast_enabled('cpu')
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
        and not torch.compiler.is_compiling()
    )


def _parameters(module: nn.Module) -> Iterator[Tensor]:
    """Iterate over all parameters, some more than once, faster than ``module.parameters()``."""
    for parameter in module._parameters.values():
        if parameter is not None:
            yield parameter
    for part in module._modules.values():
        if part is not None:
            yield from _parameters(part)
