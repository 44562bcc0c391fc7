"""The fast form of segmentors, and of the fusion in UperNet, equals the plain one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmseg.models import EncoderDecoder, SegTTAModel
from mmseg.structures import SegDataSample
from support.heads import (
    DIMS,
    assert_near,
    assert_same_segmentation,
    segmentation_samples,
    segmentor,
)

from convnext_backbones.inference import segmentors
from convnext_backbones.inference.optimize import optimize_for_inference
from convnext_backbones.inference.segmentors import (
    InferenceEncoderDecoder,
    InferenceUPerHead,
    add_convolved_upsampling,
)

# What mmcv and mmseg advise about the models here is not what is tested.
pytestmark = [
    pytest.mark.filterwarnings('ignore::UserWarning:mm(cv|seg)'),
    pytest.mark.usefixtures('registered'),
]


# UperNet's fusion

FUSIONS = [
    ((8, 10), (4, 5)),
    ((9, 12), (3, 4)),
    ((35, 37), (17, 18)),
    ((19, 33), (5, 9)),
    ((6, 7), (6, 7)),
    ((5, 6), (8, 11)),
    ((7, 5), (1, 1)),
    ((1, 9), (1, 3)),
    ((2, 1), (3, 2)),
]


@pytest.mark.parametrize(('size', 'coarse_size'), FUSIONS, ids=str)
@pytest.mark.parametrize('align_corners', [True, False])
@pytest.mark.parametrize('tile', [(32, 32), (5, 3), (1, 1)])
def test_convolved_upsampling(monkeypatch, size, coarse_size, align_corners, tile):
    monkeypatch.setattr(segmentors, 'TILE_ROWS', tile[0])
    monkeypatch.setattr(segmentors, 'TILE_COLUMNS', tile[1])
    for channels, out_channels in ((4, 6), (1, 1)):
        coarse = torch.randn(1, channels, *coarse_size)
        weight = torch.randn(out_channels, channels, 3, 3)
        out = torch.randn(1, out_channels, *size).contiguous(memory_format=torch.channels_last)
        upsampled = F.interpolate(coarse, size, mode='bilinear', align_corners=align_corners)
        expected = out + F.conv2d(upsampled, weight, padding=1)
        before = coarse.clone()
        add_convolved_upsampling(coarse, weight, out, align_corners)
        assert_near(out, expected)
        assert torch.equal(coarse, before)


# Segmentors


@pytest.mark.parametrize('size', [(64, 96), (50, 75), (140, 40)], ids=str)
@pytest.mark.parametrize('align_corners', [False, True])
def test_upernet(monkeypatch, size, align_corners, winograds):
    monkeypatch.setattr(segmentors, 'TILE_ROWS', 7)
    monkeypatch.setattr(segmentors, 'TILE_COLUMNS', 5)
    plain_forward = []
    head = segmentors.UPerHead
    forward = head._forward_feature
    monkeypatch.setattr(
        head, '_forward_feature', lambda *args: plain_forward.append(1) or forward(*args)
    )
    model = segmentor(decode_head=dict(align_corners=align_corners))
    images = torch.randn(2, 3, *size)
    fast = assert_same_segmentation(model, images, segmentation_samples(2, size))
    assert type(fast) is InferenceEncoderDecoder
    assert type(fast.decode_head) is InferenceUPerHead
    assert len(plain_forward) == 1  # of the plain model
    with torch.no_grad():
        assert_near(fast(images), model(images))  # mode='tensor'
    # The bottleneck, three convolutions of the FPN, and the finest level of the fusion, twice.
    assert len(winograds.calls) == 2 * 5 * winograds.wanted


@pytest.mark.parametrize(
    'samples',
    [
        None,
        segmentation_samples(2, (64, 96), flip=True, flip_direction='horizontal'),
        segmentation_samples(2, (64, 96), flip=True, flip_direction='vertical'),
        segmentation_samples(2, (64, 96), flip=False),
        segmentation_samples(2, (64, 96), padding_size=[0, 5, 0, 7]),
        segmentation_samples(2, (64, 96), padding_size=[0, 0, 0, 0]),
        segmentation_samples(2, (64, 96), img_padding_size=[3, 0, 0, 0], padding_size=[0] * 4),
        segmentation_samples(2, (64, 96), img_padding_size=[0] * 4, padding_size=[1] * 4),
        segmentation_samples(2, (64, 96))[:1]
        + [SegDataSample(metainfo=dict(ori_shape=(100, 90), img_shape=(64, 96)))],
    ],
    ids=(
        *('none', 'flipped', 'flipped vertically', 'not flipped', 'padded', 'not padded'),
        *('padded by the model', 'not padded by the model', 'one of another size'),
    ),
)
def test_what_becomes_of_the_logits(samples):
    assert_same_segmentation(segmentor(), torch.randn(2, 3, 64, 96), samples)


def test_two_classes_in_one_channel():
    model = segmentor(decode_head=dict(num_classes=2, out_channels=1, threshold=0.4))
    images, samples = torch.randn(2, 3, 64, 96), segmentation_samples(2, (64, 96))
    assert_same_segmentation(model, images, samples, tolerance=1e-4)  # of a sigmoid's slope


@pytest.mark.parametrize('size', [(80, 110), (64, 104), (50, 145)], ids=str)
def test_sliding_windows(size):
    model = segmentor(test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(40, 40)))
    images = torch.randn(2, 3, *size)
    fast = assert_same_segmentation(model, images, segmentation_samples(2, size))
    metas = [dict(img_shape=size)] * 2
    with torch.no_grad():
        theirs = EncoderDecoder.slide_inference(fast, images, metas)
        assert fast.slide_inference(images, metas).equal(theirs)


@pytest.mark.parametrize(
    'head',
    [
        dict(type='FCNHead', num_convs=1, concat_input=True),
        dict(type='PSPHead'),
        dict(type='ASPPHead', dilations=(1, 2)),
        dict(type='NLHead'),
        dict(type='UPerHead', norm_cfg=dict(type='GN', num_groups=2)),
        dict(type='UPerHead', act_cfg=None),
        dict(type='UPerHead', norm_cfg=None),
        dict(type='UPerHead', in_index=(1, 2), in_channels=DIMS[1:3], pool_scales=(1, 2)),
    ],
    ids=str,
)
def test_other_segmentation_heads(head):
    if head['type'] == 'UPerHead':
        head = dict(dict(in_index=(0, 1, 2, 3), in_channels=DIMS), **head)
    model = segmentor(dict(type=head['type']), decode_head=head)
    assert_same_segmentation(model, torch.randn(2, 3, 64, 96), segmentation_samples(2, (64, 96)))


def test_test_time_augmentation():
    model = SegTTAModel(module=segmentor()).eval()
    fast = optimize_for_inference(model)
    assert type(fast.module) is InferenceEncoderDecoder
    images = [torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)]
    views = [images, [image.flip(2) for image in images]]
    samples = [
        segmentation_samples(1, (64, 96), flip=False),
        segmentation_samples(1, (64, 96), flip=True, flip_direction='horizontal'),
    ]
    results = [
        m.test_step(copy.deepcopy(dict(inputs=views, data_samples=samples)))[0].pred_sem_seg.data
        for m in (fast, model)
    ]
    assert (results[0] != results[1]).float().mean() < 1e-3
