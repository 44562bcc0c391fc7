"""The block of every step between ResNet and ConvNeXt, built from the table of steps.

The names of the layers are torchvision's, so that its weights load into the first step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers import DropPath, LayerNorm2d
from .roadmap_steps import EXPANSION, INVERTED, MOVED_UP, Step
from .variants import NORM_EPS


@dataclass(frozen=True)
class Convolution:
    """A convolution of a block.

    Attributes:
        in_channels: Channels of its input.
        out_channels: Channels of its output.
        kernel_size: 1 for the pointwise ones.
        stride: 2 where it halves the map.
        groups: As many as channels in a depthwise convolution.
    """

    in_channels: int
    out_channels: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1


def plan_block(step: Step, in_channels: int, dim: int, stride: int) -> list[Convolution]:
    """Return the three convolutions of a block, in the order in which they run.

    Args:
        step: A step before the last.
        in_channels: Channels of the map that the block gets.
        dim: Narrow channels C of the stage.
        stride: Of the block.
    """
    wide = EXPANSION * dim

    def spatial(channels: int) -> Convolution:
        groups = channels if step.depthwise else 1
        return Convolution(channels, channels, step.kernel_size, stride, groups)

    if step.block == MOVED_UP:
        return [spatial(in_channels), Convolution(in_channels, wide), Convolution(wide, dim)]
    if step.block == INVERTED:
        return [Convolution(in_channels, wide), spatial(wide), Convolution(wide, dim)]
    return [Convolution(in_channels, dim), spatial(dim), Convolution(dim, wide)]


def build_convolution(plan: Convolution, bias: bool) -> nn.Conv2d:
    """Return a convolution that pads so that only its stride changes the size of the map."""
    return nn.Conv2d(
        plan.in_channels,
        plan.out_channels,
        plan.kernel_size,
        stride=plan.stride,
        padding=plan.kernel_size // 2,
        groups=plan.groups,
        bias=bias,
    )


def build_norm(step: Step, channels: int) -> nn.Module:
    """Return the norm of a step for an NCHW map."""
    return LayerNorm2d(channels, eps=NORM_EPS) if step.layer_norm else nn.BatchNorm2d(channels)


def build_activation(step: Step) -> nn.Module:
    """Return the activation of a step."""
    return nn.GELU() if step.gelu else nn.ReLU()


class RoadmapBlock(nn.Module):
    """Three convolutions beside a shortcut; the step says which, and what stands between them.

    Layers that a step does not have are identities. A convolution has a bias unless a BatchNorm
    follows it directly.

    Args:
        step: A step before the last.
        in_channels: Channels of the map that the block gets.
        dim: Narrow channels C of the stage.
        stride: Of the block.
        drop_path_rate: Probability of dropping the branch in training.
        layer_scale_init_value: Initial value of ``gamma``; there is no ``gamma`` at 0 or below.
    """

    conv1: nn.Module
    conv2: nn.Module
    conv3: nn.Module
    bn1: nn.Module
    bn2: nn.Module
    bn3: nn.Module
    act1: nn.Module
    act2: nn.Module
    act3: nn.Module

    def __init__(
        self,
        step: Step,
        in_channels: int,
        dim: int,
        stride: int,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 0.0,
    ) -> None:
        super().__init__()
        plans = plan_block(step, in_channels, dim, stride)
        for i, plan in enumerate(plans, start=1):
            has_norm = not step.few_norms or plan.kernel_size > 1
            has_bias = step.layer_norm or not has_norm
            self.add_module(f'conv{i}', build_convolution(plan, has_bias))
            norm = build_norm(step, plan.out_channels) if has_norm else nn.Identity()
            self.add_module(f'bn{i}', norm)
            has_activation = not step.few_activations or i == 2
            self.add_module(f'act{i}', build_activation(step) if has_activation else nn.Identity())
        out_channels = plans[-1].out_channels
        self.downsample: nn.Module | None = None
        if stride > 1 or in_channels != out_channels:
            shortcut = Convolution(in_channels, out_channels, stride=stride)
            self.downsample = nn.Sequential(
                build_convolution(shortcut, step.layer_norm), build_norm(step, out_channels)
            )
        self.gamma = None
        if layer_scale_init_value > 0:
            gamma = torch.full((out_channels,), float(layer_scale_init_value))
            self.gamma = nn.Parameter(gamma)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (N, C_in, H, W) to (N, C_out, ceil(H / stride), ceil(W / stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        if self.gamma is not None:
            x = self.gamma[:, None, None] * x
        return self.act3(shortcut + self.drop_path(x))
