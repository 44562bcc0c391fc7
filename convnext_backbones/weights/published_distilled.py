"""Files of V1's network that were not trained with classes: DINOv3, EUPE, VICRegL, CLIP."""

from __future__ import annotations

from typing import Any

from .rows import (
    AUGREG,
    CLIP,
    DINOV3_LICENCE,
    EUPE_LICENCE,
    LAION2B,
    LAION_A,
    LVD,
    META_CDN,
    NONCOMMERCIAL,
    SOUP,
    PublishedWeights,
)

# --- distilled and self-supervised ------------------------------------------------------------


# The beginnings of SHA-256 in Meta's file names.
DINOV3_DIGESTS = dict(tiny='21b726bb', small='296db49d', base='801f2ba9', large='61fa432d')


def dinov3() -> dict[str, PublishedWeights]:
    """Return Meta's files, for which it has no public address, and transformers', gated ones."""
    found = {}
    for arch, digest in DINOV3_DIGESTS.items():
        facts: dict[str, Any] = dict(
            family='DINOv3',
            arch=arch,
            pretraining=LVD,
            resolution=224,
            licence=DINOV3_LICENCE,
            gated=True,
            copy=f'timm/convnext_{arch}.dinov3_lvd1689m',
        )
        name = f'dinov3_convnext_{arch}_pretrain_lvd1689m-{digest}'
        found[name] = PublishedWeights(file=f'{name}.pth', origin='meta', **facts)
        repo = f'facebook/dinov3-convnext-{arch}-pretrain-lvd1689m'
        found[repo] = PublishedWeights(repo=repo, origin='transformers', **facts)
    return found


def eupe() -> dict[str, PublishedWeights]:
    """Return Meta's files of EUPE."""
    return {
        f'facebook/EUPE-ConvNeXt-{arch[0].upper()}': PublishedWeights(
            repo=f'facebook/EUPE-ConvNeXt-{arch[0].upper()}',
            file=f'EUPE-ConvNeXt-{arch[0].upper()}.pt',
            family='EUPE',
            origin='meta',
            arch=arch,
            pretraining=LVD,
            resolution=256,
            licence=EUPE_LICENCE,
            copy=f'timm/convnext_{arch}.eupe_lvd1689m',
        )
        for arch in ('tiny', 'small', 'base')
    }


def vicregl() -> dict[str, PublishedWeights]:
    """Return the backbones without the expander of the training."""
    return {
        f'vicregl_convnext_{arch}_alpha{alpha}': PublishedWeights(
            f'{META_CDN}/vicregl/convnext_{arch}_alpha{alpha}.pth',
            family='VICRegL',
            arch=arch,
            pretraining=f'VICRegL with alpha {alpha}',
            licence=NONCOMMERCIAL,
        )
        for arch, alpha in (
            *(('small', '0.9'), ('small', '0.75'), ('base', '0.9'), ('base', '0.75')),
            ('xlarge', '0.75'),
        )
    }


def open_clip() -> dict[str, PublishedWeights]:
    """Return LAION's models of images and texts, whose trunk is a ConvNeXt without a head."""
    large = 'CLIP-convnext_large_d'
    xxlarge = 'CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg'
    rows = (
        ('base', 224, 'CLIP on LAION-400M', 'CLIP-convnext_base-laion400M-s13B-b51K'),
        ('base', 256, LAION2B, 'CLIP-convnext_base_w-laion2B-s13B-b82K'),
        ('base', 256, AUGREG, 'CLIP-convnext_base_w-laion2B-s13B-b82K-augreg'),
        ('base', 256, LAION_A, 'CLIP-convnext_base_w-laion_aesthetic-s13B-b82K'),
        ('base', 320, LAION_A, 'CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K'),
        (
            *('base', 320, f'{LAION_A}, augmented'),
            'CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K-augreg',
        ),
        ('large', 256, AUGREG, f'{large}.laion2B-s26B-b102K-augreg'),
        ('large', 320, LAION2B, f'{large}_320.laion2B-s29B-b131K-ft'),
        ('large', 320, SOUP, f'{large}_320.laion2B-s29B-b131K-ft-soup'),
        ('xxlarge', 256, AUGREG, xxlarge),
        ('xxlarge', 256, f'{AUGREG}, rewind', f'{xxlarge}-rewind'),
        ('xxlarge', 256, SOUP, f'{xxlarge}-soup'),
    )
    return {
        f'laion/{name}': PublishedWeights(
            repo=f'laion/{name}',
            family='CLIP',
            origin='open_clip',
            arch=arch,
            pretraining=pretraining,
            resolution=side,
            normalization=CLIP,
        )
        for arch, side, pretraining, name in rows
    }
