"""The thirteen downstream experiments of the paper: everything in which they differ, in one table.

"A ConvNet for the 2020s" (Liu et al., CVPR 2022), tables 3 (COCO) and 4 (ADE20K), appendix A.3;
weights and learning-rate decay from the authors' repository. Settings that all experiments of a
method share are in ``configs/_base_``; each file in ``configs`` joins the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .models.variants import VARIANTS

LETTERS = dict(tiny='T', small='S', base='B', large='L', xlarge='XL')
COCO_SCALE = (1333, 800)  # the largest long and short side of an image in evaluation


@dataclass(frozen=True)
class Recipe:
    """The settings in which the trainings of a method differ.

    Attributes:
        method: Name of the detector or segmentor.
        task: ``detection`` on COCO, with masks, or ``segmentation`` on ADE20K.
        arch: Name in :data:`~convnext_backbones.VARIANTS`.
        pretraining: Data set that the backbone was trained on.
        weights: Initial weights of the backbone, a name in :data:`~convnext_backbones.PUBLISHED`.
        drop_path_rate: Stochastic depth of the last block.
        lr: Learning rate of the heads at 16 images per step; at 32 with large-scale jitter.
        decay_rate: Learning-rate factor from one layer of the backbone to the one below.
        amp: Whether to train in mixed precision.
        input_shape: Height and width of the image that multiply-adds are counted for. The models of
            ADE20K train on, and slide over, squares of that height.
        use_grn: Whether the backbone is a ConvNeXt V2.
    """

    method: Literal['Mask R-CNN', 'Cascade Mask R-CNN', 'UperNet']
    task: Literal['detection', 'segmentation']
    arch: str
    pretraining: str
    weights: str
    drop_path_rate: float
    lr: float
    decay_rate: float
    amp: bool
    input_shape: tuple[int, int]
    use_grn: bool = False


@dataclass(frozen=True, kw_only=True)
class Experiment(Recipe):
    """One row of table 3 or 4 with its recipe.

    Attributes:
        finetuned: The authors' trained model, a name in :data:`~convnext_backbones.PUBLISHED`.
        paper_gmacs: The paper's multiply-adds, in 1e9.
        paper_params: The authors' parameter count, in 1e6.
        paper_metrics: The paper's figures in percent, by the names that metafiles use.
    """

    finetuned: str
    paper_gmacs: int
    paper_params: int
    paper_metrics: dict[str, float]


def _coco(
    finetuned: str, box_ap: float, mask_ap: float, gmacs: int, params: int, **recipe: Any
) -> Experiment:
    return Experiment(
        task='detection',
        finetuned=finetuned,
        input_shape=(800, 1280),
        paper_gmacs=gmacs,
        paper_params=params,
        paper_metrics={'box AP': box_ap, 'mask AP': mask_ap},
        **recipe,
    )


def _ade20k(
    finetuned: str, size: int, miou: float, miou_tta: float, gmacs: int, params: int, **recipe: Any
) -> Experiment:
    return Experiment(
        method='UperNet',
        task='segmentation',
        finetuned=f'{finetuned}_{size}x{size}',
        decay_rate=0.9,
        input_shape=(size, 4 * size),
        paper_gmacs=gmacs,
        paper_params=params,
        paper_metrics={'mIoU': miou, 'mIoU(ms+flip)': miou_tta},
        **recipe,
    )


MASK = dict(method='Mask R-CNN')
CASCADE = dict(method='Cascade Mask R-CNN')
TINY = dict(arch='tiny', weights='convnext_tiny_1k_224', pretraining='ImageNet-1K')
SMALL = dict(arch='small', weights='convnext_small_1k_224', pretraining='ImageNet-1K')
BASE = dict(arch='base', weights='convnext_base_1k_224', pretraining='ImageNet-1K')
BASE_22K = dict(arch='base', weights='convnext_base_22k_224', pretraining='ImageNet-22K')
LARGE_22K = dict(arch='large', weights='convnext_large_22k_224', pretraining='ImageNet-22K')
XLARGE_22K = dict(arch='xlarge', weights='convnext_xlarge_22k_224', pretraining='ImageNet-22K')
# fmt: off
EXPERIMENTS: dict[str, Experiment] = {
    # COCO: the authors' file, box AP, mask AP, G multiply-adds, M parameters
    'mask_rcnn_convnext_t': _coco(
        'mask_rcnn_convnext_tiny_1k_3x', 46.2, 41.7, 262, 48,
        **MASK, **TINY, drop_path_rate=0.4, lr=1e-4, decay_rate=0.95, amp=True),
    'cascade_mask_rcnn_convnext_t': _coco(
        'cascade_mask_rcnn_convnext_tiny_1k_3x', 50.4, 43.7, 741, 86,
        **CASCADE, **TINY, drop_path_rate=0.4, lr=2e-4, decay_rate=0.7, amp=True),
    'cascade_mask_rcnn_convnext_s': _coco(
        'cascade_mask_rcnn_convnext_small_1k_3x', 51.9, 45.0, 827, 108,
        **CASCADE, **SMALL, drop_path_rate=0.6, lr=2e-4, decay_rate=0.7, amp=True),
    'cascade_mask_rcnn_convnext_b': _coco(
        'cascade_mask_rcnn_convnext_base_1k_3x', 52.7, 45.6, 964, 146,
        **CASCADE, **BASE, drop_path_rate=0.7, lr=2e-4, decay_rate=0.8, amp=True),
    'cascade_mask_rcnn_convnext_b_in22k': _coco(
        'cascade_mask_rcnn_convnext_base_22k_3x', 54.0, 46.9, 964, 146,
        **CASCADE, **BASE_22K, drop_path_rate=0.6, lr=1e-4, decay_rate=0.8, amp=True),
    'cascade_mask_rcnn_convnext_l_in22k': _coco(
        'cascade_mask_rcnn_convnext_large_22k_3x', 54.8, 47.6, 1354, 255,
        **CASCADE, **LARGE_22K, drop_path_rate=0.7, lr=1e-4, decay_rate=0.7, amp=False),
    'cascade_mask_rcnn_convnext_xl_in22k': _coco(
        'cascade_mask_rcnn_convnext_xlarge_22k_3x', 55.2, 47.7, 1898, 407,
        **CASCADE, **XLARGE_22K, drop_path_rate=0.8, lr=1e-4, decay_rate=0.7, amp=False),
    # ADE20K: the authors' file, crop, mIoU single-scale, multi-scale + flip, G multiply-adds,
    # M parameters
    'upernet_convnext_t': _ade20k(
        'upernet_convnext_tiny_1k', 512, 46.0, 46.7, 939, 60,
        **TINY, drop_path_rate=0.4, lr=1e-4, amp=True),
    'upernet_convnext_s': _ade20k(
        'upernet_convnext_small_1k', 512, 48.7, 49.6, 1027, 82,
        **SMALL, drop_path_rate=0.3, lr=1e-4, amp=True),
    'upernet_convnext_b': _ade20k(
        'upernet_convnext_base_1k', 512, 49.1, 49.9, 1170, 122,
        **BASE, drop_path_rate=0.4, lr=1e-4, amp=True),
    'upernet_convnext_b_in22k': _ade20k(
        'upernet_convnext_base_22k', 640, 52.6, 53.1, 1828, 122,
        **BASE_22K, drop_path_rate=0.4, lr=1e-4, amp=True),
    'upernet_convnext_l_in22k': _ade20k(
        'upernet_convnext_large_22k', 640, 53.2, 53.7, 2458, 235,
        **LARGE_22K, drop_path_rate=0.4, lr=1e-4, amp=False),
    'upernet_convnext_xl_in22k': _ade20k(
        'upernet_convnext_xlarge_22k', 640, 53.6, 54.0, 3335, 391,
        **XLARGE_22K, drop_path_rate=0.4, lr=8e-5, amp=False),
}


# fmt: on


def settings(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the config entries ``model`` and ``optim_wrapper`` of an experiment, over its bases.

    Raises:
        ValueError: There is no such experiment.
    """
    return entries(_find(name))


def entries(recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the config entries ``model`` and ``optim_wrapper`` of a recipe, over its bases."""
    dims = list(VARIANTS[recipe.arch].dims)
    backbone: dict[str, Any] = dict(
        arch=recipe.arch,
        drop_path_rate=recipe.drop_path_rate,
        init_cfg=dict(type='PretrainedConvNeXt', checkpoint=recipe.weights),
    )
    if recipe.use_grn:
        backbone |= dict(use_grn=True, layer_scale_init_value=0.0)
    model: dict[str, Any] = dict(backbone=backbone)
    if recipe.task == 'segmentation':
        size, _ = recipe.input_shape
        stride = 2 * size // 3
        model['decode_head'] = dict(in_channels=dims)
        model['auxiliary_head'] = dict(in_channels=dims[2])
        model['data_preprocessor'] = dict(size=(size, size))
        model['test_cfg'] = dict(mode='slide', crop_size=(size, size), stride=(stride, stride))
    else:
        model['neck'] = dict(in_channels=dims)
    optim_wrapper = dict(
        type='AmpOptimWrapper' if recipe.amp else 'OptimWrapper',
        optimizer=dict(lr=recipe.lr),
        paramwise_cfg=dict(decay_rate=recipe.decay_rate),
    )
    return model, optim_wrapper


def summary(name: str) -> str:
    """Return the line that a config begins with, as a comment: its entries of the table.

    Raises:
        ValueError: There is no such experiment.
    """
    one = _find(name)
    return f'{one.method}, ConvNeXt-{LETTERS[one.arch]} ({one.pretraining}), {describe(one)}'


def describe(recipe: Recipe) -> str:
    """Return the numbers of a recipe in a line."""
    size, _ = recipe.input_shape
    images = 'COCO {} x {}'.format(*COCO_SCALE)
    if recipe.task == 'segmentation':
        images = f'ADE20K {size} x {size}'
    rate = f'{recipe.lr:.0e}'.replace('e-0', 'e-')
    return f'drop path {recipe.drop_path_rate}, lr {rate}, decay {recipe.decay_rate}, {images}'


def _find(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise ValueError(f'expected one of {", ".join(EXPERIMENTS)}, got {name!r}')
    return EXPERIMENTS[name]
