"""Forms of a block besides oneDNN's: the kernels in C, linear layers, and compiled code.

All replace a map, of shape (N, C, H, W) in channels_last, by the output of the block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.block import Block
from ..models.layers import GRN, sums_of_squares
from ..native.compiler import Library
from ..native.gradients import KERNEL_SIZE
from ..native.kernels import BlockWeights, Scratch, add_branch, add_branch_bf16, pack_bf16
from .bands import even_share, fitting
from .cache import ParameterCache


def add_by_kernels(
    block: Block,
    x: Tensor,
    library: Library,
    scratch: Scratch,
    packed: ParameterCache[Tensor],
) -> None:
    """Compute with the kernels in C.

    Args:
        block: The block.
        x: The map, fp32 or bf16.
        library: The kernels.
        scratch: Memory for intermediate maps.
        packed: Keeps the weights in bf16; fp32 needs none.
    """
    weights = _weights(block)
    if x.dtype == torch.float32:
        add_branch(library, x, weights, block.norm.eps, scratch)
        return
    pack = partial(pack_bf16, library, weights.pwconv1, weights.pwconv2)
    halves = packed.get(block, library.build, pack)
    add_branch_bf16(library, x, weights, halves, block.norm.eps, scratch)


def _weights(block: Block) -> BlockWeights:
    return BlockWeights(
        dwconv=block.dwconv.weight,
        dwconv_bias=block.dwconv.bias,
        norm_weight=block.norm.weight,
        norm_bias=block.norm.bias,
        pwconv1=block.pwconv1.weight,
        pwconv1_bias=block.pwconv1.bias,
        pwconv2=block.pwconv2.weight,
        pwconv2_bias=block.pwconv2.bias,
        grn_gamma=None if block.grn is None else block.grn.gamma,
        grn_beta=None if block.grn is None else block.grn.beta,
        gamma=block.gamma,
    )


def add_by_linear(block: Block, x: Tensor) -> None:
    """Compute with ``F.linear``, for some positions at a time, and GELU in place."""
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)  # (N, C, H, W) -> (N * H * W, C), a view
    dwconv, norm = block.dwconv, block.norm
    bias = None if dwconv.bias is None else dwconv.bias.to(x.dtype)
    y = F.conv2d(x, dwconv.weight.to(x.dtype), bias, padding=dwconv.padding, groups=x.shape[1])
    y = y.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
    y = F.layer_norm(y, norm.normalized_shape, norm.weight, norm.bias, norm.eps).flatten(0, 2)
    weight1, bias1 = block.pwconv1.weight.to(x.dtype), block.pwconv1.bias.to(x.dtype)
    weight2: Tensor = block.pwconv2.weight
    bias2: Tensor = block.pwconv2.bias
    if block.gamma is not None:
        weight2, bias2 = block.gamma[:, None] * weight2, block.gamma * bias2
    weight2, bias2 = weight2.to(x.dtype), bias2.to(x.dtype)
    step = even_share(len(rows), fitting(len(weight1) * x.element_size()))
    hidden = []
    for i, some in enumerate(y.split(step)):
        part = torch.ops.aten.gelu_.default(F.linear(some, weight1, bias1))
        if block.grn is None:
            rows[i * step : (i + 1) * step] += F.linear(part, weight2, bias2)
        else:
            hidden.append(part)
    if block.grn is None:
        return
    whole = torch.cat(hidden).unflatten(0, (x.shape[0], *x.shape[2:]))  # (N, H, W, 4C)
    scale = 1 + block.grn.gamma * GRN.relative(sums_of_squares(whole).sqrt())
    whole = torch.addcmul(block.grn.beta, whole, scale[:, None, None]).to(x.dtype)
    for i, part in enumerate(whole.flatten(0, 2).split(step)):
        rows[i * step : (i + 1) * step] += F.linear(part, weight2, bias2)


def add_by_compiled(block: Block, x: Tensor) -> None:
    """Compute with code that torch's compiler makes, which takes seconds for each shape."""
    parameters = dict(block.named_parameters())
    function = _compiled(block.norm.eps, block.grn is not None, block.gamma is not None)
    x.copy_(function(x, parameters))


@functools.cache
def _compiled(eps: float, has_grn: bool, has_gamma: bool) -> Callable[..., Tensor]:
    """Return the compiled block as a function of its parameters, shared by all blocks."""

    def compute(x: Tensor, p: dict[str, Tensor]) -> Tensor:
        channels = x.shape[1]
        y = F.conv2d(
            x, p['dwconv.weight'], p.get('dwconv.bias'), padding=KERNEL_SIZE // 2, groups=channels
        ).permute(0, 2, 3, 1)
        y = F.layer_norm(y, (channels,), p['norm.weight'], p['norm.bias'], eps)
        y = F.gelu(F.linear(y, p['pwconv1.weight'], p['pwconv1.bias']))
        if has_grn:
            response = torch.linalg.vector_norm(y, dim=(1, 2), keepdim=True)
            scale = 1 + p['grn.gamma'] * GRN.relative(response)
            y = torch.addcmul(p['grn.beta'], y, scale)
        y = F.linear(y, p['pwconv2.weight'], p['pwconv2.bias'])
        if has_gamma:
            y = p['gamma'] * y
        return x + y.permute(0, 3, 1, 2)

    return torch.compile(compute, dynamic=False)
