"""Other implementations of ConvNeXt, and Swin, with our weights and interface."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from unittest import mock

from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..models.convnext import NORM_EPS
from ..models.layers import LayerNorm2d
from ..models.variants import resolve_variant
from ..weights.layouts import LAYOUTS
from ..weights.names import recognize
from .case import OUTPUTS, State, randomize
from .paper import SWIN_B, SWIN_L, SWIN_S, SWIN_T

SWIN = {'tiny': SWIN_T, 'small': SWIN_S, 'base': SWIN_B, 'large': SWIN_L}
ABSENT_PEERS = {'official': 'not on PyPI: the authors publish their code as a repository'}


class PeerBackbone(nn.Module):
    """A peer with our weights.

    Args:
        body: The peer's network.
        layout: Its name in :data:`~convnext_backbones.layouts.LAYOUTS`.
        take_maps: From the network and images to the maps of the four stages.
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
        """The four normalized maps of ``x``."""
        maps = self.take_maps(self.body, x)
        if self.norms:
            maps = [norm(x) for norm, x in zip(self.norms, maps, strict=True)]
        return list(maps)


def build_timm(arch: str, state: State) -> nn.Module:
    """timm's feature extractor."""
    import timm

    body = timm.create_model(f'convnext_{arch}', features_only=True, out_indices=OUTPUTS)
    return PeerBackbone(body, 'timm', lambda body, x: body(x), state)


def build_torchvision(arch: str, state: State) -> nn.Module:
    """torchvision's classifier, without its end."""
    import torchvision

    build = getattr(torchvision.models, f'convnext_{arch}', None)
    if build is None:
        raise ValueError(f'torchvision has no convnext_{arch}')
    body = build(stochastic_depth_prob=0.0)
    del body.classifier

    def take_maps(body: nn.Module, x: Tensor) -> list[Tensor]:
        maps = []
        for i, layer in enumerate(body.features):
            x = layer(x)
            if i % 2:  # stem, stage, downsampling, stage, ...
                maps.append(x)
        return maps

    return PeerBackbone(body, 'torchvision', take_maps, state)


def build_transformers(arch: str, state: State) -> nn.Module:
    """Hugging Face's backbone."""
    from transformers import ConvNextBackbone, ConvNextConfig

    variant = resolve_variant(arch)
    config = ConvNextConfig(
        depths=list(variant.depths),
        hidden_sizes=list(variant.dims),
        layer_norm_eps=NORM_EPS,
        out_features=[f'stage{i + 1}' for i in OUTPUTS],
    )
    body = ConvNextBackbone(config)
    return PeerBackbone(body, 'transformers', lambda body, x: body(x).feature_maps, state)


def build_mmpretrain(arch: str, state: State) -> nn.Module:
    """mmpretrain's backbone, as its configs for dense prediction have it."""
    import_mmpretrain()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        body = MODELS.build(mmpretrain_backbone(arch))
    return PeerBackbone(body, 'mmpretrain', lambda body, x: body(x), state)


def mmpretrain_backbone(arch: str | Mapping) -> dict:
    """The config of mmpretrain's backbone, for any scope."""
    variant = resolve_variant(arch)
    return dict(
        type='mmpretrain.ConvNeXt',
        arch=dict(depths=variant.depths, channels=variant.dims),
        out_indices=OUTPUTS,
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
    )


def import_mmpretrain() -> None:
    """Import mmpretrain's models without what unrelated parts of it need.

    All of them, which its registry wants to have: mmdet tries the same import, and leaves half of
    it behind where torchvision is missing.

    Its metric of visual grounding wants torchvision, for which an empty module stands in, and its
    multimodal models an older transformers; they are left out.
    """
    from mmpretrain.utils import dependency

    stubs = {}
    if importlib.util.find_spec('torchvision') is None:
        names = ('torchvision', 'torchvision.ops', 'torchvision.ops.boxes')
        stubs = {name: types.ModuleType(name) for name in names}
        stubs['torchvision'].ops = stubs['torchvision.ops']
        stubs['torchvision.ops'].boxes = stubs['torchvision.ops.boxes']
    sys.modules.update(stubs)
    try:
        with mock.patch.object(dependency, 'WITH_MULTIMODAL', False):
            import mmpretrain.models  # noqa: F401
    finally:
        for name in stubs:
            del sys.modules[name]


def build_swin(arch: str, state: State) -> nn.Module:
    """mmdet's Swin Transformer of the same size, with weights of its own."""
    from mmdet.models import SwinTransformer

    options = {key: value for key, value in swin_backbone(arch).items() if key != 'type'}
    return randomize(SwinTransformer(**options))


def swin_backbone(arch: str | Mapping) -> dict:
    """The config of the Swin Transformer of the same size, of mmdet and mmseg.

    Raises:
        ValueError: There is none.
    """
    if isinstance(arch, Mapping) or arch not in SWIN:
        raise ValueError(f'there is a Swin for {", ".join(SWIN)} only')
    return SWIN[arch]


PEERS = dict(
    timm=build_timm,
    torchvision=build_torchvision,
    transformers=build_transformers,
    mmpretrain=build_mmpretrain,
)
