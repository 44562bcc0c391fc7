"""The networks from ResNet to ConvNeXt: a backbone and a classifier for every step of the road.

Read :mod:`.roadmap_steps` first, the table, then :mod:`.roadmap_block`, then this module. The first
step has the parameter names of torchvision's ResNet, and so have all but the last; the last has
those of the authors' ConvNeXt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from .arguments import (
    check_flag,
    check_init_cfg,
    check_integer,
    check_probability,
    check_real,
    normalize_out_indices,
)
from .block import Block
from .convnext import ConvNeXt, ConvNeXtClassifier
from .layers import LayerNorm, LayerNorm2d, PatchConv2d, in_memory_format
from .roadmap_block import RoadmapBlock
from .roadmap_steps import STAGES, STEPS, find_sizes, find_step
from .trunk import DOWNSAMPLE_STRIDE, LAYER_SCALE, PATCH_SIZE, init_module
from .variants import MAX_DIM, NORM_EPS

LAST = 'convnext'


class Road(BaseModule):
    """Base class of backbone and classifier: stem and stages of a step.

    Args:
        step: Name or number of the step.
        regime: ``T`` or ``B``.
        width_factor: Multiplies all widths.
        in_chans: Channels of the input.
        drop_path_rate: Stochastic depth rate of the last block.
        layer_scale_init_value: Initial value of ``gamma``; None is the authors'.
        num_stages: Build only so many stages.
        init_cfg: mmengine's initialization config.
    """

    def __init__(
        self,
        step: str | int,
        regime: str,
        *,
        width_factor: float,
        in_chans: int,
        drop_path_rate: float,
        layer_scale_init_value: float | None,
        num_stages: int = STAGES,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        check_init_cfg(init_cfg)
        super().__init__(init_cfg=init_cfg)
        check_integer('in_chans', in_chans, minimum=1, maximum=MAX_DIM)
        check_probability('drop_path_rate', drop_path_rate)
        check_real('width_factor', width_factor)
        if not 0 < width_factor <= 16:
            raise ValueError(f'expected width_factor above 0 and up to 16, got {width_factor}')
        if layer_scale_init_value is None:
            layer_scale_init_value = LAYER_SCALE
        check_real('layer_scale_init_value', layer_scale_init_value)
        self.step = find_step(step)
        self.regime = regime
        self.sizes = find_sizes(step, regime, width_factor)
        self.in_chans = in_chans
        self.num_stages = num_stages
        last_block = max(sum(self.sizes.depths) - 1, 1)
        rates = [drop_path_rate * i / last_block for i in range(last_block + 1)]
        scale = layer_scale_init_value if STEPS[self.step].enhanced_recipe else 0.0
        if self.step == LAST:
            self._build_convnext(rates, scale)
        else:
            self._build_resnet(rates, scale)
        self._initialize()

    def _build_convnext(self, rates: Sequence[float], layer_scale: float) -> None:
        """Build the last step from the parts of ConvNeXt, under the authors' names."""
        dims, left = self.sizes.dims, iter(rates)
        self.downsample_layers = nn.ModuleList()
        self.stages = nn.ModuleList()
        for i in range(self.num_stages):
            if i == 0:
                stem = PatchConv2d(self.in_chans, dims[0], PATCH_SIZE)
                layers: list[nn.Module] = [stem, LayerNorm2d(dims[0], eps=NORM_EPS)]
            else:
                norm = LayerNorm2d(dims[i - 1], eps=NORM_EPS)
                layers = [norm, PatchConv2d(dims[i - 1], dims[i], DOWNSAMPLE_STRIDE)]
            self.downsample_layers.append(nn.Sequential(*layers))
            blocks = [Block(dims[i], next(left), layer_scale) for _ in range(self.sizes.depths[i])]
            self.stages.append(nn.Sequential(*blocks))

    def _build_resnet(self, rates: Sequence[float], layer_scale: float) -> None:
        """Build any other step, under torchvision's names."""
        step, left = STEPS[self.step], iter(rates)
        channels = self.sizes.dims[0]
        self.conv1: nn.Module
        self.bn1: nn.Module
        self.act1: nn.Module
        self.maxpool: nn.Module
        if step.patch_stem:
            self.conv1 = PatchConv2d(self.in_chans, channels, PATCH_SIZE)
            self.bn1 = self.act1 = self.maxpool = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(self.in_chans, channels, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.act1 = nn.ReLU()
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for i in range(self.num_stages):
            blocks = []
            for number in range(self.sizes.depths[i]):
                stride = DOWNSAMPLE_STRIDE if i > 0 and number == 0 else 1
                rate, dim = next(left), self.sizes.dims[i]
                blocks.append(RoadmapBlock(step, channels, dim, stride, rate, layer_scale))
                channels = self.sizes.out_channels[i]
            self.add_module(f'layer{i + 1}', nn.Sequential(*blocks))

    def _initialize(self) -> None:
        """Initialize as the step's recipe does: the enhanced one as ConvNeXt, else as torchvision.

        Norms keep torch's initial values, ones and zeros, which are both recipes'.
        """
        if STEPS[self.step].enhanced_recipe:
            self.apply(init_module)
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')

    def _stem_modules(self) -> list[nn.Module]:
        if self.step == LAST:
            return [self.downsample_layers[0]]
        return [self.conv1, self.bn1, self.act1, self.maxpool]

    def _stage_modules(self, stage: int) -> list[nn.Module]:
        """Return what computes a map from the one before, or from the stem, in order."""
        if self.step != LAST:
            return [getattr(self, f'layer{stage + 1}')]
        return [*self.downsample_layers[1:][stage - 1 : stage], self.stages[stage]]

    def _maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the map of each stage, (N, out_channels[i], H_i, W_i)."""
        for module in self._stem_modules():
            x = module(x)
        for stage in range(self.num_stages):
            for module in self._stage_modules(stage):
                x = module(x)
            yield x

    def _check_input(self, x: Tensor) -> None:
        """Raise TypeError or ValueError unless ``x`` fits the network."""
        shape = f'(N, {self.in_chans}, H, W)'
        if not isinstance(x, Tensor):
            raise TypeError(f'expected a tensor of shape {shape}, got {type(x).__name__}')
        if x.dim() != 4 or x.shape[1] != self.in_chans:
            raise ValueError(
                f'expected an input of shape {shape}, got {tuple(x.shape)}; add the batch '
                'dimension with x[None] if it is missing, or set in_chans'
            )
        smallest = PATCH_SIZE * DOWNSAMPLE_STRIDE ** (self.num_stages - 1)
        if min(x.shape[2:]) < smallest:
            raise ValueError(
                f'expected an input of at least {smallest} x {smallest} pixels, the stride of the '
                f'last stage, got {x.shape[2]} x {x.shape[3]}; resize or pad it'
            )


@MODELS.register_module()
class RoadmapNet(Road):
    """Backbone of any step between ResNet and ConvNeXt: one NCHW map per requested stage.

    The strides are 4, 8, 16 and 32. The first step is torchvision's ResNet and the last is
    :class:`ConvNeXt`, with the same names of parameters and the same maps. As in those, the maps of
    the last step have a LayerNorm each, and those of the others have none. Where an input size is
    not divisible by the stride, blocks that halve the map round up and ConvNeXt's layers round
    down.

    ``init_cfg=dict(type='PretrainedConvNeXt', ...)`` loads weights into the last step, and
    mmengine's ``dict(type='Pretrained', checkpoint='torchvision://resnet50')`` into the first one
    of regime T. No weights are published for the steps between. All arguments but ``step`` and
    ``regime`` are keywords.

    Args:
        step: Name or number of the step, see ``convnext_backbones.models.roadmap_steps.STEPS``.
        regime: ``T``, from ResNet-50 to ConvNeXt-T, or ``B``, from ResNet-200 to ConvNeXt-B.
        width_factor: Multiplies all widths, for small experiments.
        in_chans: Channels of the input.
        drop_path_rate: Stochastic depth rate of the last block, in [0, 1); earlier blocks have
            linearly less.
        layer_scale_init_value: Initial value of the ``gamma`` of every block; at 0 or below there
            is none. None means the authors' 1e-6. The first step never has it.
        out_indices: As in :class:`ConvNeXt`.
        frozen_stages: -1 freezes nothing, 0 the stem, ``k`` the stem and the first ``k`` stages.
            Frozen parts get no gradient and stay in evaluation mode.
        norm_eval: Keep all BatchNorms in evaluation mode, as detectors with a pretrained ResNet do.
        channels_last: As in :class:`ConvNeXt`.
        pretrained: Must be None; accepted because mmseg passes it. Use ``init_cfg``.
        init_cfg: mmengine's initialization config.

    Attributes:
        step: Name of the step.
        regime: The argument.
        sizes: Depths and channels.
        out_indices: The normalized stage indices.
        out_channels: Channels of each returned map.
        out_strides: Stride of each returned map, in pixels of the input.

    Raises:
        TypeError: An argument or an input is of the wrong type.
        ValueError: An argument is out of its range, or an input does not fit.
    """

    def __init__(
        self,
        step: str | int,
        regime: str = 'T',
        *,
        width_factor: float = 1.0,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = None,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        channels_last: bool | None = None,
        pretrained: None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if pretrained is not None:
            raise ValueError(f'expected pretrained=None, got {pretrained!r}; use init_cfg')
        check_flag('norm_eval', norm_eval)
        if channels_last is not None:
            check_flag('channels_last', channels_last)
        out_indices = normalize_out_indices(out_indices, STAGES)
        super().__init__(
            step,
            regime,
            width_factor=width_factor,
            in_chans=in_chans,
            drop_path_rate=drop_path_rate,
            layer_scale_init_value=layer_scale_init_value,
            num_stages=out_indices[-1] + 1,
            init_cfg=init_cfg,
        )
        check_integer('frozen_stages', frozen_stages, minimum=-1, maximum=self.num_stages)
        self.out_indices = out_indices
        self.out_channels = tuple(self.sizes.out_channels[i] for i in out_indices)
        self.out_strides = tuple(PATCH_SIZE * DOWNSAMPLE_STRIDE**i for i in out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.channels_last = channels_last
        if self.step == LAST:
            for i in out_indices:
                self.add_module(f'norm{i}', LayerNorm2d(self.sizes.dims[i], eps=NORM_EPS))
        self.train()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of ``x``, of shape (N, in_chans, H, W) and at least 32 x 32."""
        self._check_input(x)
        x = in_memory_format(x, self.channels_last)
        maps = []
        for i, map_ in enumerate(self._maps(x)):
            if i in self.out_indices:
                if self.step == LAST:
                    map_ = getattr(self, f'norm{i}')(map_)
                maps.append(map_.contiguous())
        return tuple(maps)

    def _frozen_modules(self) -> Iterator[nn.Module]:
        if self.frozen_stages >= 0:
            yield from self._stem_modules()
        for i in range(self.frozen_stages):
            yield from self._stage_modules(i)
            if self.step == LAST and i in self.out_indices:
                yield getattr(self, f'norm{i}')

    def train(self, mode: bool = True) -> RoadmapNet:
        """Set training mode, except in frozen parts and norms, and return the backbone."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
            module.requires_grad_(False)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


@MODELS.register_module()
class RoadmapClassifier(Road):
    """Classifier of any step between ResNet and ConvNeXt: global average pool and linear layer.

    The last step normalizes the pooled features, as ConvNeXt does. All arguments but ``step`` and
    ``regime`` are keywords.

    Args:
        step: As in :class:`RoadmapNet`, and so the following.
        regime: ``T`` or ``B``.
        num_classes: Number of logits.
        width_factor: Multiplies all widths.
        in_chans: Channels of the input.
        drop_path_rate: Stochastic depth rate of the last block.
        layer_scale_init_value: Initial value of ``gamma``.
        init_cfg: mmengine's initialization config.

    Raises:
        TypeError: An argument or an input is of the wrong type.
        ValueError: An argument is out of its range, or an input does not fit.
    """

    def __init__(
        self,
        step: str | int,
        regime: str = 'T',
        *,
        num_classes: int = 1000,
        width_factor: float = 1.0,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        check_integer('num_classes', num_classes, minimum=1)
        super().__init__(
            step,
            regime,
            width_factor=width_factor,
            in_chans=in_chans,
            drop_path_rate=drop_path_rate,
            layer_scale_init_value=layer_scale_init_value,
            init_cfg=init_cfg,
        )
        features = self.sizes.out_channels[-1]
        linear = nn.Linear(features, num_classes)
        if STEPS[self.step].enhanced_recipe:
            init_module(linear)
        if self.step == LAST:
            self.norm = LayerNorm(features, eps=NORM_EPS)
            self.head = linear
        else:
            self.fc = linear

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (N, in_chans, H, W) to logits of shape (N, num_classes)."""
        self._check_input(x)
        *_, last = self._maps(x)
        features = last.mean((2, 3))  # (N, C, H, W) -> (N, C)
        return self.head(self.norm(features)) if self.step == LAST else self.fc(features)


def as_convnext(net: RoadmapNet | RoadmapClassifier) -> ConvNeXt | ConvNeXtClassifier:
    """Return the ConvNeXt that the last step is; it shares the modules of ``net``.

    Args:
        net: Backbone or classifier of the last step.

    Raises:
        ValueError: It is of another step, for which no weights of ConvNeXt exist.
    """
    if net.step != LAST:
        raise ValueError(
            f'expected step={LAST!r} for weights of ConvNeXt, got {net.step!r}; weights of a '
            "ResNet load into step='resnet' with type='Pretrained', and no weights are published "
            'for the steps between'
        )
    sizes: dict[str, Any] = dict(
        depths=net.sizes.depths, dims=net.sizes.dims, in_chans=net.in_chans
    )
    with torch.device('meta'):
        if isinstance(net, RoadmapNet):
            twin: ConvNeXt | ConvNeXtClassifier = ConvNeXt(out_indices=net.out_indices, **sizes)
        else:
            twin = ConvNeXtClassifier(num_classes=net.head.out_features, **sizes)
    for name, module in net.named_children():
        setattr(twin, name, module)
    # Not train(), which would also reach the frozen parts.
    twin.training = net.training
    return twin
