"""The networks: ConvNeXt backbone for dense prediction, and classifier.

"A ConvNet for the 2020s", Liu et al., CVPR 2022, and "ConvNeXt V2", Woo et al., CVPR 2023.
Parameter names are the authors', so their checkpoints load unchanged. Read :mod:`.block` first,
then :mod:`.trunk`, then this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .arguments import check_flag, check_integer, check_probability, normalize_out_indices
from .block import Block
from .layers import LayerNorm, LayerNorm2d, in_memory_format
from .trunk import PATCH_SIZE, Trunk, init_module
from .variants import MAX_DIM, resolve_variant


@MODELS.register_module()
class ConvNeXt(Trunk):
    """ConvNeXt backbone: one NCHW feature map per requested stage, each with its own LayerNorm.

    Stage ``i`` works at stride ``patch_size * 2**i``: 4, 8, 16, 32. With ``use_grn`` the network is
    ConvNeXt V2. The output is a tuple of contiguous NCHW maps of shape (N, dims[i], H_i, W_i), one
    per entry of ``out_indices``. Neither the stem of patches nor the downsampling layers pad: at an
    input size that is not divisible by the stride, each step floors, so ``H_0 = H // 4`` and
    ``H_i = H_{i-1} // 2``. The last ``H % 4`` rows and ``W % 4`` columns of the input influence no
    map. Rows and columns that later steps drop have no cell in the following maps, and influence
    them only through the 7x7 convolutions before. For that reason mmdet pads its batches to
    multiples of 32.

    Sizes are given as ``arch``, or as the authors' own ``depths`` and ``dims``. The defaults are
    the authors': ConvNeXt-T, no stochastic depth, layer scale 1e-6 (the detection and segmentation
    experiments of the paper set 1.0). All arguments but ``arch`` are keywords.

    Args:
        arch: A name (atto, femto, pico, nano, tiny, small, base, large, xlarge, huge, xxlarge) or a
            dict with ``depths`` and ``dims``.
        in_chans: Channels of the input.
        depths: Blocks per stage, instead of ``arch``.
        dims: Channels per stage, instead of ``arch``.
        drop_path_rate: Stochastic depth rate of the last block of the network, in [0, 1); earlier
            blocks have linearly less, the first has none.
        layer_scale_init_value: Initial value of the ``gamma`` of every block; at 0 or below
            there is no ``gamma``. None means the authors' 1e-6, and no ``gamma`` with ``use_grn``.
        use_grn: Build the blocks of ConvNeXt V2, with global response normalization; see
            :class:`~convnext_backbones.models.layers.GRN`.
        stem_type: ``patch``; or, for weights of timm with a stem of two padded 3x3 convolutions of
            stride 2, ``overlap`` or ``overlap_tiered``. These round sizes up, to
            ``H_0 = ceil(H / 4)``.
        patch_size: Kernel size and stride of the stem. All strides are multiples of it.
        norm_eps: Epsilon of all norms. None takes the variant's: 1e-6, and 1e-5 for xxlarge.
        out_indices: Stages to return, in increasing order and without repetition; negative ones
            count from the last stage; an int is a tuple of one. Stages after the last requested
            one are not built, and stages that are not requested have no norm, so that every
            parameter takes part in training.
        frozen_stages: -1 freezes nothing, 0 the stem, ``k`` the stem and the first ``k`` stages
            with their downsampling layers and output norms. Frozen parameters get no gradient,
            and the modules stay in evaluation mode: stochastic depth is off in them.
        with_cp: Recompute each block in the backward pass (gradient checkpointing, the
            non-re-entrant form) instead of keeping its activations.
        memory_efficient: Keep less than half of the activations, see :class:`Block`. The backward
            pass recomputes only cheap layers: depthwise convolutions, norms and GELU, but not the
            pointwise layers (in fp16, the second one of each block). ``with_cp`` keeps less and
            recomputes more; the two exclude each other. No effect under ``torch.compile``.
        channels_last: Memory layout between the layers. True and False give the same maps up to
            rounding. None means channels_last on the CPU, where it is faster, and the layout of
            the input elsewhere. The returned maps are always contiguous NCHW: mmcv's RoIAlign
            ignores strides and would read wrong values from any other layout.
        pretrained: Must be None; accepted because mmseg passes it. Use ``init_cfg``.
        init_cfg: mmengine's initialization config, such as
            ``dict(type='PretrainedConvNeXt', checkpoint='convnext_tiny_1k_224')``.

    Attributes:
        variant: The :class:`~convnext_backbones.Variant` with ``depths`` and ``dims``.
        use_grn: The argument, as ``stem_type`` and ``patch_size``.
        norm_eps: The epsilon of all norms.
        out_indices: The normalized stage indices.
        out_channels: Channels of each returned map.
        out_strides: Stride of each returned map, in pixels of the input.
        memory_efficient: The argument; setting it changes all blocks.

    Raises:
        TypeError: An argument or an input is of the wrong type.
        ValueError: An argument is out of its range, or an input does not fit: wrong rank, wrong
            number of channels, or smaller than the last stride (32 for four stages).
    """

    def __init__(
        self,
        arch: str | Mapping | None = None,
        *,
        in_chans: int = 3,
        depths: Sequence[int] | None = None,
        dims: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = None,
        use_grn: bool = False,
        stem_type: str = 'patch',
        patch_size: int = PATCH_SIZE,
        norm_eps: float | None = None,
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
        _check_memory_efficient(memory_efficient, with_cp)
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
            use_grn=use_grn,
            stem_type=stem_type,
            patch_size=patch_size,
            norm_eps=norm_eps,
            num_stages=out_indices[-1] + 1,
            memory_efficient=memory_efficient,
            init_cfg=init_cfg,
        )
        check_integer('frozen_stages', frozen_stages, minimum=-1, maximum=len(self.stages))
        self.out_indices = out_indices
        self.out_channels = tuple(self.variant.dims[i] for i in out_indices)
        self.out_strides = tuple(self._stride(i) for i in out_indices)
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        self.channels_last = channels_last
        for i in out_indices:
            # The authors' names: norm0..norm3, on the level of `stages`.
            self.add_module(f'norm{i}', LayerNorm2d(self.variant.dims[i], eps=self.norm_eps))
        self._freeze()

    @property
    def memory_efficient(self) -> bool:
        """Whether the blocks recompute cheap layers in the backward pass; settable."""
        return all(block.memory_efficient for block in self._blocks())

    @memory_efficient.setter
    def memory_efficient(self, value: bool) -> None:
        _check_memory_efficient(value, self.with_cp)
        for block in self._blocks():
            block.memory_efficient = value

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of ``x``, of shape (N, in_chans, H, W) and at least 32 x 32."""
        self._check_input(x)
        x = in_memory_format(x, self.channels_last)
        maps = []
        for i, (downsample, stage) in enumerate(
            zip(self.downsample_layers, self.stages, strict=True)
        ):
            x = downsample(x)  # (N, dims[i], H_i, W_i)
            for block in cast(Iterable[Block], stage):
                x = self._run_block(block, x)
            if i in self.out_indices:
                maps.append(self._output_norm(i)(x).contiguous())
        return tuple(maps)

    def _run_block(self, block: Block, x: Tensor) -> Tensor:
        if self.with_cp and torch.is_grad_enabled() and block.dwconv.weight.requires_grad:
            return checkpoint(block, x, use_reentrant=False)
        return block(x)

    def _output_norm(self, stage: int) -> LayerNorm2d:
        return cast(LayerNorm2d, getattr(self, f'norm{stage}'))

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
        """Set training mode, except in frozen stages, and return the backbone."""
        super().train(mode)
        self._freeze()
        return self


def _check_memory_efficient(value: bool, with_cp: bool) -> None:
    check_flag('memory_efficient', value)
    if with_cp and value:
        raise ValueError(
            'expected with_cp or memory_efficient, got both; with_cp alone keeps least'
        )


@MODELS.register_module()
class ConvNeXtClassifier(Trunk):
    """ConvNeXt for image classification: the network whose weights the backbone starts from.

    Trunk -> global average pool -> LayerNorm -> linear. Images may have any size from the last
    stride, 32 x 32, on. Parameter names are the authors' (``norm``, ``head``). All arguments but
    ``arch`` are keywords. The options of the head are those of timm's models.

    Args:
        arch: A name or a dict with ``depths`` and ``dims``; see :class:`ConvNeXt`.
        num_classes: Number of logits; at 0 or None there is no ``head``, and the output is the
            pooled and normalized features, of shape (N, dims[-1]).
        in_chans: Channels of the input.
        depths: Blocks per stage, instead of ``arch``.
        dims: Channels per stage, instead of ``arch``.
        drop_path_rate: Stochastic depth rate of the last block, in [0, 1).
        layer_scale_init_value: As in :class:`ConvNeXt`, and so the next four.
        use_grn: Build ConvNeXt V2.
        stem_type: ``patch``, ``overlap`` or ``overlap_tiered``.
        patch_size: Kernel size and stride of the stem.
        norm_eps: Epsilon of all norms.
        dropout: Probability of dropping a feature before ``head``, or before the output if there
            is none, in training, in [0, 1).
        head_norm_first: Normalize each position of the last map before pooling, not the pooled
            features.
        head_hidden_size: Width of a hidden layer, ``pre_logits``, with GELU, before ``head``; None
            for no such layer.
        init_cfg: mmengine's initialization config.

    Raises:
        TypeError: An argument or an input is of the wrong type.
        ValueError: An argument is out of its range, or an input does not fit.
    """

    def __init__(
        self,
        arch: str | Mapping | None = None,
        *,
        num_classes: int | None = 1000,
        in_chans: int = 3,
        depths: Sequence[int] | None = None,
        dims: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = None,
        use_grn: bool = False,
        stem_type: str = 'patch',
        patch_size: int = PATCH_SIZE,
        norm_eps: float | None = None,
        dropout: float = 0.0,
        head_norm_first: bool = False,
        head_hidden_size: int | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        num_classes = 0 if num_classes is None else num_classes
        check_integer('num_classes', num_classes, minimum=0)
        check_flag('head_norm_first', head_norm_first)
        if head_hidden_size is not None:
            check_integer('head_hidden_size', head_hidden_size, minimum=1, maximum=MAX_DIM)
        check_probability('dropout', dropout)
        super().__init__(
            arch=arch,
            depths=depths,
            dims=dims,
            in_chans=in_chans,
            drop_path_rate=drop_path_rate,
            layer_scale_init_value=layer_scale_init_value,
            use_grn=use_grn,
            stem_type=stem_type,
            patch_size=patch_size,
            norm_eps=norm_eps,
            init_cfg=init_cfg,
        )
        width = self.variant.dims[-1]
        self.norm = LayerNorm(width, eps=self.norm_eps)
        self.pre_logits = None if head_hidden_size is None else nn.Linear(width, head_hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(head_hidden_size or width, num_classes) if num_classes else None
        self.head_norm_first = head_norm_first
        for layer in filter(None, (self.pre_logits, self.head)):
            init_module(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (N, in_chans, H, W) to logits of shape (N, num_classes).

        Without a ``head``, to features of shape (N, dims[-1]), or (N, head_hidden_size).
        """
        self._check_input(x)
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        if self.head_norm_first:
            x = self.norm(x.permute(0, 2, 3, 1)).mean((1, 2))  # (N, C, H, W) -> (N, C)
        else:
            x = self.norm(x.mean((2, 3)))  # (N, C, H, W) -> (N, C)
        if self.pre_logits is not None:
            x = F.gelu(self.pre_logits(x))
        x = self.dropout(x)
        return x if self.head is None else self.head(x)
