"""Files of V1: the authors' and converted ones, of ImageNet, COCO and ADE20K."""

from __future__ import annotations

from .rows import APACHE_META, IN1K, IN22K, IN22K_1K, META_CDN, V1_SIZES, PublishedWeights, names_of

# --- the authors of V1: https://github.com/facebookresearch/ConvNeXt --------------------------


def v1() -> dict[str, PublishedWeights]:
    """Return the classifiers; detectors and segmentors start from the files without `_ema`."""
    found = {}
    for pretraining, classes, resolution, pattern, sizes in (
        (IN1K, 1000, 224, 'convnext_{}_1k_224', 'tiny small base'),
        (f'{IN1K}, averaged', 1000, 224, 'convnext_{}_1k_224_ema', 'tiny small base large'),
        (IN1K, 1000, 384, 'convnext_{}_1k_384', 'base large'),
        (IN22K, 21841, 224, 'convnext_{}_22k_224', V1_SIZES),
        (IN22K_1K, 1000, 224, 'convnext_{}_22k_1k_224', 'tiny small base large'),
        (f'{IN22K_1K}, averaged', 1000, 224, 'convnext_{}_22k_1k_224_ema', 'xlarge'),
        (IN22K_1K, 1000, 384, 'convnext_{}_22k_1k_384', 'tiny small base large'),
        (f'{IN22K_1K}, averaged', 1000, 384, 'convnext_{}_22k_1k_384_ema', 'xlarge'),
    ):
        for arch, name in names_of(pattern, sizes):
            found[name] = PublishedWeights(
                f'{META_CDN}/convnext/{name}.pth',
                arch=arch,
                pretraining=pretraining,
                resolution=resolution,
                classes=classes,
            )
    return found


def downstream() -> dict[str, PublishedWeights]:
    """Return the whole detectors and segmentors."""
    found = {}
    for method, side, pattern, sizes in (
        ('Mask R-CNN', None, 'mask_rcnn_convnext_{}_1k_3x', 'tiny'),
        ('Cascade Mask R-CNN', None, 'cascade_mask_rcnn_convnext_{}_1k_3x', 'tiny small base'),
        ('Cascade Mask R-CNN', None, 'cascade_mask_rcnn_convnext_{}_22k_3x', 'base large xlarge'),
        ('UperNet', 512, 'upernet_convnext_{}_1k_512x512', 'tiny small base'),
        ('UperNet', 640, 'upernet_convnext_{}_22k_640x640', 'base large xlarge'),
    ):
        folder, classes = ('ade20k', 150) if side else ('coco', 80)
        for arch, name in names_of(pattern, sizes):
            found[name] = PublishedWeights(
                f'{META_CDN}/convnext/{folder}/{name}.pth',
                arch=arch,
                pretraining=f'{IN22K if "22k" in name else IN1K}; {method} on {folder.upper()}',
                resolution=side,
                classes=classes,
                method=method,
            )
    return found


# --- copies in other formats ------------------------------------------------------------------


def transformers() -> dict[str, PublishedWeights]:
    """Return the copies in transformers' layout."""
    found = {}
    for sizes, side, suffix, pretraining, classes in (
        ('tiny small base large', 224, '', IN1K, 1000),
        ('base large', 384, '', IN1K, 1000),
        ('base large xlarge', 224, '-22k', IN22K, 21841),
        ('base large xlarge', 224, '-22k-1k', IN22K_1K, 1000),
        ('base large xlarge', 384, '-22k-1k', IN22K_1K, 1000),
    ):
        for arch, repo in names_of(f'facebook/convnext-{{}}-{side}{suffix}', sizes):
            found[repo] = PublishedWeights(
                repo=repo,
                origin='transformers',
                arch=arch,
                pretraining=pretraining,
                resolution=side,
                classes=classes,
                licence=APACHE_META,
            )
    return found


# The digests of Keras' files, with and without the head.
KERAS = {
    'tiny': (
        '8ae6e78ce2933352b1ef4008e6dd2f17bc40771563877d156bc6426c7cf503ff',
        'd547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1',
    ),
    'small': (
        'ce1277d8f1ee5a0ef0e171469089c18f5233860ceaf9b168049cb9263fd7483c',
        '6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab',
    ),
    'base': (
        '52cbb006d3dadd03f6e095a8ca1aca47aecdd75acb4bc74bce1f5c695d0086e6',
        '40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45',
    ),
    'large': (
        '070c5ed9ed289581e477741d3b34beffa920db8cf590899d6d2c67fba2a198a6',
        '96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd',
    ),
    'xlarge': (
        'c1f5ccab661354fc3a79a10fa99af82f0fbf10ec65cb894a3ae0815f17a889ee',
        'de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05',
    ),
}


def keras() -> dict[str, PublishedWeights]:
    """Return the files of keras.applications, which are the authors' weights again."""
    folder = 'https://storage.googleapis.com/tensorflow/keras-applications/convnext'
    return {
        f'keras_convnext_{arch}{suffix}': PublishedWeights(
            f'{folder}/convnext_{arch}{suffix}.h5',
            sha256=digest,
            origin='keras',
            arch=arch,
            pretraining=IN1K if arch in ('tiny', 'small') else IN22K_1K,
            classes=0 if suffix else 1000,
        )
        for arch, digests in KERAS.items()
        for suffix, digest in zip(('', '_notop'), digests, strict=True)
    }
