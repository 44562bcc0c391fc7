"""Recipes of our own for backbones that the paper does not have; nobody has measured their results.

ConvNeXt V2 (Woo et al., 2023) in Mask R-CNN follows what its paper and mmdet's project say: 36
epochs on large-scale jitter of 1024 x 1024 pixels, 32 images per step, from weights of masked
autoencoding; stochastic depth and decay of base are that project's, the others lie in the paper's
ranges. All other rows are the authors' recipes for ConvNeXt V1 of that size, with other weights,
because nothing is published. Each file in ``configs/convnextv2`` and ``configs/dinov3`` joins a row
with its bases.

``HEAD_RECIPES`` puts a ConvNeXt below other heads of mmdet and mmseg, whose files are in
``configs/heads``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from .experiments import EXPERIMENTS, LETTERS, Recipe, describe, entries

V2 = 'ConvNeXt V2'
DINOV3 = 'DINOv3 ConvNeXt'
CASCADE, UPERNET = 'cascade_mask_rcnn_convnext', 'upernet_convnext'


def _like(experiment: str, **changes: Any) -> Recipe:
    """Return the authors' recipe of an experiment with changes."""
    known = EXPERIMENTS[experiment]
    shared = {field.name: getattr(known, field.name) for field in fields(Recipe)}
    return replace(Recipe(**shared), **changes)


def _v2(experiment: str, arch: str, weights: str, pretraining: str, **changes: Any) -> Recipe:
    name = f'convnextv2_{arch}_{weights}'
    return _like(
        experiment, arch=arch, weights=name, pretraining=pretraining, use_grn=True, **changes
    )


def _v2_recipes() -> dict[str, Recipe]:
    # FCMAE is their masked autoencoder, trained on ImageNet-1K. The file for 22K is also trained on
    # 1K afterwards.
    autoencoded = ('1k_224_fcmae', 'FCMAE')
    classified = ('1k_224_ema', 'FCMAE, ImageNet-1K')
    large = ('22k_224_ema', 'FCMAE, ImageNet-22K')
    # The rates of the paper's Mask R-CNN are for 32 images per step.
    jittered: dict[str, Any] = dict(lr=1e-4, decay_rate=0.95)
    mask = 'mask_rcnn_convnext_t'
    return {
        'mask_rcnn_convnextv2_t': _v2(mask, 'tiny', *autoencoded, drop_path_rate=0.2, **jittered),
        'mask_rcnn_convnextv2_b': _v2(mask, 'base', *autoencoded, drop_path_rate=0.4, **jittered),
        'mask_rcnn_convnextv2_l': _v2(
            mask, 'large', *autoencoded, drop_path_rate=0.5, amp=False, **jittered
        ),
        'cascade_mask_rcnn_convnextv2_t': _v2(f'{CASCADE}_t', 'tiny', *classified),
        'cascade_mask_rcnn_convnextv2_b': _v2(f'{CASCADE}_b', 'base', *classified),
        'cascade_mask_rcnn_convnextv2_l': _v2(f'{CASCADE}_l_in22k', 'large', *large),
        # Weights of classification start segmentation better than masked autoencoding alone, says
        # the paper.
        'upernet_convnextv2_t': _v2(f'{UPERNET}_t', 'tiny', *classified),
        'upernet_convnextv2_b': _v2(f'{UPERNET}_b', 'base', *classified),
        'upernet_convnextv2_l': _v2(f'{UPERNET}_l_in22k', 'large', *large),
    }


def _dinov3_recipes() -> dict[str, Recipe]:
    recipes = {}
    for arch, letter in (('tiny', 't'), ('small', 's'), ('base', 'b'), ('large', 'l')):
        size = 'l_in22k' if arch == 'large' else letter
        # timm's copy needs no permission to be downloaded; the licence is the same.
        started = dict(
            arch=arch, weights=f'timm/convnext_{arch}.dinov3_lvd1689m', pretraining='LVD-1689M'
        )
        cascade = _like(f'{CASCADE}_{size}', **started)
        recipes[f'mask_rcnn_dinov3_convnext_{letter}'] = _like(
            'mask_rcnn_convnext_t',
            **started,
            drop_path_rate=cascade.drop_path_rate,
            amp=cascade.amp,
        )
        recipes[f'cascade_mask_rcnn_dinov3_convnext_{letter}'] = cascade
        recipes[f'upernet_dinov3_convnext_{letter}'] = _like(f'{UPERNET}_{size}', **started)
    return recipes


RECIPES: dict[str, Recipe] = {**_v2_recipes(), **_dinov3_recipes()}


@dataclass(frozen=True)
class HeadRecipe:
    """A head of mmdet or mmseg over a ConvNeXt.

    Attributes:
        head: Its short name in ``convnext_backbones.config.heads``.
        method: Its name in words.
        arch: As in :class:`Recipe`, and so the following.
        pretraining: Data set that the backbone was trained on.
        weights: Initial weights of the backbone.
        input_shape: Height and width of the image that multiply-adds are counted for.
    """

    head: str
    method: str
    arch: str
    pretraining: str
    weights: str
    input_shape: tuple[int, int]


COCO, COCO_SQUARE, ADE20K = (800, 1280), (640, 640), (512, 2048)
HEADS = {
    'faster_rcnn': ('Faster R-CNN', COCO),
    'retinanet': ('RetinaNet', COCO),
    'fcos': ('FCOS', COCO),
    'htc': ('HTC without its semantic branch', COCO),
    'rtmdet': ('RTMDet', COCO_SQUARE),
    'rtmdet_ins': ('RTMDet-Ins', COCO_SQUARE),
    'dino': ('DINO', COCO),
    'mask2former_instance': ('Mask2Former, instances', COCO),
    'mask2former_panoptic': ('Mask2Former, panoptic', COCO),
    'mask2former_semantic': ('Mask2Former, semantic', ADE20K),
    'pspnet': ('PSPNet', ADE20K),
    'deeplabv3plus': ('DeepLabV3+', ADE20K),
    'segformer': ("SegFormer's head", ADE20K),
    'knet': ('K-Net', ADE20K),
}
# What is usual with DINOv3.
DINOV3_HEADS = (
    ('dino', 'tiny', 't'),
    ('dino', 'base', 'b'),
    ('mask2former_instance', 'base', 'b'),
    ('mask2former_semantic', 'base', 'b'),
)


def _head_recipes() -> dict[str, HeadRecipe]:
    recipes = {}
    for head, (method, shape) in HEADS.items():
        recipes[f'{head}_convnext_t'] = HeadRecipe(
            head, method, 'tiny', 'ImageNet-1K', 'convnext_tiny_1k_224', shape
        )
    for head, arch, letter in DINOV3_HEADS:
        method, shape = HEADS[head]
        weights = f'timm/convnext_{arch}.dinov3_lvd1689m'
        recipes[f'{head}_dinov3_convnext_{letter}'] = HeadRecipe(
            head, method, arch, 'LVD-1689M', weights, shape
        )
    return recipes


HEAD_RECIPES: dict[str, HeadRecipe] = _head_recipes()


def config_of(name: str) -> str:
    """Return the path of the config of a recipe below ``configs``.

    Raises:
        ValueError: There is no such recipe.
    """
    if name in HEAD_RECIPES:
        return f'heads/{name}.py'
    return f'{"convnextv2" if _find(name).use_grn else "dinov3"}/{name}.py'


def settings(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the config entries ``model`` and ``optim_wrapper`` of a recipe, over its bases.

    Raises:
        ValueError: There is no such recipe.
    """
    return entries(_find(name))


def summary(name: str) -> str:
    """Return the two lines that a config begins with, as comments: its entries of the table.

    Raises:
        ValueError: There is no such recipe.
    """
    one = _find(name)
    backbone = f'{V2 if one.use_grn else DINOV3}-{LETTERS[one.arch]} ({one.pretraining})'
    numbers = describe(one)
    if one.weights.endswith('fcmae'):
        numbers += ', trained on large-scale jitter of 1024 x 1024'
    return f'{one.method}, {backbone}; a recipe of ours, not measured\n{numbers}'


def head_summary(name: str) -> str:
    """Return the first line of a config in ``configs/heads``, as a comment: its row of the table.

    Raises:
        ValueError: There is no such recipe.
    """
    if name not in HEAD_RECIPES:
        raise ValueError(f'expected one of {", ".join(HEAD_RECIPES)}, got {name!r}')
    one = HEAD_RECIPES[name]
    family = DINOV3 if 'dinov3' in name else 'ConvNeXt'
    backbone = f'{family}-{LETTERS[one.arch]} ({one.pretraining})'
    return f'{one.method}, {backbone}; a recipe of ours, not measured'


def _find(name: str) -> Recipe:
    if name not in RECIPES:
        raise ValueError(f'expected one of {", ".join(RECIPES)}, got {name!r}')
    return RECIPES[name]
