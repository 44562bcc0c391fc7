"""What is known of other backbones of OpenMMLab: which of their maps a ConvNeXt can replace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..models.arguments import normalize_out_indices
from ..models.convnext import ConvNeXt
from ..models.variants import NORM_EPS
from ..weights.published import published_name

Settings = Mapping[str, Any]

# Stage ``i`` of a ConvNeXt has stride ``4 * 2**i``.
STAGES = 4


@dataclass(frozen=True)
class Pyramid:
    """The maps of a kind of backbone.

    Attributes:
        stages: By number in ``out_indices``, the stage of a ConvNeXt with that stride.
        default: The kind's own ``out_indices``.
    """

    stages: Mapping[int, int]
    default: tuple[int, ...]


FOUR_STAGES = Pyramid({i: i for i in range(STAGES)}, (0, 1, 2, 3))
CSP = Pyramid({1: 0, 2: 1, 3: 2, 4: 3}, (2, 3, 4))
PYRAMIDS: dict[str, Pyramid] = {
    **dict.fromkeys(
        (
            *('ResNet', 'ResNetV1c', 'ResNetV1d', 'ResNeXt', 'Res2Net', 'ResNeSt', 'RegNet'),
            *('DetectoRS_ResNet', 'DetectoRS_ResNeXt', 'HRNet', 'SwinTransformer', 'MSCAN'),
            *('PyramidVisionTransformer', 'PyramidVisionTransformerV2', 'MixVisionTransformer'),
            *('PCPVT', 'SVT', 'ConvNeXt'),
        ),
        FOUR_STAGES,
    ),
    'Darknet': Pyramid({2: 0, 3: 1, 4: 2, 5: 3}, (3, 4, 5)),
    'CSPDarknet': CSP,
    'CSPNeXt': CSP,
    'EfficientNet': Pyramid({2: 0, 3: 1, 4: 2, 5: 3, 6: 3}, (6,)),
    'MobileNetV2': Pyramid({1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 6: 3, 7: 3}, (1, 2, 4, 6)),
    'PoolFormer': Pyramid({0: 0, 2: 1, 4: 2, 6: 3}, (6,)),
    'TIMMBackbone': Pyramid({1: 0, 2: 1, 3: 2, 4: 3}, (1, 2, 3, 4)),
}
ONE_RESOLUTION = 'its maps all have one resolution, and its neck or head is made for that'
ONE_NETWORK = 'backbone and heads are one network, made for each other'
HALF_SIZE = 'the head reads a map of stride 2, and the first of a ConvNeXt has stride 4'
FOUR_FOLD = 'the head reads maps of strides up to 1, and the first of a ConvNeXt has stride 4'
NO_PYRAMID: dict[str, str] = {
    **dict.fromkeys(('VisionTransformer', 'BEiT', 'MAE', 'VPD'), ONE_RESOLUTION),
    **dict.fromkeys(
        (
            *('BiSeNetV1', 'BiSeNetV2', 'CGNet', 'DDRNet', 'ERFNet', 'FastSCNN', 'ICNet'),
            *('PIDNet', 'STDCContextPathNet', 'STDCNet', 'HourglassNet', 'TridentResNet'),
        ),
        ONE_NETWORK,
    ),
    'SSDVGG': 'the sizes of its anchors and its extra layers are those of a VGG',
    'MobileNetV3': HALF_SIZE,
    'UNet': FOUR_FOLD,
}
# What keeps its meaning with another backbone.
KEPT = ('with_cp',)


def kind_of(part: Settings) -> str:
    """Return the name of a part's type, without its scope."""
    kind = part.get('type')
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition('.')[2]


def is_ours(backbone: Settings) -> bool:
    """Whether a backbone is this package's ConvNeXt."""
    kind = backbone.get('type')
    return issubclass(kind, ConvNeXt) if isinstance(kind, type) else kind == 'ConvNeXt'


def is_mmpretrains(backbone: Settings) -> bool:
    """Whether a backbone is mmpretrain's ConvNeXt."""
    return kind_of(backbone) == 'ConvNeXt' and not is_ours(backbone)


def stages_of(backbone: Settings) -> list[int]:
    """Return the stage of a ConvNeXt with the stride of each map of a backbone.

    Dilation, which makes maps larger, is left out: a dilated stage counts as the same stage.

    Raises:
        ValueError: The backbone makes no pyramid, or none that is known, or has a map that a
            ConvNeXt does not have.
    """
    kind = kind_of(backbone)
    if kind in NO_PYRAMID:
        raise ValueError(f'cannot put a ConvNeXt in the place of {kind}: {NO_PYRAMID[kind]}')
    if kind not in PYRAMIDS:
        raise ValueError(
            f'cannot put a ConvNeXt in the place of {kind}, whose maps are not known; give '
            'out_indices, the stages of a ConvNeXt that have their strides (0 to 3: 4 to 32 '
            'pixels)'
        )
    pyramid = PYRAMIDS[kind]
    indices = backbone.get('out_indices', pyramid.default)
    if kind == 'ConvNeXt':
        indices = normalize_out_indices(backbone.get('out_indices', _default_maps(backbone)), 4)
    stages = [pyramid.stages.get(i) for i in ([indices] if isinstance(indices, int) else indices)]
    found = [stage for stage in stages if stage is not None]
    if len(found) < len(stages) or sorted({*found}) != found:
        raise ValueError(
            f'cannot put a ConvNeXt in the place of {kind} with out_indices={indices}: its maps '
            'have strides 4, 8, 16 and 32'
        )
    return found


def _default_maps(backbone: Settings) -> int | tuple[int, ...]:
    return -1 if is_mmpretrains(backbone) else FOUR_STAGES.default


def is_dilated(backbone: Settings) -> bool:
    """Whether a backbone of four stages keeps the resolution of one, as in DeepLab."""
    strides = backbone.get('strides') or ()
    # Transformers begin with their patches; residual networks have stride 1 in the first stage.
    return kind_of(backbone) in PYRAMIDS and 1 in tuple(strides)[1:]


# --- mmpretrain's ConvNeXt ------------------------------------------------------------------

# Their keywords that ours has, by its name here.
RENAMED = dict(
    in_channels='in_chans',
    stem_patch_size='patch_size',
    use_grn='use_grn',
    drop_path_rate='drop_path_rate',
    layer_scale_init_value='layer_scale_init_value',
    with_cp='with_cp',
)
HANDLED = (
    *('type', 'arch', 'norm_cfg', 'act_cfg', 'linear_pw_conv', 'out_indices', 'frozen_stages'),
    *('gap_before_final_norm', 'init_cfg'),
)
# How their layers start; ours do the same.
STARTS = ('TruncNormal', 'Constant')
PREFIX = 'backbone.'


def translate_mmpretrain(backbone: Settings) -> dict[str, Any]:
    """Return the keywords of this package's ConvNeXt for those of mmpretrain's.

    The maps are the same, and so are the weights. ``frozen_stages`` also freezes the output norms
    of these stages here. ``out_indices`` is not among the result; see :func:`stages_of`.

    Raises:
        ValueError: A keyword has a value that ours cannot have.
    """
    unknown = sorted({*backbone} - {*RENAMED} - {*HANDLED})
    if unknown:
        raise ValueError(
            f'expected keywords of mmpretrain.ConvNeXt, got {", ".join(unknown)} besides'
        )
    if backbone.get('gap_before_final_norm', True):
        raise ValueError(
            'expected mmpretrain.ConvNeXt with gap_before_final_norm=False, got True, its default, '
            'with which it makes vectors for a classifier and no maps'
        )
    if kind_of(backbone.get('act_cfg', dict(type='GELU'))) != 'GELU':
        raise ValueError(
            f'expected mmpretrain.ConvNeXt with GELU, got act_cfg={dict(backbone["act_cfg"])}'
        )
    options = {name: backbone[key] for key, name in RENAMED.items() if key in backbone}
    options.setdefault('layer_scale_init_value', 1e-6)
    options['arch'] = _translated_arch(backbone.get('arch', 'tiny'))
    if (eps := _epsilon(backbone.get('norm_cfg'))) != NORM_EPS:
        options['norm_eps'] = eps
    if backbone.get('frozen_stages', 0) > 0:
        options['frozen_stages'] = backbone['frozen_stages']
    if start := _translated_start(backbone.get('init_cfg')):
        options['init_cfg'] = start
    return options


def _translated_arch(arch: str | Settings) -> str | dict[str, Any]:
    if isinstance(arch, str):
        return arch
    return dict(depths=list(arch['depths']), dims=list(arch['channels']))


def _epsilon(norm: Settings | None) -> float:
    """Return the epsilon of their norms; mmpretrain sets 1e-5 where the config has none."""
    if norm is None:
        return NORM_EPS
    if kind_of(norm) not in ('LN2d', 'LN'):
        raise ValueError(f'expected mmpretrain.ConvNeXt with norms LN2d, got norm_cfg={dict(norm)}')
    return float(norm.get('eps', 1e-5))


def _translated_start(init: Any) -> dict[str, Any] | None:
    """Return the ``init_cfg`` with the same weights, or None for random ones."""
    for entry in [init] if isinstance(init, dict) else init or ():
        if kind_of(entry) == 'Pretrained':
            checkpoint, prefix = entry['checkpoint'], entry.get('prefix')
            start = dict(
                type='PretrainedConvNeXt', checkpoint=published_name(checkpoint) or checkpoint
            )
            if prefix and prefix.rstrip('.') + '.' != PREFIX:
                start['prefix'] = prefix.rstrip('.') + '.'
            return start
        if kind_of(entry) not in STARTS:
            raise ValueError(
                'expected Pretrained, TruncNormal or Constant in the init_cfg of '
                f'mmpretrain.ConvNeXt, got {dict(entry)}'
            )
    return None
