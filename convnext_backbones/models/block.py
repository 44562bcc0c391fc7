"""The ConvNeXt block, in a plain and a memory-efficient form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .layers import GELU, GRN, DepthwiseConv2d, DropPath, LayerNorm, PointwiseLinear
from .variants import NORM_EPS

MLP_RATIO = 4


class Block(nn.Module):
    """One ConvNeXt block: of V1 (section 2.6, figure 4), or of V2 (Woo et al., 2023, figure 5).

    7x7 depthwise convolution -> LayerNorm -> linear C to 4C -> GELU -> linear 4C to C -> layer
    scale -> stochastic depth -> residual sum. V2 has no layer scale, and global response
    normalization (GRN) after GELU.

    Args:
        dim: Channels C.
        drop_path_rate: Probability of dropping the branch in training.
        layer_scale_init_value: Initial value of ``gamma``; there is no ``gamma`` at 0 or below.
        norm_eps: Epsilon of the norm.
        use_grn: Whether there is GRN.
        memory_efficient: Keep 5C instead of 12C values per position for the backward pass (of 16C
            with GRN): the input, which the gradient of the depthwise weights needs, and the hidden
            map before GELU.
    """

    def __init__(
        self,
        dim: int,
        drop_path_rate: float,
        layer_scale_init_value: float,
        norm_eps: float = NORM_EPS,
        use_grn: bool = False,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__()
        self.dwconv = DepthwiseConv2d(dim)
        self.norm = LayerNorm(dim, eps=norm_eps)
        self.pwconv1 = PointwiseLinear(dim, MLP_RATIO * dim)
        self.act = GELU()
        self.grn = GRN(MLP_RATIO * dim) if use_grn else None
        self.pwconv2 = PointwiseLinear(MLP_RATIO * dim, dim)
        self.gamma = (
            nn.Parameter(torch.full((dim,), float(layer_scale_init_value)))
            if layer_scale_init_value > 0
            else None
        )
        self.drop_path = DropPath(drop_path_rate)
        self.memory_efficient = memory_efficient

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (N, C, H, W) to the same shape."""
        shortcut = x
        if self.memory_efficient and not torch.compiler.is_compiling() and self._is_trained(x):
            x = _keep_input_only(self._expand, x)
            x = _keep_input_only(self._contract_folded, x)
        else:
            x = self._expand(x)
            x = self._contract(x)
        return shortcut + self.drop_path(x)

    def _is_trained(self, x: Tensor) -> bool:
        """Whether there is a gradient to compute; a frozen block would keep its input for none."""
        return torch.is_grad_enabled() and (
            x.requires_grad or any(parameter.requires_grad for parameter in self.parameters())
        )

    def _expand(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the hidden map before GELU, (N, H, W, 4C)."""
        x = self.dwconv(x)
        x = x.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        x = self.norm(x)
        return self.pwconv1(x)  # (N, H, W, 4C)

    def _contract(self, x: Tensor) -> Tensor:
        """Map the hidden map, (N, H, W, 4C), to the scaled branch, (N, C, H, W)."""
        x = self.pwconv2(self._activate(x))  # (N, H, W, C)
        if self.gamma is not None:
            x = self.gamma * x
        return x.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)

    def _contract_folded(self, x: Tensor) -> Tensor:
        """Do the same with ``gamma`` folded into ``pwconv2``.

        The gradient of ``gamma`` then does not need the output of ``pwconv2``. In fp16 nothing is
        folded: the product of weight and gamma, initially 0.02 and 1e-6, would be zero.
        """
        if x.dtype == torch.float16:
            return self._contract(x)
        x = self.pwconv2(self._activate(x), self.gamma)  # (N, H, W, C)
        return x.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)

    def _activate(self, x: Tensor) -> Tensor:
        """Apply GELU, and GRN where there is one, to the hidden map, (N, H, W, 4C)."""
        x = self.act(x)
        return x if self.grn is None else self.grn(x)


def _keep_input_only(half: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run half a block and keep only its input for the backward pass.

    The backward pass recomputes no more than it needs: the checkpoint stops at the last tensor
    that it would have kept, the input of the pointwise layer, so that this layer does not run
    again. Nothing in either half is random.
    """
    return checkpoint(half, x, use_reentrant=False, preserve_rng_state=False)
