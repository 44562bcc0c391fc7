"""Fast convolutions and linear layers of necks and heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from ..models.layers import PointwiseLinear
from ..ops.winograd import convolve, is_covered, is_faster
from .fast_form import has_fast_form


class InferenceLinear(PointwiseLinear):
    """A linear layer over the last axis, computed by oneDNN."""

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Map ``x`` of shape (..., C_in) to (..., C_out); there is no ``scale`` in heads."""
        if not x.numel() or not has_fast_form(self, x):
            return F.linear(x, self.weight, self.bias)
        rows = x.reshape(1, 1, -1, self.in_features)
        return super().forward(rows).reshape(*x.shape[:-1], self.out_features)


class InferenceConv2d(nn.Conv2d):
    """A 3x3 convolution with half of the multiplications."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (N, C_in, H, W) to (N, C_out, H, W)."""
        if not has_fast_form(self, x) or not is_faster(self.weight, x):
            return super().forward(x)
        return convolve(x, self.weight, self.bias)


class InferenceConvModule(ConvModule):
    """Convolution, batch norm and ReLU in one operation."""

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        """Map ``x`` of shape (N, C_in, H, W) to (N, C_out, H', W')."""
        if not has_fast_form(self, x) or not (activate and norm):
            return super().forward(x, activate, norm)
        weight, bias = folded(self)
        conv = self.conv
        if is_covered(conv) and is_faster(weight, x):
            return convolve(x, weight, bias, relu=self.with_activation)
        return torch.ops.mkldnn._convolution_pointwise(
            x.contiguous(memory_format=torch.channels_last),
            weight,
            bias,
            *map(list, (conv.padding, conv.stride, conv.dilation)),
            conv.groups,
            'relu' if self.with_activation else 'none',
            [],
            '',
        )


def is_fusible(module: ConvModule) -> bool:
    """Whether ``module`` consists of convolution, batch norm and ReLU only, in this order."""
    return (
        type(module.conv) is nn.Conv2d
        and module.conv.padding_mode == 'zeros'
        and not isinstance(module.conv.padding, str)
        and not module.with_explicit_padding
        and not module.with_spectral_norm
        and module.order == ('conv', 'norm', 'act')
        and (not module.with_norm or _is_constant(module.norm))
        and (not module.with_activation or type(module.activate) is nn.ReLU)
    )


def _is_constant(norm: nn.Module) -> bool:
    """Whether ``norm`` is a constant scale and shift in evaluation mode."""
    return (
        isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm))
        and norm.track_running_stats
        and norm.affine
    )


def folded(module: ConvModule) -> tuple[Tensor, Tensor | None]:
    """Return weight, in channels_last, and bias of a convolution that includes the batch norm."""
    weight, bias = module.conv.weight, module.conv.bias
    if module.with_norm:
        norm = module.norm
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = weight * scale[:, None, None, None]
        shift = -norm.running_mean if bias is None else bias - norm.running_mean
        bias = norm.bias + scale * shift
    return weight.contiguous(memory_format=torch.channels_last), bias
