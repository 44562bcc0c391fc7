"""The trunk that backbone and classifier share: stem, downsampling layers and stages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from .arguments import check_flag, check_init_cfg, check_integer, check_probability, check_real
from .block import Block
from .layers import LayerNorm2d, PatchConv2d
from .variants import MAX_DIM, resolve_variant

INIT_STD = 0.02
PATCH_SIZE = 4  # the authors'
DOWNSAMPLE_STRIDE = 2
DROP_PATH_HINT = '; the paper uses 0.3 to 0.8 for detection and segmentation'
# The authors' value for pretraining; ConvNeXt V2 has no layer scale.
LAYER_SCALE = 1e-6
# By timm's names: the authors' convolution over patches, or two padded 3x3 convolutions of stride
# 2, the first of which gives all channels or half of them.
STEM_TYPES = ('patch', 'overlap', 'overlap_tiered')
# Input types that autocast converts; it leaves others unchanged.
AUTOCAST_TYPES = (torch.float32, torch.float16, torch.bfloat16)


class Trunk(BaseModule):
    """Base class of backbone and classifier.

    Args:
        arch: A name or a dict with ``depths`` and ``dims``; see :func:`resolve_variant`.
        depths: Blocks per stage, instead of ``arch``.
        dims: Channels per stage, instead of ``arch``.
        in_chans: Channels of the input.
        drop_path_rate: Stochastic depth rate of the last block of the network, in [0, 1).
        layer_scale_init_value: Initial value of ``gamma``; none at 0 or below.
        use_grn: Whether the blocks are those of V2; see :class:`Block`.
        stem_type: One of :data:`STEM_TYPES`.
        patch_size: Stride of the stem.
        norm_eps: Epsilon of all norms; None takes the variant's.
        num_stages: Build only so many stages. Stochastic depth is still spread over all of the
            variant's, so that the built stages equal those of the whole network.
        memory_efficient: See :class:`Block`.
        init_cfg: mmengine's initialization config.
    """

    def __init__(
        self,
        *,
        arch: str | Mapping | None,
        depths: Sequence[int] | None,
        dims: Sequence[int] | None,
        in_chans: int,
        drop_path_rate: float,
        layer_scale_init_value: float | None,
        use_grn: bool,
        stem_type: str,
        patch_size: int,
        norm_eps: float | None,
        num_stages: int | None = None,
        memory_efficient: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        check_init_cfg(init_cfg)
        super().__init__(init_cfg=init_cfg)
        check_integer('in_chans', in_chans, minimum=1, maximum=MAX_DIM)
        check_probability('drop_path_rate', drop_path_rate, DROP_PATH_HINT)
        check_flag('use_grn', use_grn)
        if layer_scale_init_value is None:
            layer_scale_init_value = 0.0 if use_grn else LAYER_SCALE
        check_real('layer_scale_init_value', layer_scale_init_value)
        _check_stem(stem_type, patch_size)
        self.variant = resolve_variant(arch, depths, dims)
        self.in_chans = in_chans
        self.use_grn = use_grn
        self.stem_type = stem_type
        self.patch_size = patch_size
        self.norm_eps = self.variant.norm_eps if norm_eps is None else _checked_eps(norm_eps)
        if num_stages is None:
            num_stages = len(self.variant.depths)
        widths = (in_chans, *self.variant.dims)
        self.downsample_layers = nn.ModuleList(
            self._stem(*widths[:2]) if i == 0 else self._downsampling(*widths[i : i + 2])
            for i in range(num_stages)
        )
        # Linear from 0 for the first block of the network to the full rate for its last. Plain
        # Python arithmetic: tensors would break construction on the meta device.
        rate = float(drop_path_rate)  # fractions neither multiply tensors nor print as numbers
        last_block = max(sum(self.variant.depths) - 1, 1)
        rates = (rate * i / last_block for i in itertools.count())
        make_block = partial(
            Block,
            layer_scale_init_value=layer_scale_init_value,
            norm_eps=self.norm_eps,
            use_grn=use_grn,
            memory_efficient=memory_efficient,
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(make_block(dim, next(rates)) for _ in range(depth)))
            for depth, dim in zip(self.variant.depths[:num_stages], self.variant.dims, strict=False)
        )
        self.apply(init_module)

    def _stem(self, in_chans: int, dim: int) -> nn.Sequential:
        norm = LayerNorm2d(dim, eps=self.norm_eps)
        if self.stem_type == 'patch':
            return nn.Sequential(PatchConv2d(in_chans, dim, self.patch_size), norm)
        middle = dim if self.stem_type == 'overlap' else _half(dim)
        return nn.Sequential(
            nn.Conv2d(in_chans, middle, kernel_size=3, stride=2, padding=1),
            nn.Conv2d(middle, dim, kernel_size=3, stride=2, padding=1),
            norm,
        )

    def _downsampling(self, in_dim: int, dim: int) -> nn.Sequential:
        norm = LayerNorm2d(in_dim, eps=self.norm_eps)
        return nn.Sequential(norm, PatchConv2d(in_dim, dim, DOWNSAMPLE_STRIDE))

    def _stride(self, stage: int) -> int:
        """Return the stride of the map of a stage, in pixels of the input."""
        return self.patch_size * DOWNSAMPLE_STRIDE**stage

    def _blocks(self) -> Iterator[Block]:
        """Iterate over the blocks of all stages."""
        return (module for module in self.stages.modules() if isinstance(module, Block))

    def _check_input(self, x: Tensor) -> None:
        """Raise TypeError or ValueError unless ``x`` fits the network."""
        if not isinstance(x, Tensor):
            raise TypeError(
                f'expected a tensor of shape (N, {self.in_chans}, H, W), got {type(x).__name__}'
            )
        dtype = self._input_type()
        if x.dtype != dtype and not (x.dtype in AUTOCAST_TYPES and _autocasts(x)):
            raise TypeError(
                f'expected an input of {dtype}, the type of the parameters, got {x.dtype}; convert '
                f'it with x.to({dtype})'
            )
        if x.dim() != 4:
            raise ValueError(
                f'expected an input of shape (N, {self.in_chans}, H, W), got {x.dim()} dimensions: '
                f'{tuple(x.shape)}; add the batch dimension with x[None] if it is missing'
            )
        if x.shape[1] != self.in_chans:
            raise ValueError(
                f'expected an input of {self.in_chans} channels, shape (N, {self.in_chans}, H, W), '
                f'got {tuple(x.shape)}; set in_chans={x.shape[1]}, or check the channel order'
            )
        stride = self._stride(len(self.stages) - 1)
        if x.shape[2] < stride or x.shape[3] < stride:
            raise ValueError(
                f'expected an input of at least {stride} x {stride} pixels, the stride of the '
                f'last stage, got {x.shape[2]} x {x.shape[3]}; resize or pad it'
            )

    def _input_type(self) -> torch.dtype:
        convolution = cast(nn.Sequential, self.downsample_layers[0])[0]
        return cast(nn.Conv2d, convolution).weight.dtype


def _check_stem(stem_type: str, patch_size: int) -> None:
    if stem_type not in STEM_TYPES:
        raise ValueError(
            f'expected stem_type to be one of {", ".join(STEM_TYPES)}, got {stem_type!r}'
        )
    check_integer('patch_size', patch_size, minimum=1, maximum=MAX_DIM)
    if stem_type != 'patch' and patch_size != PATCH_SIZE:
        raise ValueError(
            f'expected patch_size={PATCH_SIZE} with stem_type={stem_type!r}, whose convolutions '
            f"have a stride of {PATCH_SIZE} together, got {patch_size}; stem_type='patch' takes any"
        )


def _checked_eps(norm_eps: float) -> float:
    check_real('norm_eps', norm_eps)
    if norm_eps < torch.finfo(torch.float32).tiny:
        raise ValueError(
            f'expected norm_eps above 0, got {norm_eps}: a constant map would become NaN'
        )
    return float(norm_eps)


def _half(dim: int) -> int:
    """Return half of ``dim`` as timm rounds it: to a multiple of 8, and not below 90%."""
    half = dim // 2
    rounded = max(8, (half + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * half else rounded


def _autocasts(x: Tensor) -> bool:
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def init_module(module: nn.Module) -> None:
    """Initialize as the authors do: normal of std 0.02, truncated at +-2; biases zero."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
