"""The table of published weights, and how names are understood."""

from collections import Counter
from pathlib import Path

import mmpretrain
import pytest
import torch
import yaml
from support.manifests import MANIFESTS

from convnext_backbones import PUBLISHED, VARIANTS, ConvNeXt, ConvNeXtClassifier
from convnext_backbones.weights.published import close_names, find_published, preprocessing

DINOV3 = 'dinov3_convnext_tiny_pretrain_lvd1689m-21b726bb'
VICREGL = 'vicregl_convnext_small_alpha0.9'
LAION = 'laion/CLIP-convnext_base_w-laion2B-s13B-b82K-augreg'


def test_the_table_counts():
    assert Counter(one.origin for one in PUBLISHED.values()) == {
        'timm': 103,
        'authors': 24 + 13 + 26 + 5,  # of V1, its detectors and segmentors, V2, VICRegL
        'transformers': 15 + 18 + 4,  # of V1, V2, DINOv3
        'mmpretrain': 26 + 1,
        'open_clip': 12,
        'keras': 10,
        'meta': 4 + 3,
    }
    assert set(MANIFESTS) < set(PUBLISHED)


@pytest.mark.parametrize('name', PUBLISHED)
def test_every_row_is_consistent(name):
    one = PUBLISHED[name]
    # One way to the file; none for what is untrained.
    assert (one.url is not None) + (one.repo is not None) <= 1
    if one.repo is not None:
        assert name == one.repo
    elif one.url is not None:
        stem = name.removeprefix('keras_').removeprefix('vicregl_')
        assert one.url.rpartition('/')[2].rpartition('.')[0] == stem
    else:
        assert one.origin == 'meta' or 'untrained' in name
    assert one.sha256 is None or len(one.sha256) == 64
    assert one.resolution in (None, 160, 224, 256, 320, 384, 512, 640)
    assert one.licence and one.family in (
        *('V1', 'V2', 'DINOv3', 'EUPE', 'CLIP', 'VICRegL', 'SparK'),
    )
    assert one.pretraining or 'untrained' in name
    assert one.options.get('use_grn', False) == (one.family in ('V2', 'SparK'))
    assert (one.normalization == 'CLIP') == (one.family == 'CLIP')
    assert one.dense_norm == (one.family in ('DINOv3', 'EUPE', 'VICRegL'))
    assert not one.copy or not PUBLISHED[one.copy].gated
    assert set(one.facts()) == set(PUBLISHED[DINOV3].facts())


# One of each kind: most rows differ in the data only.
KINDS = {
    (one.arch, str(one.options), one.classes, bool(one.method)): name
    for name, one in PUBLISHED.items()
    if not one.obstacle
}


@pytest.mark.parametrize('name', KINDS.values())
def test_every_row_without_an_obstacle_builds(name):
    one = PUBLISHED[name]
    assert one.arch in VARIANTS
    with torch.device('meta'):
        ConvNeXt(**one.backbone_options())
        if one.method:
            with pytest.raises(ValueError, match=one.method):
                one.classifier_options()
        else:
            classifier = ConvNeXtClassifier(**one.classifier_options())
            outputs = [layer for key, layer in classifier.named_modules() if key == 'head']
            assert [layer.out_features for layer in outputs if hasattr(layer, 'out_features')] == (
                [one.classes] if one.classes else []
            )


def test_what_cannot_load_says_why():
    obstacles = {name: one.obstacle for name, one in PUBLISHED.items() if one.obstacle}
    assert len(obstacles) == 7
    assert 'no bias' in obstacles['timm/convnext_zepto_rms.ra4_e3600_r224_in1k']
    one = PUBLISHED['timm/test_convnext3.r160_in1k']
    for options in (one.backbone_options, one.classifier_options):
        with pytest.raises(ValueError, match='SiLU'):
            options()


def test_options():
    assert find_published('convnext_tiny_hnf.a2h_in1k').backbone_options() == dict(arch='tiny')
    assert find_published('timm/convnext_large_mlp.clip_laion2b_augreg').classifier_options() == (
        dict(arch='large', head_hidden_size=1536, num_classes=768)
    )
    assert find_published('timm/convnext_nano_ols.d1h_in1k').backbone_options() == dict(
        arch='nano', stem_type='overlap'
    )
    assert find_published('facebook/convnextv2-huge-22k-512').classifier_options() == dict(
        arch='huge', use_grn=True, num_classes=1000
    )


@pytest.mark.parametrize(
    ('name', 'known'),
    [
        ('convnextv2_base_22k_384_ema', 'convnextv2_base_22k_384_ema'),
        ('timm/convnextv2_base.fcmae', 'timm/convnextv2_base.fcmae'),
        ('hf-hub:timm/convnextv2_base.fcmae', 'timm/convnextv2_base.fcmae'),
        ('hf_hub:timm/convnextv2_base.fcmae', 'timm/convnextv2_base.fcmae'),
        ('timm/convnextv2_base.fcmae/pytorch_model.bin', 'timm/convnextv2_base.fcmae'),
        ('convnext_tiny.fb_in22k', 'timm/convnext_tiny.fb_in22k'),
        ('convnext_tiny_in22k', 'timm/convnext_tiny.fb_in22k'),
        ('convnext_xlarge_in22ft1k', 'timm/convnext_xlarge.fb_in22k_ft_in1k'),
        ('timm/convnext_base_384_in22ft1k', 'timm/convnext_base.fb_in22k_ft_in1k_384'),
        (f'https://dinov3.llamameta.net/a/{DINOV3}.pth?Policy=b.c&Signature=d/e.f', DINOV3),
        (f'/data/{DINOV3}.pth', DINOV3),
        ('convnext_base.clip_laiona.safetensors', 'timm/convnext_base.clip_laiona'),
        (f'https://huggingface.co/{LAION}/resolve/main/open_clip_pytorch_model.bin', LAION),
        (f'https://huggingface.co/{LAION}', LAION),
        (f'/data/{LAION}/open_clip_model.safetensors', LAION),
        (
            f'/hub/models--{LAION.replace("/", "--")}/snapshots/0a1b/open_clip_model.safetensors',
            LAION,
        ),
        # Files with another name there than here.
        (f'{PUBLISHED[VICREGL].url}?a=b#c', VICREGL),
        (PUBLISHED['keras_convnext_tiny'].url, 'keras_convnext_tiny'),
    ],
)
def test_names_that_are_understood(name, known):
    assert find_published(name) is PUBLISHED[known]


@pytest.mark.parametrize(
    'name',
    [
        *('', 'convnext_tiny', 'timm/convnext_tiny', 'org/repo', 'weights.pth', 'https://a/b.pth'),
        *(f'{LAION}x/pytorch_model.bin', f'work_dirs/{DINOV3}/epoch_1.pth', 'pytorch_model.bin'),
    ],
)
def test_names_that_are_not(name):
    assert find_published(name) is None


@pytest.mark.parametrize(
    ('name', 'close'),
    [
        ('timm/convnextv2_bas.fcmae', 'timm/convnextv2_base.fcmae'),
        ('hf-hub:timm/ConvNeXt_Base.clip_laion-a', 'timm/convnext_base.clip_laiona'),
        ('convnext_tiny_224', 'convnext_tiny_1k_224'),
        ('facebook/dinov3_convnext_tiny', 'facebook/dinov3-convnext-tiny-pretrain-lvd1689m'),
    ],
)
def test_close_names(name, close):
    assert close in close_names(name)


def test_preprocessing():
    usual = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
    assert preprocessing('convnext_tiny_1k_224') == preprocessing(DINOV3) == usual
    # open_clip's OPENAI_DATASET_MEAN and _STD, which are of 1 instead of 255.
    clip = preprocessing(LAION)
    means, stds = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    assert clip['mean'] == pytest.approx([255 * mean for mean in means], abs=1e-6)
    assert clip['std'] == pytest.approx([255 * std for std in stds], abs=1e-6)
    clip['mean'][0] = 0.0  # the caller's own
    assert preprocessing(LAION)['mean'][0] > 122
    with pytest.raises(
        ValueError, match="got 'convnext_tiny_1k'; did you mean 'convnext_tiny_1k_2"
    ):
        preprocessing('convnext_tiny_1k')


def test_the_files_of_mmpretrain_are_those_of_its_own_table():
    """That table also names the authors' files that it converted."""
    text = (Path(mmpretrain.__file__).parent / '.mim/configs/convnext_v2/metafile.yml').read_text()
    models = yaml.safe_load(text)['Models']
    ours = {one.url for one in PUBLISHED.values() if one.family == 'V2' and one.url is not None}
    theirs = {model['Weights'] for model in models}
    converted = {model['Converted From']['Weights'] for model in models}
    assert theirs | converted == ours


def test_licences_are_not_all_the_same():
    assert PUBLISHED['convnextv2_atto_1k_224_ema'].licence == 'CC-BY-NC-4.0'
    assert 'card: Apache' in PUBLISHED['facebook/convnextv2-atto-1k-224'].licence
    gated = {name for name, one in PUBLISHED.items() if one.gated}
    assert len(gated) == 8 and all('dinov3' in name for name in gated)
