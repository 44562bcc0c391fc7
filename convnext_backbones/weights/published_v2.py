"""Files of V2: the authors', and copies in other formats."""

from __future__ import annotations

from typing import Any

from .rows import (
    APACHE,
    FCMAE,
    IN1K,
    IN22K_1K,
    META_CDN,
    NONCOMMERCIAL,
    V2_SIZES,
    PublishedWeights,
    names_of,
)

# --- V2: https://github.com/facebookresearch/ConvNeXt-V2, and copies of its files -------------

V2: dict[str, Any] = dict(family='V2', options=dict(use_grn=True), licence=NONCOMMERCIAL)
OPENMMLAB = 'https://download.openmmlab.com'
MOST = 'nano tiny base large'


def v2() -> dict[str, PublishedWeights]:
    """Return the authors' files, and the copies in transformers' layout, each after its origin."""
    found = {}
    for pretraining, classes, side, path, sizes in (
        (FCMAE, 0, 224, 'pt_only/convnextv2_{}_1k_224_fcmae', V2_SIZES),
        (f'{FCMAE}; {IN1K}', 1000, 224, 'im1k/convnextv2_{}_1k_224_ema', V2_SIZES),
        (f'{FCMAE}; {IN22K_1K}', 1000, 224, 'im22k/convnextv2_{}_22k_224_ema', MOST),
        (f'{FCMAE}; {IN22K_1K}', 1000, 384, 'im22k/convnextv2_{}_22k_384_ema', f'{MOST} huge'),
        (f'{FCMAE}; {IN22K_1K}', 1000, 512, 'im22k/convnextv2_{}_22k_512_ema', 'huge'),
    ):
        for arch, place in names_of(path, sizes):
            facts: dict[str, Any] = dict(
                arch=arch, pretraining=pretraining, resolution=side, classes=classes, **V2
            )
            folder, name = place.split('/')
            found[name] = PublishedWeights(f'{META_CDN}/convnext/convnextv2/{place}.pt', **facts)
            if folder != 'pt_only':
                repo = f'facebook/convnextv2-{arch}-{"22k" if folder == "im22k" else "1k"}-{side}'
                # The cards of the repositories say otherwise than the authors.
                card = dict(licence=f'{NONCOMMERCIAL} (card: {APACHE})')
                found[repo] = PublishedWeights(
                    repo=repo, origin='transformers', **dict(facts, **card)
                )
    return found


# The digests in mmpretrain's file names, in the order of the sizes.
MMPRETRAIN = (
    (
        'convnext-v2-{}_3rdparty-fcmae_in1k',
        (FCMAE, 224, 0, V2_SIZES),
        '07514db4 adbe2082 147b1b59 3dd1f29e 80513adc 8a798eaf bf38df92 fe43ae6c',
    ),
    (
        'convnext-v2-{}_fcmae-pre_3rdparty_in1k',
        (f'{FCMAE}; {IN1K}', 224, 1000, V2_SIZES),
        '23765f83 92a75d75 d20263ca fe1aaaf2 471a86de 00a70fa4 ef393013 f795e5b8',
    ),
    (
        'convnext-v2-{}_fcmae-in21k-pre_3rdparty_in1k',
        (f'{FCMAE}; {IN22K_1K}', 224, 1000, MOST),
        '91fa8ae2 8cc8b8f2 c48d16a5 d9c4dc0c',
    ),
    (
        'convnext-v2-{}_fcmae-in21k-pre_3rdparty_in1k-384px',
        (f'{FCMAE}; {IN22K_1K}', 384, 1000, f'{MOST} huge'),
        'f951ae87 d8579f84 379425cc 9139a1f3 02a4eb35',
    ),
    (
        'convnext-v2-{}_fcmae-in21k-pre_3rdparty_in1k-512px',
        (f'{FCMAE}; {IN22K_1K}', 512, 1000, 'huge'),
        'ce32e63c',
    ),
)


def mmpretrain() -> dict[str, PublishedWeights]:
    """Return the copies in mmpretrain's layout, and what it trained with SparK."""
    found = {}
    for pattern, (pretraining, side, classes, sizes), digests in MMPRETRAIN:
        for (arch, stem), digest in zip(names_of(pattern, sizes), digests.split(), strict=True):
            name = f'{stem}_20230104-{digest}'
            found[name] = PublishedWeights(
                f'{OPENMMLAB}/mmclassification/v0/convnext-v2/{name}.pth',
                origin='mmpretrain',
                arch=arch,
                pretraining=pretraining,
                resolution=side,
                classes=classes,
                **V2,
            )
    spark = 'spark_sparse-convnextv2-tiny_16xb256-amp-coslr-800e_in1k'
    name = f'{spark}_20230612-b0ea712e'
    found[name] = PublishedWeights(
        f'{OPENMMLAB}/mmpretrain/v1.0/spark/{spark}/{name}.pth',
        family='SparK',
        origin='mmpretrain',
        arch='tiny',
        options=dict(use_grn=True),
        pretraining=f'SparK on {IN1K}',
        resolution=224,
        licence=APACHE,
    )
    return found
