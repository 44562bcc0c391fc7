"""Build other implementations of ConvNeXt with our weights, and Swin with its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..models.layers import LayerNorm2d
from ..models.variants import NORM_EPS, resolve_variant
from ..weights.layouts import LAYOUTS
from ..weights.names import recognize
from ..weights.origins import import_mmpretrain
from .case import OUTPUTS, State, is_v2, randomize
from .paper import SWIN_B, SWIN_L, SWIN_S, SWIN_T

SWIN = {'tiny': SWIN_T, 'small': SWIN_S, 'base': SWIN_B, 'large': SWIN_L}
ABSENT_PEERS = {'official': 'not on PyPI: the authors publish their code as a repository'}


class PeerBackbone(nn.Module):
    """Another implementation of the backbone, with our weights.

    A peer without output norms gets ours.

    Args:
        body: The peer's network.
        layout: Name of its layout in :data:`~convnext_backbones.weights.layouts.LAYOUTS`.
        take_maps: Computes the maps of the four stages from the network and the images.
        state: Our weights.
    """

    def __init__(
        self,
        body: nn.Module,
        layout: str,
        take_maps: Callable[[nn.Module, Tensor], Sequence[Tensor]],
        state: State,
    ) -> None:
        super().__init__()
        names = recognize(body.state_dict(), LAYOUTS[layout], prefix='').names
        shapes = {key: tensor.shape for key, tensor in body.state_dict().items()}
        body.load_state_dict({key: state[ours].view(shapes[key]) for ours, key in names.items()})
        self.body = body
        self.take_maps = take_maps
        self.norms = nn.ModuleList()
        if not LAYOUTS[layout].output_norms:
            for i in OUTPUTS:
                norm = LayerNorm2d(len(state[f'norm{i}.weight']), eps=NORM_EPS)
                norm.load_state_dict({key: state[f'norm{i}.{key}'] for key in ('weight', 'bias')})
                self.norms.append(norm)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the four normalized maps of ``x``, (N, 3, H, W): (N, C_i, H_i, W_i) each."""
        maps = self.take_maps(self.body, x)
        if self.norms:
            maps = [norm(x) for norm, x in zip(self.norms, maps, strict=True)]
        return list(maps)


def build_timm(arch: str, state: State) -> nn.Module:
    """Build timm's feature extractor."""
    import timm

    name = f'convnextv2_{arch}' if is_v2(state) else f'convnext_{arch}'
    body = timm.create_model(name, features_only=True, out_indices=OUTPUTS)
    return PeerBackbone(body, 'timm', lambda body, x: body(x), state)


def build_torchvision(arch: str, state: State) -> nn.Module:
    """Build torchvision's classifier, without its head.

    Raises:
        ValueError: torchvision has no such variant.
    """
    import torchvision

    name = f'convnextv2_{arch}' if is_v2(state) else f'convnext_{arch}'
    build = getattr(torchvision.models, name, None)
    if build is None:
        raise ValueError(f'torchvision has no {name}')
    body = build(stochastic_depth_prob=0.0)
    del body.classifier

    def take_maps(body: Any, x: Tensor) -> list[Tensor]:
        maps = []
        for i, layer in enumerate(body.features):
            x = layer(x)
            if i % 2:  # stem, stage, downsampling, stage, ...
                maps.append(x)
        return maps

    return PeerBackbone(body, 'torchvision', take_maps, state)


def build_transformers(arch: str, state: State) -> nn.Module:
    """Build the backbone of Hugging Face transformers."""
    import transformers

    variant = resolve_variant(arch)
    options: dict[str, Any] = dict(
        depths=list(variant.depths),
        hidden_sizes=list(variant.dims),
        layer_norm_eps=variant.norm_eps,
        out_features=[f'stage{i + 1}' for i in OUTPUTS],
    )
    family = 'ConvNextV2' if is_v2(state) else 'ConvNext'
    config = getattr(transformers, f'{family}Config')(**options)
    body = getattr(transformers, f'{family}Backbone')(config)
    return PeerBackbone(body, 'transformers', lambda body, x: body(x).feature_maps, state)


def build_mmpretrain(arch: str, state: State) -> nn.Module:
    """Build mmpretrain's backbone, set up for dense prediction."""
    import_mmpretrain()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        body = MODELS.build(mmpretrain_backbone(arch, is_v2(state)))
    return PeerBackbone(body, 'mmpretrain', lambda body, x: body(x), state)


def mmpretrain_backbone(
    arch: str | Mapping, use_grn: bool = False, out_indices: Sequence[int] = OUTPUTS
) -> dict:
    """Return the config of mmpretrain's backbone, for any default scope."""
    variant = resolve_variant(arch)
    return dict(
        type='mmpretrain.ConvNeXt',
        arch=dict(depths=variant.depths, channels=variant.dims),
        out_indices=tuple(out_indices),
        layer_scale_init_value=0.0 if use_grn else 1.0,
        use_grn=use_grn,
        gap_before_final_norm=False,
    )


def build_swin(arch: str | Mapping, state: State) -> nn.Module:
    """Build mmdet's Swin Transformer of the same size, with random weights of its own."""
    from mmdet.models import SwinTransformer

    options = {key: value for key, value in swin_backbone(arch).items() if key != 'type'}
    return randomize(SwinTransformer(**options))


def swin_backbone(arch: str | Mapping, out_indices: Sequence[int] = OUTPUTS) -> dict:
    """Return the config of the Swin Transformer of the same size, for mmdet and mmseg.

    Raises:
        ValueError: There is none of this size.
    """
    if isinstance(arch, Mapping) or arch not in SWIN:
        raise ValueError(f'there is no Swin for {arch!r}, only for {", ".join(SWIN)}')
    return dict(SWIN[arch], out_indices=tuple(out_indices))


PEERS = dict(
    timm=build_timm,
    torchvision=build_torchvision,
    transformers=build_transformers,
    mmpretrain=build_mmpretrain,
)
