"""The ConvNeXts of timm 1.0.31, all tags; each is the repository ``timm/TAG`` of the hub."""

from __future__ import annotations

from typing import Any

from .rows import (
    APACHE,
    APACHE_LAION,
    APACHE_META,
    AUGREG,
    CLIP,
    DINOV3_LICENCE,
    EUPE_LICENCE,
    FCMAE,
    HALF,
    IN1K,
    IN12K,
    IN22K,
    IN22K_1K,
    LAION2B,
    LAION_A,
    LVD,
    NONCOMMERCIAL,
    SOUP,
    V1_SIZES,
    V2_SIZES,
    PublishedWeights,
)

UNTRAINED = 'there are no weights, the tag is of an untrained model'
OTHER_NORM = 'its norms have no bias and another formula'
TANH_GELU = 'its GELU is the tanh approximation and the eps of its norms is 1e-5'

# Model names after `convnext_` that are no sizes: the size, and the options.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    'atto_ols': ('atto', dict(stem_type='overlap_tiered')),
    'femto_ols': ('femto', dict(stem_type='overlap_tiered')),
    'pico_ols': ('pico', dict(stem_type='overlap_tiered')),
    'nano_ols': ('nano', dict(stem_type='overlap')),
    'tiny_hnf': ('tiny', dict(head_norm_first=True)),
    'large_mlp': ('large', dict(head_hidden_size=1536)),
    'zepto_rms': ('zepto', {}),
    'zepto_rms_ols': ('zepto', {}),
    'atto_rms': ('atto', {}),
}

# Models, tags (words), pretraining, resolution, classes, of the files that share the rest.
Rows = tuple[tuple[str, str, str, int, int], ...]
FACEBOOK: Rows = (
    ('tiny small base large', 'fb_in1k', IN1K, 224, 1000),
    (V1_SIZES, 'fb_in22k', IN22K, 224, 21841),
    (V1_SIZES, 'fb_in22k_ft_in1k', IN22K_1K, 224, 1000),
    (V1_SIZES, 'fb_in22k_ft_in1k_384', IN22K_1K, 384, 1000),
)
OWN: Rows = (
    ('nano tiny small', 'in12k', IN12K, 224, 11821),
    ('nano tiny small', 'in12k_ft_in1k', f'{IN12K}, then 1K', 224, 1000),
    ('tiny small', 'in12k_ft_in1k_384', f'{IN12K}, then 1K', 384, 1000),
    ('nano', 'r384_in12k r384_ad_in12k', IN12K, 384, 11821),
    ('nano', 'r384_in12k_ft_in1k', f'{IN12K}, then 1K', 384, 1000),
    ('atto', 'd2_in1k', IN1K, 224, 1000),
    ('femto pico femto_ols pico_ols', 'd1_in1k', IN1K, 224, 1000),
    ('nano nano_ols', 'd1h_in1k', IN1K, 224, 1000),
    ('atto_ols', 'a2_in1k', IN1K, 224, 1000),
    ('tiny_hnf', 'a2h_in1k', IN1K, 224, 1000),
)
EMBEDDING: Rows = (
    ('base', 'clip_laion2b', LAION2B, 256, 640),
    ('base', 'clip_laion2b_augreg', AUGREG, 256, 640),
    ('base', 'clip_laiona', LAION_A, 256, 640),
    ('base', 'clip_laiona_320', LAION_A, 320, 640),
    ('base', 'clip_laiona_augreg_320', f'{LAION_A}, augmented', 320, 640),
    ('large_mlp', 'clip_laion2b_augreg', AUGREG, 256, 768),
    ('large_mlp', 'clip_laion2b_ft_320', LAION2B, 320, 768),
    ('large_mlp', 'clip_laion2b_ft_soup_320', SOUP, 320, 768),
    ('xxlarge', 'clip_laion2b_soup', SOUP, 256, 1024),
    ('xxlarge', 'clip_laion2b_rewind', LAION2B, 256, 1024),
)
CLASSIFIER: Rows = (
    ('base', 'clip_laion2b_augreg_ft_in12k', f'{AUGREG}; {IN12K}', 256, 11821),
    ('base', 'clip_laion2b_augreg_ft_in12k_in1k', f'{AUGREG}; {IN12K}, then 1K', 256, 1000),
    ('base', 'clip_laion2b_augreg_ft_in12k_in1k_384', f'{AUGREG}; {IN12K}, then 1K', 384, 1000),
    ('base large_mlp', 'clip_laion2b_augreg_ft_in1k', f'{AUGREG}; {IN1K}', 256, 1000),
    ('base', 'clip_laiona_augreg_ft_in1k_384', f'{LAION_A}, augmented; {IN1K}', 384, 1000),
    ('large_mlp', 'clip_laion2b_augreg_ft_in1k_384', f'{AUGREG}; {IN1K}', 384, 1000),
    ('large_mlp', 'clip_laion2b_augreg_ft_in12k_384', f'{AUGREG}; {IN12K}', 384, 11821),
    ('large_mlp', 'clip_laion2b_soup_ft_in12k_320', f'{SOUP}; {IN12K}', 320, 11821),
    ('large_mlp', 'clip_laion2b_soup_ft_in12k_384', f'{SOUP}; {IN12K}', 384, 11821),
    ('large_mlp', 'clip_laion2b_soup_ft_in12k_in1k_320', f'{SOUP}; {IN12K}, then 1K', 320, 1000),
    ('large_mlp', 'clip_laion2b_soup_ft_in12k_in1k_384', f'{SOUP}; {IN12K}, then 1K', 384, 1000),
    ('xxlarge', 'clip_laion2b_soup_ft_in12k', f'{SOUP}; {IN12K}', 256, 11821),
    ('xxlarge', 'clip_laion2b_soup_ft_in1k', f'{SOUP}; {IN1K}', 256, 1000),
)
V2: Rows = (
    (V2_SIZES, 'fcmae', FCMAE, 224, 0),
    (V2_SIZES, 'fcmae_ft_in1k', f'{FCMAE}; {IN1K}', 224, 1000),
    ('nano tiny base large', 'fcmae_ft_in22k_in1k', f'{FCMAE}; {IN22K_1K}', 224, 1000),
    (
        'nano tiny base large huge',
        'fcmae_ft_in22k_in1k_384',
        f'{FCMAE}; {IN22K_1K}',
        384,
        1000,
    ),
    ('huge', 'fcmae_ft_in22k_in1k_512', f'{FCMAE}; {IN22K_1K}', 512, 1000),
)
RMS_NORM: Rows = (('zepto_rms zepto_rms_ols', 'ra4_e3600_r224_in1k', IN1K, 224, 1000),)


def timm_tags() -> dict[str, PublishedWeights]:
    """Return timm's files by the names of their repositories."""
    clip: dict[str, Any] = dict(family='CLIP', normalization=CLIP)
    v2: dict[str, Any] = dict(family='V2', licence=NONCOMMERCIAL)
    dinov3: Rows = (('tiny small base large', 'dinov3_lvd1689m', LVD, 224, 0),)
    eupe: Rows = (('tiny small base', 'eupe_lvd1689m', LVD, 256, 0),)
    untrained: Rows = (('atto_rms', 'untrained', '', 224, 1000),)
    untrained_v2: Rows = (('small', 'untrained', '', 224, 1000),)
    return {
        **_named(FACEBOOK, licence=APACHE_META),
        **_named(OWN),
        **_named(dinov3, family='DINOv3', licence=DINOV3_LICENCE),
        **_named(eupe, family='EUPE', licence=EUPE_LICENCE),
        **_named(EMBEDDING, licence=APACHE_LAION, **clip),
        **_named(CLASSIFIER, **clip),
        **_named(V2, 'convnextv2', **v2),
        **_named(RMS_NORM, normalization=HALF, obstacle=OTHER_NORM),
        **_named(untrained, obstacle=UNTRAINED),
        **_named(untrained_v2, 'convnextv2', family='V2', obstacle=UNTRAINED),
        **_toys(),
    }


def _named(rows: Rows, prefix: str = 'convnext', **common: Any) -> dict[str, PublishedWeights]:
    """Return a row per model and tag."""
    common.setdefault('licence', APACHE)
    found = {}
    for models, tags, pretraining, resolution, classes in rows:
        for model in models.split():
            arch, options = MODELS.get(model, (model, {}))
            if common.get('family') == 'V2':
                options = dict(use_grn=True)
            for tag in tags.split():
                repo = f'timm/{prefix}_{model}.{tag}'
                found[repo] = PublishedWeights(
                    repo=None if tag == 'untrained' else repo,
                    origin='timm',
                    arch=arch,
                    options=options,
                    pretraining=pretraining,
                    resolution=resolution,
                    classes=classes,
                    **common,
                )
    return found


def _toys() -> dict[str, PublishedWeights]:
    """Return the miniatures that timm tests itself with."""
    obstacles = {
        'test_convnext': TANH_GELU,
        'test_convnext2': TANH_GELU,
        'test_convnext3': 'its kernels have several sizes and its activation is SiLU',
    }
    return {
        f'timm/{model}.r160_in1k': PublishedWeights(
            repo=f'timm/{model}.r160_in1k',
            origin='timm',
            arch='test',
            pretraining=IN1K,
            resolution=160,
            classes=1000,
            normalization=HALF,
            licence=APACHE,
            obstacle=obstacle,
        )
        for model, obstacle in obstacles.items()
    }


# timm's old names, which it still understands.
DEPRECATED: dict[str, str] = {
    f'convnext_{size}{old}': f'convnext_{size}.{tag}'
    for old, tag in (
        ('_in22k', 'fb_in22k'),
        ('_in22ft1k', 'fb_in22k_ft_in1k'),
        ('_384_in22ft1k', 'fb_in22k_ft_in1k_384'),
    )
    for size in V1_SIZES.split()
}
