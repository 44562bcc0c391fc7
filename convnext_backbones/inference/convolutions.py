"""Fast convolutions and linear layers of necks and heads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from ..models.layers import HAS_AVX512, PointwiseLinear
from ..native.compiler import load
from ..native.head_kernels import convolve_3x3
from ..ops.winograd import KERNEL, convolve, is_covered, is_faster
from .fast_form import has_fast_form
from .tuning import Site, Tuner

PADDING = [KERNEL // 2, KERNEL // 2]
UNIT = [1, 1]  # stride and dilation


class InferenceLinear(PointwiseLinear):
    """A linear layer over the last axis, computed by oneDNN or by torch's own library.

    Attributes:
        tuner: Chooses between them.
        compute_dtype: bf16 if products may be rounded to it, else fp32.
    """

    tuner: Tuner
    compute_dtype: torch.dtype

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Map ``x`` of shape (..., C_in) to (..., C_out); there is no ``scale`` in heads."""
        if not x.numel() or not has_fast_form(self, x):
            return F.linear(x, self.weight, self.bias)
        rows = x.reshape(1, 1, -1, self.in_features)
        forms = dict(
            onednn=lambda: convolve_rows(rows, self.weight, self.bias),
            linear=lambda: F.linear(rows, self.weight, self.bias),
        )
        if self.compute_dtype == torch.bfloat16:
            forms['bf16'] = lambda: F.linear(*_rounded(rows, self.weight, self.bias)).float()
        site = Site(
            'linear', self.compute_dtype, (self.in_features, self.out_features), rows.shape[2]
        )
        default = 'onednn' if HAS_AVX512 else 'linear'
        form = self.tuner.choose(site, forms, default=default, reference='linear')
        return forms[form]().reshape(*x.shape[:-1], self.out_features)


class InferenceConv2d(nn.Conv2d):
    """A 3x3 convolution with half or a quarter of the multiplications, or in bf16.

    Attributes:
        tuner: Chooses among them.
        compute_dtype: As that of :class:`InferenceLinear`.
    """

    tuner: Tuner
    compute_dtype: torch.dtype

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (N, C_in, H, W) to (N, C_out, H, W)."""
        if not has_fast_form(self, x) or not x.numel():
            return super().forward(x)
        return convolve_fastest(self.tuner, self.compute_dtype, x, self.weight, self.bias)


class InferenceConvModule(ConvModule):
    """Convolution, batch norm and ReLU in one operation.

    Attributes:
        tuner: Chooses how to convolve.
        compute_dtype: As that of :class:`InferenceLinear`.
    """

    tuner: Tuner
    compute_dtype: torch.dtype

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        """Map ``x`` of shape (N, C_in, H, W) to (N, C_out, H', W')."""
        if not has_fast_form(self, x) or not (activate and norm):
            return super().forward(x, activate, norm)
        weight, bias = folded(self)
        conv, relu = self.conv, self.with_activation
        if is_covered(conv) and x.numel():
            return convolve_fastest(self.tuner, self.compute_dtype, x, weight, bias, relu)
        x = x.contiguous(memory_format=torch.channels_last)
        geometry: list[Any] = [[*conv.padding], [*conv.stride], [*conv.dilation], conv.groups]

        def in_fp32() -> Tensor:
            return _with_onednn(x, weight, bias, geometry, relu)

        def in_bf16() -> Tensor:
            return _with_onednn(*_rounded(x, weight, bias), geometry=geometry, relu=relu).float()

        # oneDNN may compute garbage in maps of one column, see PatchConv2d.
        if self.compute_dtype == torch.float32 or x.shape[3] <= conv.stride[1] or not x.numel():
            return in_fp32()
        sizes = conv.in_channels, conv.out_channels, *conv.kernel_size, *conv.stride
        positions = x.shape[0] * x.shape[2] * x.shape[3]
        site = Site('conv', self.compute_dtype, sizes, positions)
        forms = dict(onednn=in_fp32, bf16=in_bf16)
        return forms[self.tuner.choose(site, forms, default='onednn', reference='onednn')]()


def convolve_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute a linear layer of an NHWC map as oneDNN's 1x1 convolution."""
    x = F.conv2d(x.permute(0, 3, 1, 2), weight[:, :, None, None], bias)
    return x.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)


def _rounded(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    return x.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16()


def _with_onednn(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: list[Any], relu: bool
) -> Tensor:
    """Convolve, with padding, stride, dilation and groups in ``geometry``."""
    activation = 'relu' if relu else 'none'
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, activation, [], '')


def convolve_fastest(
    tuner: Tuner,
    dtype: torch.dtype,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Convolve with a 3x3 kernel and a padding of one, by the fastest way.

    Args:
        tuner: Chooses it.
        dtype: bf16 if products may be rounded to it, else fp32.
        x: Of shape (N, C, H, W), fp32, on a CPU with oneDNN.
        weight: Of shape (C', C, 3, 3), in channels_last.
        bias: Of shape (C',).
        relu: Whether negative results become zero.

    Returns:
        The result, of shape (N, C', H, W).
    """
    x = x.contiguous(memory_format=torch.channels_last)
    forms: dict[str, Callable[[], Tensor]] = {}
    library = load()
    if library is not None:
        forms['native'] = lambda: convolve_3x3(library, x, weight, bias, relu)
    forms['winograd'] = lambda: convolve(x, weight, bias, relu=relu)
    geometry: list[Any] = [PADDING, UNIT, UNIT, 1]
    forms['onednn'] = lambda: _with_onednn(x, weight, bias, geometry, relu)
    if dtype == torch.bfloat16:
        rounded = partial(_rounded, x, weight, bias)
        forms['bf16'] = lambda: _with_onednn(*rounded(), geometry=geometry, relu=relu).float()
    samples, channels, height, width = x.shape
    site = Site('conv 3x3', dtype, (channels, len(weight)), samples * height * width)
    default = next(iter(forms)) if is_faster(weight, x) else 'onednn'
    return forms[tuner.choose(site, forms, default=default, reference='onednn')]()


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
