"""ConvNeXt ("A ConvNet for the 2020s", Liu et al., CVPR 2022) for dense prediction.

Parameter names and shapes are the authors', so their checkpoints load as they are. Read from top
to bottom: block, trunk (stem, downsampling, stages), backbone, classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .arguments import check_flag, check_init_cfg, check_integer, check_real, normalize_out_indices
from .layers import DropPath, LayerNorm, LayerNorm2d, PatchConv2d, PointwiseLinear
from .variants import MAX_DIM, resolve_variant

NORM_EPS = 1e-6
INIT_STD = 0.02
STEM_STRIDE = 4
DOWNSAMPLE_STRIDE = 2
MLP_RATIO = 4
# Which inputs autocast converts; others it leaves as they are.
AUTOCAST_TYPES = (torch.float32, torch.float16, torch.bfloat16)


class Block(nn.Module):
    """One ConvNeXt block (section 2.6, figure 4).

    7x7 depthwise convolution -> LayerNorm -> linear C to 4C -> GELU -> linear 4C to C -> layer
    scale -> stochastic depth -> residual sum.

    Args:
        dim: Channels C.
        drop_path_rate: Probability of dropping the branch in training.
        layer_scale_init_value: Initial value of ``gamma``; there is no ``gamma`` at 0 or below.
        memory_efficient: Keep 5C instead of 12C values per position for the backward pass: the
            input, which the depthwise weights' gradient needs, and the hidden map before GELU.
    """

    def __init__(
        self,
        dim: int,
        drop_path_rate: float,
        layer_scale_init_value: float,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = LayerNorm(dim, eps=NORM_EPS)
        self.pwconv1 = PointwiseLinear(dim, MLP_RATIO * dim)
        self.act = nn.GELU()
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
        if self.memory_efficient and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            x = _keep_input_only(self._expand, x)
            x = _keep_input_only(self._contract, x, fold_gamma=True)
        else:
            x = self._expand(x)
            x = self._contract(x)
        return shortcut + self.drop_path(x)

    def _expand(self, x: Tensor) -> Tensor:
        x = self.dwconv(x)
        x = x.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        x = self.norm(x)
        return self.pwconv1(x)  # (N, H, W, 4C)

    def _contract(self, x: Tensor, fold_gamma: bool = False) -> Tensor:
        x = self.act(x)
        # Folded, the gradient of gamma does not need the output of pwconv2. Not in fp16, where the
        # product of weight and gamma, 0.02 and 1e-6 at first, would be zero.
        if fold_gamma and x.dtype != torch.float16:
            x = self.pwconv2(x, self.gamma)  # (N, H, W, C)
        else:
            x = self.pwconv2(x)  # (N, H, W, C)
            if self.gamma is not None:
                x = self.gamma * x
        return x.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)


class _Trunk(BaseModule):
    """What backbone and classifier share: stem, downsampling layers and stages.

    ``num_stages`` builds only the first stages; stochastic depth is spread over all of them all
    the same, so that the stages that exist are those of the whole network.
    """

    def __init__(
        self,
        arch: str | Mapping | None,
        depths: Sequence[int] | None,
        dims: Sequence[int] | None,
        in_chans: int,
        drop_path_rate: float,
        layer_scale_init_value: float,
        num_stages: int | None = None,
        memory_efficient: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        check_init_cfg(init_cfg)
        super().__init__(init_cfg=init_cfg)
        check_integer('in_chans', in_chans, minimum=1, maximum=MAX_DIM)
        check_real('drop_path_rate', drop_path_rate)
        drop_path_rate = float(drop_path_rate)  # a fraction neither multiplies tensors nor prints
        if not 0 <= drop_path_rate < 1:
            raise ValueError(
                f'expected drop_path_rate in [0, 1), got {drop_path_rate}; the paper uses 0.3 to '
                '0.8 for detection and segmentation'
            )
        check_real('layer_scale_init_value', layer_scale_init_value)
        self.variant = resolve_variant(arch, depths, dims)
        self.in_chans = in_chans
        depths, dims = self.variant.depths, self.variant.dims
        if num_stages is None:
            num_stages = len(depths)

        self.downsample_layers = nn.ModuleList(
            nn.Sequential(
                PatchConv2d(in_chans, dims[0], STEM_STRIDE),
                LayerNorm2d(dims[0], eps=NORM_EPS),
            )
            if i == 0
            else nn.Sequential(
                LayerNorm2d(dims[i - 1], eps=NORM_EPS),
                PatchConv2d(dims[i - 1], dims[i], DOWNSAMPLE_STRIDE),
            )
            for i in range(num_stages)
        )

        # Linear from 0 for the first block of the network to the full rate for its last. Plain
        # Python arithmetic: tensors would break construction on the meta device.
        last_block = max(sum(depths) - 1, 1)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    Block(
                        dims[i],
                        drop_path_rate * (sum(depths[:i]) + j) / last_block,
                        layer_scale_init_value,
                        memory_efficient,
                    )
                    for j in range(depths[i])
                )
            )
            for i in range(num_stages)
        )
        self.apply(_init_weights)

    def _check_input(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(
                f'expected a tensor of shape (N, {self.in_chans}, H, W), got {type(x).__name__}'
            )
        dtype = self.downsample_layers[0][0].weight.dtype
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
        stride = STEM_STRIDE * DOWNSAMPLE_STRIDE ** (len(self.stages) - 1)
        if x.shape[2] < stride or x.shape[3] < stride:
            raise ValueError(
                f'expected an input of at least {stride} x {stride} pixels, the stride of the '
                f'last stage, got {x.shape[2]} x {x.shape[3]}; resize or pad it'
            )


@MODELS.register_module()
class ConvNeXt(_Trunk):
    """ConvNeXt backbone: one NCHW feature map per requested stage, each with its own LayerNorm.

    Stage ``i`` works at stride ``4 * 2**i``: 4, 8, 16, 32. The output is a tuple of contiguous
    NCHW maps of shape (N, dims[i], H_i, W_i), one per entry of ``out_indices``. Neither the stem
    nor the downsampling layers pad: at an input size that is not divisible by the stride, each
    step floors, so ``H_0 = H // 4`` and ``H_i = H_{i-1} // 2``. The last ``H % 4`` rows and
    ``W % 4`` columns of the input reach no map; of what later steps drop, a map has no cell, and
    sees it only through the 7x7 convolutions before. mmdet pads its batches to 32 for that reason.

    Sizes are given as ``arch``, or by the authors' own ``depths`` and ``dims``; the defaults are
    the authors': ConvNeXt-T, no stochastic depth, layer scale 1e-6 (the downstream experiments of
    the paper set 1.0).

    Args:
        arch: A name (atto, femto, pico, nano, tiny, small, base, large, xlarge) or a dict with
            ``depths`` and ``dims``.
        in_chans: Channels of the input.
        depths: Blocks per stage, instead of ``arch``.
        dims: Channels per stage, instead of ``arch``.
        drop_path_rate: Stochastic depth rate of the last block of the network, in [0, 1); earlier
            blocks have linearly less, the first has none.
        layer_scale_init_value: Initial value of the ``gamma`` of every block; at 0 or below
            there is no ``gamma``.
        out_indices: Stages to return, in increasing order and without repetition; negative ones
            count from the last stage; an int is a tuple of one. Stages after the last requested
            one are not built, nor are norms of stages that are not requested, so that every
            parameter takes part in training.
        frozen_stages: -1 freezes nothing, 0 the stem, ``k`` the stem and the first ``k`` stages
            with their downsampling layers and output norms. Frozen parameters get no gradient,
            and the modules stay in evaluation mode: stochastic depth is off in them.
        with_cp: Recompute each block in the backward pass (gradient checkpointing, the
            non-re-entrant form) instead of keeping its activations.
        memory_efficient: Keep less than half of the activations, see :class:`Block`, and compute
            in the backward pass again what costs little: depthwise convolutions, norms and GELU,
            not the pointwise layers (in fp16, the second of each block). ``with_cp``, which
            excludes it, keeps less and computes more. Under ``torch.compile`` it changes nothing.
        channels_last: Memory layout between the layers. True and False give the same maps to
            rounding; None takes channels_last on the CPU, where it is faster, and the layout of
            the input elsewhere. What is returned is contiguous NCHW in every case: mmcv's
            RoIAlign ignores strides and would read wrong values from anything else.
        pretrained: Accepted for mmseg, which passes it on; must be None. Use ``init_cfg``.
        init_cfg: mmengine's initialization config, such as
            ``dict(type='PretrainedConvNeXt', checkpoint='convnext_tiny_1k_224')``.

    Attributes:
        variant: The :class:`~convnext_backbones.Variant` with ``depths`` and ``dims``.
        out_indices: The normalized stage indices.
        out_channels: Channels of each returned map.
        out_strides: Stride of each returned map, in pixels of the input.

    Raises:
        TypeError: An argument or an input is of the wrong type.
        ValueError: An argument is out of its range, or an input does not fit: wrong rank, wrong
            number of channels, or smaller than the last stride (32 for four stages).
    """

    def __init__(
        self,
        arch: str | Mapping | None = None,
        in_chans: int = 3,
        depths: Sequence[int] | None = None,
        dims: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        with_cp: bool = False,
        memory_efficient: bool = False,
        channels_last: bool | None = None,
        pretrained: None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if pretrained is not None:
            raise ValueError(
                f'expected pretrained=None, got {pretrained!r}; give weights as '
                "init_cfg=dict(type='PretrainedConvNeXt', checkpoint=...)"
            )
        check_flag('with_cp', with_cp)
        check_flag('memory_efficient', memory_efficient)
        if with_cp and memory_efficient:
            raise ValueError(
                'expected with_cp or memory_efficient, got both; with_cp alone keeps least'
            )
        if channels_last is not None:
            check_flag('channels_last', channels_last)
        total_stages = len(resolve_variant(arch, depths, dims).depths)
        out_indices = normalize_out_indices(out_indices, total_stages)
        super().__init__(
            arch=arch,
            depths=depths,
            dims=dims,
            in_chans=in_chans,
            drop_path_rate=drop_path_rate,
            layer_scale_init_value=layer_scale_init_value,
            num_stages=out_indices[-1] + 1,
            memory_efficient=memory_efficient,
            init_cfg=init_cfg,
        )
        check_integer('frozen_stages', frozen_stages, minimum=-1, maximum=len(self.stages))
        self.out_indices = out_indices
        self.out_channels = tuple(self.variant.dims[i] for i in out_indices)
        self.out_strides = tuple(STEM_STRIDE * DOWNSAMPLE_STRIDE**i for i in out_indices)
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        self.memory_efficient = memory_efficient
        self.channels_last = channels_last
        for i in out_indices:
            # The authors' checkpoints name them norm0..norm3, beside `stages`.
            self.add_module(f'norm{i}', LayerNorm2d(self.variant.dims[i], eps=NORM_EPS))
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of ``x``, of shape (N, in_chans, H, W) and at least 32 x 32."""
        self._check_input(x)
        channels_last = self.channels_last
        if channels_last is None and x.device.type == 'cpu':
            channels_last = True
        if channels_last is not None:
            memory_format = torch.channels_last if channels_last else torch.contiguous_format
            x = x.contiguous(memory_format=memory_format)
        maps = []
        for i, (downsample, stage) in enumerate(
            zip(self.downsample_layers, self.stages, strict=True)
        ):
            x = downsample(x)  # (N, dims[i], H_i, W_i)
            for block in stage:
                x = self._run_block(block, x)
            if i in self.out_indices:
                maps.append(self._output_norm(i)(x).contiguous())
        return tuple(maps)

    def _run_block(self, block: Block, x: Tensor) -> Tensor:
        if self.with_cp and torch.is_grad_enabled() and block.dwconv.weight.requires_grad:
            return checkpoint(block, x, use_reentrant=False)
        return block(x)

    def _output_norm(self, stage: int) -> LayerNorm2d:
        return getattr(self, f'norm{stage}')

    def _frozen_modules(self) -> Iterator[nn.Module]:
        if self.frozen_stages >= 0:
            yield self.downsample_layers[0]
        for i in range(self.frozen_stages):
            yield self.downsample_layers[i]
            yield self.stages[i]
            if i in self.out_indices:
                yield self._output_norm(i)

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> ConvNeXt:
        """Set training mode, except for frozen stages; returns the backbone itself."""
        super().train(mode)
        self._freeze()
        return self


class ConvNeXtClassifier(_Trunk):
    """ConvNeXt for image classification: the network whose weights the backbone starts from.

    Trunk -> global average pool -> LayerNorm -> linear. It serves to check pretrained weights and
    the paper's parameter counts; parameter names are the authors' (``norm``, ``head``).

    Args:
        arch: A name or a dict with ``depths`` and ``dims``; see :class:`ConvNeXt`.
        num_classes: Rows of the head.
        in_chans: Channels of the input.
        depths: Blocks per stage, instead of ``arch``.
        dims: Channels per stage, instead of ``arch``.
        drop_path_rate: Stochastic depth rate of the last block, in [0, 1).
        layer_scale_init_value: Initial value of ``gamma``; none at 0 or below.
        init_cfg: mmengine's initialization config.

    Raises:
        TypeError: An argument or an input is of the wrong type.
        ValueError: An argument is out of its range, or an input does not fit.
    """

    def __init__(
        self,
        arch: str | Mapping | None = None,
        num_classes: int = 1000,
        in_chans: int = 3,
        depths: Sequence[int] | None = None,
        dims: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        check_integer('num_classes', num_classes, minimum=1)
        super().__init__(
            arch=arch,
            depths=depths,
            dims=dims,
            in_chans=in_chans,
            drop_path_rate=drop_path_rate,
            layer_scale_init_value=layer_scale_init_value,
            init_cfg=init_cfg,
        )
        self.norm = LayerNorm(self.variant.dims[-1], eps=NORM_EPS)
        self.head = nn.Linear(self.variant.dims[-1], num_classes)
        _init_weights(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (N, in_chans, H, W) to logits of shape (N, num_classes)."""
        self._check_input(x)
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        x = x.mean((2, 3))  # (N, C, H, W) -> (N, C)
        return self.head(self.norm(x))


def _keep_input_only(half: Callable[..., Tensor], x: Tensor, **options: bool) -> Tensor:
    """Run half a block so that its input is all that is kept for the backward pass.

    What else that pass needs is computed again, and no more: the checkpoint stops at the last
    tensor it would have kept, the input of the half's pointwise layer, which does not run again.
    """
    # Nothing within is random.
    return checkpoint(half, x, use_reentrant=False, preserve_rng_state=False, **options)


def _autocasts(x: Tensor) -> bool:
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def _init_weights(module: nn.Module) -> None:
    """The authors' initialization: normal of std 0.02, truncated at +-2; biases zero."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(module.bias)
