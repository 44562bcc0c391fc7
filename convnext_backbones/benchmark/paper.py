"""Published costs of the models, and of other backbones in the same models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..experiments import EXPERIMENTS, Experiment


@dataclass(frozen=True)
class Comparator:
    """A model of table 3 or 4 with another backbone.

    Attributes:
        experiment: The published experiment with the same heads and the same image.
        backbone: Config of the backbone, for mmdet or mmseg.
        paper_gmacs: The paper's multiply-adds in 1e9.
        paper_params: The paper's parameters in 1e6; table 3 states none.
        note: Why the paper's figure differs from ours, if it does.
    """

    experiment: str
    backbone: Mapping[str, Any]
    paper_gmacs: int
    paper_params: int | None = None
    note: str = ''

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        return EXPERIMENTS[self.experiment].input_shape


@dataclass(frozen=True)
class Classifier:
    """An ImageNet classifier of table 12 and of the authors' README files, of V1 or V2.

    Attributes:
        arch: Name in :data:`~convnext_backbones.VARIANTS`.
        size: Height and width of the image.
        paper_gmacs: The authors' multiply-adds in 1e9.
        paper_params: The authors' parameters in 1e6.
        use_grn: Whether it is a ConvNeXt V2.
    """

    arch: str
    size: int
    paper_gmacs: float
    paper_params: float
    use_grn: bool = False

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.size, self.size


def _swin(embed_dims: int, depth: int, num_heads: int) -> dict:
    """Return the config of Swin for mmdet and mmseg.

    The paper's figures are for windows of 7 at all image sizes. Maps are padded to whole windows,
    and operations on the padding count.

    Args:
        embed_dims: Width of the first stage.
        depth: Depth of the third stage.
        num_heads: Heads of the first stage.
    """
    return dict(
        type='SwinTransformer',
        embed_dims=embed_dims,
        depths=(2, 2, depth, 2),
        num_heads=tuple(num_heads * 2**i for i in range(4)),
        window_size=7,
    )


RESNET_50 = dict(type='ResNet', depth=50)
X101_32 = dict(type='ResNeXt', depth=101, groups=32, base_width=4)
X101_64 = dict(type='ResNeXt', depth=101, groups=64, base_width=4)
SWIN_T = _swin(96, 6, 3)
SWIN_S = _swin(96, 18, 3)
SWIN_B = _swin(128, 18, 4)
SWIN_L = _swin(192, 18, 6)
SWIN_L_NOTE = (
    "The paper's figures for Swin-L omit the matrix products of attention, unlike those for the "
    'other sizes of Swin.'
)
COMPARATORS: dict[str, Comparator] = {
    'mask_rcnn_swin_t': Comparator('mask_rcnn_convnext_t', SWIN_T, 267),
    'cascade_mask_rcnn_r50': Comparator('cascade_mask_rcnn_convnext_t', RESNET_50, 739),
    'cascade_mask_rcnn_x101_32x4d': Comparator('cascade_mask_rcnn_convnext_t', X101_32, 819),
    'cascade_mask_rcnn_x101_64x4d': Comparator('cascade_mask_rcnn_convnext_t', X101_64, 972),
    'cascade_mask_rcnn_swin_t': Comparator('cascade_mask_rcnn_convnext_t', SWIN_T, 745),
    'cascade_mask_rcnn_swin_s': Comparator('cascade_mask_rcnn_convnext_s', SWIN_S, 838),
    'cascade_mask_rcnn_swin_b': Comparator('cascade_mask_rcnn_convnext_b', SWIN_B, 982),
    'cascade_mask_rcnn_swin_l_in22k': Comparator(
        'cascade_mask_rcnn_convnext_l_in22k', SWIN_L, 1382, note=SWIN_L_NOTE
    ),
    'upernet_swin_t': Comparator('upernet_convnext_t', SWIN_T, 945, 60),
    'upernet_swin_s': Comparator('upernet_convnext_s', SWIN_S, 1038, 81),
    'upernet_swin_b': Comparator('upernet_convnext_b', SWIN_B, 1188, 121),
    'upernet_swin_b_in22k': Comparator('upernet_convnext_b_in22k', SWIN_B, 1841, 121),
    'upernet_swin_l_in22k': Comparator(
        'upernet_convnext_l_in22k', SWIN_L, 2468, 234, note=SWIN_L_NOTE
    ),
}
CLASSIFIERS: dict[str, Classifier] = {
    f'convnext_{row[0]}_{row[1]}': Classifier(*row)
    for row in (
        ('tiny', 224, 4.5, 29),
        ('small', 224, 8.7, 50),
        ('base', 224, 15.4, 89),
        ('large', 224, 34.4, 198),
        ('xlarge', 224, 60.9, 350),
        ('tiny', 384, 13.1, 29),
        ('small', 384, 25.5, 50),
        ('base', 384, 45.0, 89),
        ('large', 384, 101.0, 198),
        ('xlarge', 384, 179.0, 350),
    )
}
CLASSIFIERS |= {
    f'convnextv2_{arch}_{size}': Classifier(arch, size, gmacs, params, use_grn=True)
    for arch, size, gmacs, params in (
        ('atto', 224, 0.55, 3.7),
        ('femto', 224, 0.78, 5.2),
        ('pico', 224, 1.37, 9.1),
        ('nano', 224, 2.45, 15.6),
        ('tiny', 224, 4.47, 28.6),
        ('base', 224, 15.4, 89),
        ('large', 224, 34.4, 198),
        ('huge', 224, 115, 660),
        ('nano', 384, 7.21, 15.6),
        ('tiny', 384, 13.1, 28.6),
        ('base', 384, 45.2, 89),
        ('large', 384, 101.1, 198),
        ('huge', 384, 337.9, 660),
        ('huge', 512, 600.8, 660),
    )
}
PAPER_MODELS: dict[str, Experiment | Comparator | Classifier] = {
    **EXPERIMENTS,
    **COMPARATORS,
    **CLASSIFIERS,
}
