"""A faster form of a block, for inference on CPUs.

ConvNeXt spends its time in the pointwise layers of its blocks. Layer by layer, their hidden map of
4C channels is written to memory, activated and read back. Here a block works through parts of the
map whose hidden map stays in the cache, in channels_last: with our kernels in C where there is a
compiler, or by bands of rows with oneDNN's fused operations. Which of them, or of the forms in
:mod:`.block_forms`, is the fastest is measured once for each kind of map, see :mod:`.tuning`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.block import Block
from ..models.layers import (
    GELU,
    GRN,
    DepthwiseConv2d,
    DropPath,
    LayerNorm,
    PointwiseLinear,
    sums_of_squares,
)
from ..native.compiler import load
from ..native.gradients import KERNEL_SIZE
from ..native.kernels import Scratch, supports_bf16
from .bands import even_share, fitting
from .block_forms import add_by_compiled, add_by_kernels, add_by_linear
from .cache import ParameterCache
from .classes import has_hooks, keeps_methods, runs_forward_of, swap_class
from .fast_form import can_be_faster, has_onednn, is_plain_call
from .tuning import Site, Tuner

# Hidden channels that a block computes at once. Measured on the CPU of BAND_BYTES: from 3,072 on,
# oneDNN computes the second pointwise layer at a third of the speed, at most numbers of positions.
PART_CHANNELS = 1536
# Up to so many positions of a map, a block keeps its weights in oneDNN's own format from one call
# to the next, in fp32, unless there are the kernels, which need no such copy and are about as fast.
# Above, repeated conversion costs little and saves a copy of the weights.
KEEP_PACKED_POSITIONS = 512
# Rows that the depthwise convolution reads above and below.
RADIUS = KERNEL_SIZE // 2
# Limit for the rows of a band, such that even_share never returns less than RADIUS.
MIN_BAND = 2 * RADIUS
UNIT = [1, 1]  # stride and dilation
NO_PADDING = [0, 0]

Layer = tuple[Tensor, Tensor | None]  # weight, in oneDNN's own format, and bias


class Packed(NamedTuple):
    """Weights, in oneDNN's own format, and biases of the layers of a block.

    Attributes:
        dwconv: The depthwise convolution.
        pwconv1: The first pointwise layer, a part of the hidden channels each.
        pwconv2: The second one; empty where each sample has its own, see ``_in_two_passes``.
    """

    dwconv: Layer
    pwconv1: list[Layer]
    pwconv2: list[Layer]


class InferenceBlock(Block):
    """A block that adds its branch to a map in place.

    With oneDNN it works a band of rows at a time. Within a band, the 4C hidden map is written and
    read in the cache, a part of its channels at a time. Layer scale is folded into the second
    pointwise layer, and the convolutions themselves compute GELU and the residual sum. GRN needs
    the norms of the whole hidden map: with it, the bands of the hidden map are kept until all are
    computed.

    Attributes:
        packed: The packed weights for oneDNN, of small maps, and of all in bf16.
        packed_bf16: The packed weights for the kernels, in bf16.
        tuner: Chooses among the forms.
    """

    original_class = Block
    packed: ParameterCache[Packed]
    packed_bf16: ParameterCache[Tensor]
    tuner: Tuner

    @classmethod
    def take_over(cls, block: Block, tuner: Tuner) -> None:
        """Turn a block, with its parameters and attributes, into one of this class."""
        swap_class(block, cls)
        fast = cast(InferenceBlock, block)
        fast.packed = ParameterCache()
        fast.packed_bf16 = ParameterCache()
        fast.tuner = tuner

    @classmethod
    def computes(cls, block: Block) -> bool:
        """Whether the fast form of ``block`` computes what ``block`` does.

        It replaces ``Block.forward`` and reads the parameters of the layers. So neither the block
        nor a layer may have a forward method of its own, or be of another kind or geometry.
        """
        methods = ('forward', '_expand', '_contract', '_contract_folded', '_activate')
        return keeps_methods(block, cls, methods) and _has_known_layers(block)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (N, C, H, W) to the same shape and layout."""
        if not self.is_fast(x) or x.dim() != 4 or x.shape[1] != self.dwconv.in_channels:
            return super().forward(x)
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        x = x.clone(memory_format=torch.channels_last)
        self.forward_(x)
        return x if channels_last else x.contiguous()

    def is_fast(self, x: Tensor) -> bool:
        """Whether the fast form applies to ``x`` now."""
        return is_plain_call(self, x) and can_be_faster() and x.numel() > 0 and not has_hooks(self)

    def forward_(self, x: Tensor, scratch: Scratch | None = None) -> None:
        """Replace ``x`` by the output of the block.

        Args:
            x: Of shape (N, C, H, W), in channels_last, fp32 or bf16.
            scratch: Memory that several blocks use, one after the other.
        """
        forms = self._forms(x.dtype, Scratch() if scratch is None else scratch)
        forms[self._fastest(x, forms)](x)

    def _forms(self, dtype: torch.dtype, scratch: Scratch) -> dict[str, Callable[[Tensor], None]]:
        """Return what can compute the block in ``dtype``, the one to expect most of first."""
        forms: dict[str, Callable[[Tensor], None]] = {}
        library = load()
        if library is not None and (dtype == torch.float32 or supports_bf16(library)):
            forms['native'] = partial(
                add_by_kernels, self, library=library, scratch=scratch, packed=self.packed_bf16
            )
        if has_onednn():
            forms['onednn'] = self._in_bands
        forms['linear'] = partial(add_by_linear, self)
        if dtype == torch.float32:
            forms['plain'] = self._plainly
            if self.tuner.mode == 'full':
                forms['compiled'] = partial(add_by_compiled, self)
        return forms

    def _fastest(self, x: Tensor, forms: dict[str, Callable[[Tensor], None]]) -> str:
        """Return the name of the form to use for maps such as ``x``."""
        samples, channels, height, width = x.shape
        site = Site(
            'block V2' if self.grn is not None else 'block',
            x.dtype,
            (channels, self.pwconv1.out_features),
            samples * height * width,
        )
        copies: list[Tensor] = []

        def on_copy(form: Callable[[Tensor], None]) -> Tensor:
            """Compute in place on a copy of ``x``, which is a fresh one at the first call."""
            if not copies:
                copies.append(x.clone(memory_format=torch.channels_last))
            if form not in used:
                copies[0].copy_(x)
                used.append(form)
            form(copies[0])
            return copies[0]

        used: list[Callable[[Tensor], None]] = []
        candidates = {name: partial(on_copy, form) for name, form in forms.items()}
        exact = 'plain' if 'plain' in forms else 'linear'
        return self.tuner.choose(site, candidates, default=next(iter(forms)), reference=exact)

    def _plainly(self, x: Tensor) -> None:
        x.copy_(super().forward(x))

    def _in_bands(self, x: Tensor) -> None:
        """Compute with oneDNN's fused operations."""
        samples, channels, height, width = x.shape
        part = even_share(self.pwconv1.out_features, PART_CHANNELS)
        hidden = part * width * x.element_size()  # bytes of a row
        rows = even_share(height, max(fitting(hidden), MIN_BAND))
        together = even_share(samples, fitting(hidden * height)) if rows == height else 1
        # On large maps it is cheaper to scale the weights after GRN than the hidden map.
        folds = self.grn is not None and height * width > channels
        pack = partial(self._pack, part, rows, width, x.dtype, folds)
        few = together * rows * width <= KEEP_PACKED_POSITIONS and load() is None
        keep = few or x.dtype == torch.bfloat16
        weights = self.packed.get(self, (rows, width, x.dtype, folds), pack) if keep else pack()
        for some in x.split(1 if folds else together):
            if self.grn is None:
                self._in_one_pass(some, rows, weights)
            else:
                self._in_two_passes(some, rows, weights)

    def _in_one_pass(self, x: Tensor, rows: int, weights: Packed) -> None:
        """Replace ``x`` by the output of a block without GRN."""
        # The convolution of a band reads the rows above and below, which must not have changed by
        # then. So a band is changed after the convolution of the next one.
        waiting: tuple[Tensor, Tensor] | None = None
        for top, bottom in _bands(x.shape[2], rows):
            y = self._depthwise(x, top, bottom, weights)
            if waiting is not None:
                self._add_branch(*waiting, weights=weights)
            waiting = x[:, :, top:bottom], y
        assert waiting is not None
        self._add_branch(*waiting, weights=weights)

    def _in_two_passes(self, x: Tensor, rows: int, weights: Packed) -> None:
        """Replace ``x`` by the output of a block with GRN.

        After GRN the hidden map is ``hidden * scale + beta``, with a scale for each channel of each
        sample. The scale multiplies either the hidden map or, for a single sample, the weights of
        the second pointwise layer; ``beta`` is part of the bias of that layer.
        """
        hidden = []
        for top, bottom in _bands(x.shape[2], rows):
            y = self._normalized(self._depthwise(x, top, bottom, weights))
            hidden.append([_with_gelu(y, layer) for layer in weights.pwconv1])
        grn = self.grn
        assert grn is not None
        squares = sum(
            torch.cat([sums_of_squares(part.permute(0, 2, 3, 1)) for part in band], 1)
            for band in hidden
        )
        scale = 1 + grn.gamma * grn.relative(torch.as_tensor(squares).sqrt())  # (N, 4C)
        size = hidden[0][0].shape[1]
        factors = scale[:, :, None, None].split(size, 1) if weights.pwconv2 else None
        pwconv2 = weights.pwconv2 or self._pack_pwconv2(
            size, rows, x.shape[3], x.dtype, scale=scale[0]
        )
        for (top, bottom), parts in zip(_bands(x.shape[2], rows), hidden, strict=True):
            for i, (part, layer) in enumerate(zip(parts, pwconv2, strict=True)):
                if factors is not None:
                    part.mul_(factors[i])
                _add_pointwise(x[:, :, top:bottom], part, layer)

    def _depthwise(self, x: Tensor, top: int, bottom: int, weights: Packed) -> Tensor:
        """Return the rows from ``top`` to ``bottom`` of the depthwise convolution of ``x``."""
        above, below = max(RADIUS - top, 0), max(bottom + RADIUS - x.shape[2], 0)
        x = x[:, :, top - RADIUS + above : bottom + RADIUS - below]
        if above or below:
            x = F.pad(x, (0, 0, above, below))
        return torch.ops.mkldnn._convolution_pointwise(
            x, *weights.dwconv, [0, RADIUS], UNIT, UNIT, x.shape[1], 'none', [], ''
        )

    def _add_branch(self, x: Tensor, y: Tensor, weights: Packed) -> None:
        """Add to ``x`` the branch that starts with the depthwise convolution ``y``."""
        y = self._normalized(y)
        for pwconv1, pwconv2 in zip(weights.pwconv1, weights.pwconv2, strict=True):
            _add_pointwise(x, _with_gelu(y, pwconv1), pwconv2)

    def _normalized(self, y: Tensor) -> Tensor:
        y = y.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        norm = self.norm
        y = F.layer_norm(y, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return y.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)

    def _pack(
        self, part: int, rows: int, width: int, dtype: torch.dtype, without_pwconv2: bool
    ) -> Packed:
        """Return the weights for bands of shape (rows, width) and parts of the hidden channels."""
        pack = partial(_packed_layer, width=width, dtype=dtype)
        dwconv = pack(
            self.dwconv.weight,
            self.dwconv.bias,
            rows=rows + 2 * RADIUS,
            padding=[0, RADIUS],
            groups=self.dwconv.in_channels,
        )
        pwconv1 = zip(self.pwconv1.weight.split(part), self.pwconv1.bias.split(part), strict=True)
        return Packed(
            dwconv,
            # Linear weights (C_out, C_in) become those of 1x1 convolutions.
            [pack(weight[:, :, None, None], bias, rows=rows) for weight, bias in pwconv1],
            [] if without_pwconv2 else self._pack_pwconv2(part, rows, width, dtype),
        )

    def _pack_pwconv2(
        self, part: int, rows: int, width: int, dtype: torch.dtype, scale: Tensor | None = None
    ) -> list[Layer]:
        """Return the second pointwise layer, which includes layer scale, and the rest of GRN.

        Args:
            part: Hidden channels of a part.
            rows: Of a band.
            width: Of the map.
            dtype: Of the weights.
            scale: Factors of the hidden channels, of shape (4C,).
        """
        weight: Tensor = self.pwconv2.weight
        bias: Tensor = self.pwconv2.bias
        if self.grn is not None:
            bias = bias + weight @ self.grn.beta
        if self.gamma is not None:
            weight, bias = self.gamma[:, None] * weight, self.gamma * bias
        if scale is not None:
            weight = weight * scale
        layers: list[Layer] = []
        for down in weight.split(part, 1):
            once = None if layers else bias  # the sum of the parts contains it once
            kernel = down[:, :, None, None]
            layers.append(_packed_layer(kernel, once, rows=rows, width=width, dtype=dtype))
        return layers


def _bands(height: int, rows: int) -> list[tuple[int, int]]:
    """Return the first row of each band of ``rows``, and the one after its last."""
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def _with_gelu(y: Tensor, layer: Layer) -> Tensor:
    """Return a part of the hidden map after GELU, (N, part, H, W), from the normalized ``y``."""
    return torch.ops.mkldnn._convolution_pointwise(
        y, *layer, NO_PADDING, UNIT, UNIT, 1, 'gelu', [], 'none'
    )


def _add_pointwise(x: Tensor, hidden: Tensor, layer: Layer) -> None:
    """Add the second pointwise layer of a part of the hidden map to ``x``, in place."""
    torch.ops.mkldnn._convolution_pointwise_.binary(
        x, hidden, *layer, NO_PADDING, UNIT, UNIT, 1, 'add', 1.0, None, [], None
    )


def _packed_layer(
    weight: Tensor,
    bias: Tensor | None,
    *,
    rows: int,
    width: int,
    dtype: torch.dtype,
    padding: list[int] = NO_PADDING,
    groups: int = 1,
) -> Layer:
    size = [1, weight.shape[1] * groups, rows, width]
    weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, UNIT, UNIT, groups, size)
    return weight, None if bias is None else bias.to(dtype)


def _has_known_layers(block: Block) -> bool:
    """Whether the layers of ``block`` are those of :class:`Block`, in kind and geometry."""
    dwconv, norm, pwconv1, pwconv2 = block.dwconv, block.norm, block.pwconv1, block.pwconv2
    return (
        is_plain_convolution(dwconv, DepthwiseConv2d)
        and dwconv.kernel_size == (KERNEL_SIZE, KERNEL_SIZE)
        and dwconv.padding == (RADIUS, RADIUS)
        and dwconv.stride == (1, 1)
        and dwconv.groups == dwconv.in_channels == dwconv.out_channels
        and runs_forward_of(norm, LayerNorm, nn.LayerNorm)
        and norm.normalized_shape == (dwconv.in_channels,)
        and all(runs_forward_of(x, PointwiseLinear, nn.Linear) for x in (pwconv1, pwconv2))
        and pwconv1.bias is not None
        and pwconv2.bias is not None
        and runs_forward_of(block.act, GELU, nn.GELU)
        and block.act.approximate == 'none'
        and runs_forward_of(block.drop_path, DropPath, nn.Identity)
        and (block.grn is None or runs_forward_of(block.grn, GRN))
        and (block.gamma is None or block.gamma.shape == (dwconv.in_channels,))
    )


def is_plain_convolution(module: nn.Module, *kinds: type[nn.Conv2d]) -> bool:
    """Whether ``module`` convolves as ``nn.Conv2d`` or one of ``kinds``, without dilation."""
    return (
        runs_forward_of(module, nn.Conv2d, *kinds)
        and isinstance(module, nn.Conv2d)
        and type(module)._conv_forward is nn.Conv2d._conv_forward
        and module.padding_mode == 'zeros'
        and module.dilation == (1, 1)
    )
