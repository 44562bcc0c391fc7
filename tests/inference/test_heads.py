"""The fast forms of necks and heads, alone and in whole detectors and segmentors."""

import copy
import itertools
import pickle
from pathlib import Path
from types import SimpleNamespace

import mmcv.ops
import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.ops import DeformConv2d, ModulatedDeformConv2dPack, RoIAlign
from mmdet.registry import MODELS as DETECTION
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules as register_detection
from mmengine.config import Config
from mmseg.models import EncoderDecoder, SegTTAModel
from mmseg.registry import MODELS as SEGMENTATION
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules as register_segmentation
from torch import nn
from torch.testing import assert_close

from convnext_backbones import ConvNeXt
from convnext_backbones.inference import convolutions, segmentors
from convnext_backbones.inference.backbone import InferenceConvNeXt
from convnext_backbones.inference.block import InferenceBlock
from convnext_backbones.inference.convolutions import (
    InferenceConv2d,
    InferenceConvModule,
    InferenceLinear,
)
from convnext_backbones.inference.heads import optimize_heads
from convnext_backbones.inference.optimize import optimize_for_inference
from convnext_backbones.inference.roi_align import InferenceRoIAlign
from convnext_backbones.inference.segmentors import (
    InferenceEncoderDecoder,
    InferenceUPerHead,
    add_convolved_upsampling,
)
from convnext_backbones.models import layers
from convnext_backbones.models.block import Block
from convnext_backbones.ops import winograd

# What mmcv and mmseg advise about the models here is not what is tested.
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:mm(cv|seg)')

MODEL_CONFIGS = Path(__file__).resolve().parents[2] / 'configs/_base_/models'
DIMS = [8, 16, 24, 32]
BACKBONE = dict(
    type='ConvNeXt', arch=dict(depths=[1, 1, 2, 1], dims=DIMS), layer_scale_init_value=1.0
)
CLASSES = 5


class OwnRoIAlign(RoIAlign):
    """What a user derives: it is not replaced, and reads memory as mmcv's operator does."""


class Plain(nn.Module):
    """A neck that hands on the backbone's maps as they are, to levels of as many channels."""

    def __init__(self, in_channels, out_channels) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels)

    def forward(self, maps):
        maps = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        return (*maps, F.max_pool2d(maps[-1], 1, 2))


@pytest.fixture(scope='module', autouse=True)
def registered():
    register_detection(init_default_scope=False)
    register_segmentation(init_default_scope=False)
    DETECTION.register_module(module=Plain)
    yield
    DETECTION.module_dict.pop('Plain')


@pytest.fixture(params=[False, True], ids=['AVX2', 'AVX512'])
def cpu(request, monkeypatch):
    """Linear layers are replaced on CPUs with AVX-512 only."""
    for module in ('models.layers', 'inference.heads'):
        monkeypatch.setattr(f'convnext_backbones.{module}.HAS_AVX512', request.param)


@pytest.fixture(params=[False, True], ids=['direct', 'winograd'])
def winograds(request, monkeypatch):
    """Maps are too small for Winograd's convolutions here, unless these are said to be faster.

    Returns:
        Whether they are, and a call for each that was computed.
    """
    if request.param:
        monkeypatch.setattr(winograd, 'MIN_POSITIONS', 1)
        monkeypatch.setattr(winograd, 'MIN_CHANNELS', 1)
    calls = []

    def convolve(*args, **kwargs):
        calls.append(args)
        return winograd.convolve(*args, **kwargs)

    for module in (convolutions, segmentors):
        monkeypatch.setattr(module, 'convolve', convolve)
    return SimpleNamespace(wanted=request.param, calls=calls)


@torch.no_grad()
def scramble(model):
    """Parameters and statistics of which none is 0 or 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 2)
            module.bias.normal_()
        elif isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            module.bias.normal_(std=0.1)
    return model.eval()


def fast_copy(model):
    """A copy as it would be within a detector."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    optimize_heads(model)
    return model


def assert_near(actual, expected, tolerance=1e-5):
    """The largest difference is within ``tolerance`` of the largest value."""
    largest = expected.abs().max().item() if expected.numel() else 0
    assert_close(actual, expected, atol=tolerance * largest, rtol=0)


# RoIAlign


@pytest.fixture
def rois():
    """Boxes in two images of 80 x 120 pixels, most of them within; some extreme."""
    corners = torch.rand(60, 2) * torch.tensor([130.0, 90.0]) - 5
    boxes = torch.cat([corners, corners + torch.rand(60, 2) * 60], 1)
    extreme = torch.tensor(
        [
            [10.0, 10, 10, 10],  # without size
            [10, 10, 50, 10],  # without height
            [-300, -300, -200, -200],  # outside
            [500, 10, 600, 30],  # outside
            [-90, -90, 220, 180],  # huge
            [0, 0, 120, 80],  # the map
            [119.9, 79.9, 120, 80],  # in its corner
            [-4, -4, 0, 0],
            *([2.0, 2, 2 + 28 * i, 2 + 28 * j] for i in (1, 2, 3) for j in (1, 2)),  # whole bins
            *([2.0, 2, 2 + 20 * i, 2 + 12 * j] for i in (1, 2, 3) for j in (1, 2)),
        ]
    )
    boxes = torch.cat([boxes, extreme])
    images = torch.arange(len(boxes)) % 2
    return torch.cat([images[:, None].float(), boxes], 1)


def test_roi_align_at_the_edge():
    """Rounding decides whether a sample of this box is a cell outside, and counts, or further."""
    rois = torch.tensor([[1.0, -1000, -1000, 1000, 1000]])
    plain = RoIAlign((3, 5), 0.25, 0)
    maps = torch.randn(2, 6, 20, 30)
    assert_near(fast_copy(plain)(maps, rois), plain(maps, rois))


@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_roi_align_of_negative_sizes(sampling_ratio):
    """As mmcv without `aligned`; with it, mmcv refuses them."""
    rois = torch.tensor([[0.0, 50, 40, 20, 10], [1, 50, 10, 20, 40], [0, 20, 40, 50, 10]])
    plain = RoIAlign(7, 0.25, sampling_ratio, aligned=False)
    maps = torch.randn(2, 6, 20, 30)
    assert_near(fast_copy(plain)(maps, rois), plain(maps, rois))


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('output_size', [(7, 7), (3, 5)])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('scale', [0.25, 1.0])
def test_roi_align(rois, memory_format, output_size, sampling_ratio, aligned, scale):
    plain = RoIAlign(output_size, scale, sampling_ratio, aligned=aligned)
    fast = fast_copy(plain)
    assert type(fast) is InferenceRoIAlign
    maps = torch.randn(2, 6, int(80 * scale), int(120 * scale))
    expected = plain(maps, rois)
    maps = maps.contiguous(memory_format=memory_format)
    before = rois.clone()
    for i in range(0, len(rois), 11):  # a difference of one is not to hide behind the others
        assert_near(fast(maps, rois[i : i + 11]), expected[i : i + 11])
    assert torch.equal(fast(maps, rois)[:11], fast(maps, rois[:11]))
    assert torch.equal(rois, before)
    none = fast(maps, rois[:0])
    assert none.shape == plain(maps.contiguous(), rois[:0]).shape == (0, 6, *output_size)


def test_roi_align_of_a_map_of_one_cell(rois):
    plain = RoIAlign(2, 1 / 120, 0)
    maps = torch.randn(2, 3, 1, 1)
    assert_near(fast_copy(plain)(maps, rois), plain(maps, rois))


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_roi_align_falls_back(rois, monkeypatch, memory_format):
    """It then is mmcv's, which takes channels_last for what it is not."""
    maps = torch.randn(2, 6, 20, 30).contiguous(memory_format=memory_format)
    monkeypatch.setattr(F, 'embedding_bag', None)
    largest = RoIAlign(3, 0.25, 2, pool_mode='max')
    assert torch.equal(fast_copy(largest)(maps, rois), largest(maps.contiguous(), rois))
    plain = RoIAlign(3, 0.25, 2)
    fast = fast_copy(plain)
    expected = plain(maps.double().contiguous(), rois.double())
    assert torch.equal(fast(maps.double(), rois.double()), expected)
    gradients = []
    for layer in (plain, fast):
        x = maps.contiguous().requires_grad_()
        layer(x, rois).square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


# Convolutions and linear layers


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(norm_cfg=dict(type='BN')),
        dict(norm_cfg=dict(type='BN', eps=0.1), act_cfg=None),
        dict(norm_cfg=dict(type='BN'), bias=True),
        dict(norm_cfg=dict(type='SyncBN')),
        dict(),
        dict(act_cfg=None),
        dict(bias=False),
        dict(padding=1),
        dict(padding=1, norm_cfg=dict(type='BN'), act_cfg=None),
        dict(stride=2, padding=1, norm_cfg=dict(type='BN')),
        dict(stride=(2, 1), dilation=(1, 3), padding=(0, 2)),
        dict(groups=2, norm_cfg=dict(type='BN')),
        dict(in_channels=4, out_channels=4, groups=4),
        dict(in_channels=1, out_channels=1, norm_cfg=dict(type='BN')),
        dict(efficient_conv_bn_eval=True, norm_cfg=dict(type='BN')),
    ],
    ids=str,
)
def test_conv_module(kwargs, winograds):
    plain = ConvModule(**{'in_channels': 4, 'out_channels': 6, 'kernel_size': 3, **kwargs})
    plain = scramble(plain)
    for module in plain.modules():
        if isinstance(module, nn.SyncBatchNorm):  # which refuses to compute on CPUs in training
            module.running_mean.normal_()
    fast = fast_copy(plain)
    assert type(fast) is InferenceConvModule
    x = torch.randn(2, plain.in_channels, 11, 9)
    before = x.clone()
    for y in (x, x.contiguous(memory_format=torch.channels_last), x[:0]):
        assert_near(fast(y), plain(y))
        for flags in (dict(activate=False), dict(norm=False), dict(activate=False, norm=False)):
            assert_near(fast(y, **flags), plain(y, **flags))
    assert torch.equal(x, before)
    y = x.double()
    assert_close(fast.double()(y), plain.double()(y))
    with torch.no_grad():
        fast.float().conv.weight.mul_(2)
        plain.float().conv.weight.mul_(2)
    assert_near(fast(x), plain(x))
    simple = not {'stride', 'groups', 'dilation'} & kwargs.keys()
    assert bool(winograds.calls) == (winograds.wanted and simple and 'padding' in kwargs)


def test_conv_module_in_training_mode():
    """Batch norm then takes the statistics of the batch, and keeps them."""
    plain = scramble(ConvModule(4, 6, 3, norm_cfg=dict(type='BN')))
    fast = fast_copy(plain)
    x = torch.randn(2, 4, 11, 9)
    with torch.no_grad():
        assert_near(fast.train()(x), plain.train()(x))
        assert_near(fast.bn.running_mean, plain.bn.running_mean)
        assert_near(fast.eval()(x), plain.eval()(x))


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(norm_cfg=dict(type='GN', num_groups=2)),
        dict(norm_cfg=dict(type='IN')),
        dict(norm_cfg=dict(type='BN', track_running_stats=False)),
        dict(norm_cfg=dict(type='BN', affine=False)),
        dict(act_cfg=dict(type='LeakyReLU')),
        dict(act_cfg=dict(type='GELU')),
        dict(padding=1, padding_mode='reflect'),
        dict(order=('act', 'conv', 'norm'), norm_cfg=dict(type='BN')),
        dict(with_spectral_norm=True),
        dict(conv_cfg=dict(type='ConvAWS')),
        dict(conv_cfg=dict(type='DCNv2')),
    ],
    ids=str,
)
def test_other_conv_modules_stay_as_they_are(kwargs):
    if kwargs.get('norm_cfg', {}).pop('affine', None) is False:
        plain = ConvModule(4, 6, 3, norm_cfg=dict(type='BN'))
        plain.bn = nn.BatchNorm2d(6, affine=False)
    elif kwargs.get('norm_cfg', {}).pop('track_running_stats', None) is False:
        plain = ConvModule(4, 6, 3, norm_cfg=dict(type='BN'))
        plain.bn = nn.BatchNorm2d(6, track_running_stats=False)
    else:
        plain = ConvModule(4, 6, 3, **kwargs)
    plain.eval()
    fast = fast_copy(plain)
    assert type(fast) is ConvModule
    x = torch.randn(2, 4, 11, 9)
    for y in (x, x.contiguous(memory_format=torch.channels_last)):
        assert_near(fast(y.clone()), plain(x.clone()))


@pytest.mark.usefixtures('cpu')
def test_linear():
    plain = nn.Linear(6, 5)
    fast = fast_copy(plain)
    assert isinstance(fast, InferenceLinear) == layers.HAS_AVX512
    fast = copy.deepcopy(plain)
    fast.__class__ = InferenceLinear
    fast.eval().requires_grad_(False)
    for shape in ((3, 6), (6,), (0, 6), (2, 0, 6), (2, 3, 4, 6)):
        x = torch.randn(shape)
        assert_near(fast(x), plain(x))
    x = torch.randn(6, 7).t()
    assert_near(fast(x), plain(x))
    assert_close(fast.double()(x.double()), plain.double()(x.double()))


def test_operators_of_mmcv_get_contiguous_maps():
    plain = nn.Sequential(DeformConv2d(4, 6, 3, padding=1))
    fast = fast_copy(plain)
    x, offset = torch.randn(2, 4, 8, 10), torch.randn(2, 18, 8, 10)
    last = dict(memory_format=torch.channels_last)
    expected = plain[0](x, offset)
    assert_near(fast[0](x.contiguous(**last), offset.contiguous(**last)), expected)
    assert_near(fast[0](x.contiguous(**last), offset=offset.contiguous(**last)), expected)


def test_layers_within_an_operator_keep_their_layout():
    """Otherwise their channels_last offsets would be read as contiguous ones."""
    plain = ModulatedDeformConv2dPack(4, 6, 3, padding=1)
    nn.init.normal_(plain.conv_offset.weight)
    x = torch.randn(2, 4, 8, 10)
    fast = fast_copy(fast_copy(plain))
    assert_near(fast(x.contiguous(memory_format=torch.channels_last)), plain(x))


class StandIn(nn.Module):
    """An operator of another package in place of mmcv's; it ignores strides."""

    def forward(self, x):
        return x.as_strided(x.shape, torch.empty(x.shape).stride())


class Derived(StandIn):
    """What a user derives from it."""


@pytest.mark.parametrize('named', [True, False])
def test_operators_are_what_mmcv_ops_exports_wherever_it_is_from(monkeypatch, named):
    monkeypatch.setattr(mmcv.ops, 'DeformConv2d', StandIn)
    monkeypatch.setattr(mmcv.ops, 'Conv2d', nn.Conv2d)  # torch's own layers are none
    if not named:
        monkeypatch.delattr(mmcv.ops, '__all__')
    fast = fast_copy(nn.Sequential(StandIn(), Derived(), nn.Conv2d(4, 6, 3, padding=1)))
    x = torch.randn(2, 4, 8, 10)
    for operator in fast[:2]:
        assert torch.equal(operator(x.contiguous(memory_format=torch.channels_last)), x)
    assert type(fast[2]) is InferenceConv2d


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


def segmentor(head=None, **kwargs):
    """A small UperNet of the project's config, or with another head."""
    config = Config.fromfile(MODEL_CONFIGS / 'upernet.py').model
    config.backbone = BACKBONE
    config.data_preprocessor.pop('size')
    common = dict(channels=8, num_classes=CLASSES, norm_cfg=dict(type='BN'))
    config.auxiliary_head.update(common, in_channels=DIMS[2])
    config.decode_head.update(common, in_channels=DIMS)
    if head:
        config.decode_head = dict(
            common, in_channels=DIMS[3], in_index=3, dropout_ratio=0, align_corners=False, **head
        )
    config.decode_head.update(kwargs.pop('decode_head', {}))
    config.update(kwargs)
    config['_scope_'] = 'mmseg'  # for this build; a default scope would outlive the test
    model = scramble(SEGMENTATION.build(config))
    nn.init.normal_(model.decode_head.conv_seg.weight)
    return model


def segmentation_samples(number, size, **meta):
    meta = dict(img_shape=size, pad_shape=size, ori_shape=size, img_path='image.png', **meta)
    return [SegDataSample(metainfo=meta) for _ in range(number)]


@torch.no_grad()
def assert_same_segmentation(model, images, samples, tolerance=1e-5):
    fast = optimize_for_inference(model)
    expected = model.predict(images, copy.deepcopy(samples))
    actual = fast.predict(images, copy.deepcopy(samples))
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys() and a.metainfo == b.metainfo
        assert_near(a.seg_logits.data, b.seg_logits.data, tolerance)
        assert a.pred_sem_seg.data.dtype == b.pred_sem_seg.data.dtype
        assert a.pred_sem_seg.data.shape == b.pred_sem_seg.data.shape
        # Where two classes are within rounding of each other, either may win.
        assert (a.pred_sem_seg.data != b.pred_sem_seg.data).float().mean() < 1e-3
    return fast


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


# Detectors


def detector(name='mask_rcnn', roi_layer=None, neck=None):
    """A small detector of the project's config whose random weights tell boxes apart."""
    config = Config.fromfile(MODEL_CONFIGS / f'{name}.py').model
    config.backbone = BACKBONE
    config.neck.update(in_channels=DIMS, out_channels=16)
    if neck:
        config.neck = dict(dict(in_channels=DIMS, out_channels=16), **neck)
    config.rpn_head.update(in_channels=16, feat_channels=16)
    heads = config.roi_head
    for extractor in (heads.bbox_roi_extractor, heads.mask_roi_extractor):
        extractor.out_channels = 16
        if roi_layer:
            extractor.roi_layer = dict(output_size=extractor.roi_layer.output_size, **roi_layer)
    for head in heads.bbox_head if name.startswith('cascade') else [heads.bbox_head]:
        head.update(in_channels=16, fc_out_channels=32, num_classes=CLASSES)
        if name.startswith('cascade'):
            head.update(conv_out_channels=16, norm_cfg=dict(type='BN'))
    heads.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=CLASSES)
    # Few candidates: the more there are, the sooner two scores differ by rounding only.
    config.test_cfg.rpn.update(nms_pre=16, max_per_img=16)
    config.test_cfg.rcnn.update(score_thr=0.0, max_per_img=8)
    config['_scope_'] = 'mmdet'
    model = scramble(DETECTION.build(config))
    with torch.no_grad():
        # Scores far apart, but not so far that the sigmoid makes them equal.
        model.rpn_head.rpn_cls.weight.normal_(std=0.15)
        for module in model.roi_head.modules():
            if hasattr(module, 'fc_cls'):
                module.fc_cls.weight.normal_(std=0.5)
    return model


def detection_batch(number, size=(96, 128)):
    """What a data loader yields: images, and samples that say by how much they were scaled."""
    meta = dict(img_shape=size, ori_shape=(60, 80), scale_factor=(1.6, 1.6), pad_shape=size)
    return dict(
        inputs=[torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in range(number)],
        data_samples=[DetDataSample(metainfo=dict(meta, img_id=i)) for i in range(number)],
    )


def assert_same_detections(model, fast):
    batch = detection_batch(2)
    expected = model.test_step(copy.deepcopy(batch))
    actual = fast.test_step(copy.deepcopy(batch))
    for a, b in zip(actual, expected, strict=True):
        a, b = a.pred_instances, b.pred_instances
        assert len(a) == len(b) == 8
        assert_close(a.bboxes, b.bboxes, atol=1e-2, rtol=0)
        assert_close(a.scores, b.scores, atol=1e-4, rtol=0)
        assert torch.equal(a.labels, b.labels)
        assert a.masks.shape == b.masks.shape == (8, 60, 80)
        # A pixel whose probability is within rounding of the threshold may fall on either side.
        assert (a.masks != b.masks).float().mean() < 1e-3


@pytest.mark.parametrize('name', ['mask_rcnn', 'cascade_mask_rcnn'])
@pytest.mark.usefixtures('cpu')
def test_detectors_of_the_project(name, winograds):
    model = detector(name)
    fast = optimize_for_inference(model)
    kinds = {type(module) for module in fast.modules()}
    assert {InferenceRoIAlign, InferenceConvModule, InferenceConv2d} <= kinds
    assert (InferenceLinear in kinds) == layers.HAS_AVX512
    assert RoIAlign not in kinds
    assert_same_detections(model, fast)
    assert bool(winograds.calls) == winograds.wanted
    images = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        for a, b in zip(fast.extract_feat(images), model.extract_feat(images), strict=True):
            assert_near(a, b)
        assert fast.backbone(images)[0].is_contiguous(memory_format=torch.channels_last)


class OwnBlock(Block):
    """A block with another activation."""

    def __init__(self, dim) -> None:
        super().__init__(dim, 0.0, 1.0)
        self.act = nn.SiLU()


class OwnBackbone(ConvNeXt):
    """A backbone with an attribute more, and a block of its own class."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.version = 2
        self.stages[1][0] = OwnBlock(DIMS[1])


class ScaledBackbone(OwnBackbone):
    def forward(self, x):
        return tuple(0.5 * map_ for map_ in super().forward(x))


@pytest.mark.parametrize('kind', [OwnBackbone, ScaledBackbone])
def test_backbones_derived_from_ours_in_a_detector(kind):
    model = detector()
    model.backbone = kind(**{key: value for key, value in BACKBONE.items() if key != 'type'}).eval()
    fast = optimize_for_inference(model)
    for copied in (fast, pickle.loads(pickle.dumps(fast)), copy.deepcopy(fast)):
        backbone = copied.backbone
        assert isinstance(backbone, kind) and backbone.version == 2
        assert isinstance(backbone, InferenceConvNeXt) == (kind is OwnBackbone)
        blocks = [module for module in backbone.modules() if isinstance(module, Block)]
        assert sum(isinstance(block, InferenceBlock) for block in blocks) == len(blocks) - 1
        assert_same_detections(model, copied)


@pytest.mark.parametrize(
    'roi_layer',
    [
        dict(type='OwnRoIAlign', sampling_ratio=2),
        dict(type='RoIAlign', pool_mode='max', sampling_ratio=2),
        dict(type='SimpleRoIAlign'),
    ],
    ids=lambda layer: '-'.join(map(str, layer.values())),
)
def test_other_operators_on_regions(monkeypatch, roi_layer):
    """mmcv's operators ignore strides, and would read wrong values from channels_last maps."""
    monkeypatch.setattr(mmcv.ops, 'OwnRoIAlign', OwnRoIAlign, raising=False)  # mmdet looks there
    model = detector(roi_layer=roi_layer)
    assert_same_detections(model, optimize_for_inference(model))


@pytest.mark.parametrize(
    'neck',
    [
        dict(type='PAFPN', num_outs=5),
        dict(type='FPN', num_outs=5, conv_cfg=dict(type='DCNv2')),
        dict(type='FPN', num_outs=5, norm_cfg=dict(type='GN', num_groups=4)),
        dict(type='Plain'),
    ],
    ids=str,
)
def test_other_necks(neck):
    model = detector(neck=neck)
    for module in model.neck.modules():
        if hasattr(module, 'conv_offset'):  # of deformable convolutions, 0 at first
            nn.init.normal_(module.conv_offset.weight, std=0.1)
    assert_same_detections(model, optimize_for_inference(model))


# Whole models

MODELS = [segmentor, detector]


@pytest.mark.parametrize('build', MODELS)
def test_the_model_is_left_alone_and_its_copy_has_its_state(build):
    model = build().train()

    def look():
        return (
            [(type(m), m.training, len(m._forward_pre_hooks)) for m in model.modules()],
            [(n, p.requires_grad, p.stride(), p.data_ptr()) for n, p in model.named_parameters()],
        )

    before, state = look(), copy.deepcopy(model.state_dict())
    fast = optimize_for_inference(model)
    assert look() == before
    assert list(fast.state_dict()) == list(state)
    for name, value in fast.state_dict().items():
        assert torch.equal(value, state[name]) and torch.equal(value, model.state_dict()[name])
        assert value.data_ptr() != model.state_dict()[name].data_ptr(), name
    assert not any(module.training for module in fast.modules())


@pytest.mark.parametrize('build', MODELS)
def test_copies_of_whole_models(build):
    model, other = build(), build()
    images = torch.randn(1, 3, 64, 96)
    fast = optimize_for_inference(model)
    samples = [None, [DetDataSample(metainfo=dict(img_shape=(64, 96)))]][build is detector]

    @torch.no_grad()
    def outputs(model):
        if build is segmentor:
            return [model(images)]
        return [*itertools.chain(*model(images, copy.deepcopy(samples))[0])]

    for same in (
        fast,
        copy.deepcopy(fast),
        pickle.loads(pickle.dumps(fast)),
        optimize_for_inference(fast),
    ):
        for a, b in zip(outputs(same), outputs(model), strict=True):
            assert_near(a, b, tolerance=1e-4)
    fast.load_state_dict(other.state_dict())
    for a, b, before in zip(outputs(fast), outputs(other), outputs(model), strict=True):
        assert_near(a, b, tolerance=1e-4)
        assert not torch.allclose(b, before)


@pytest.mark.parametrize('build', MODELS)
def test_whole_models_without_onednn(monkeypatch, build):
    model = build()
    fast = optimize_for_inference(model)
    for module in ('inference.fast_form', 'models.layers'):
        monkeypatch.setattr(f'convnext_backbones.{module}.HAS_ONEDNN', False)
    monkeypatch.setattr(convolutions, 'folded', None)
    monkeypatch.setattr(segmentors, 'add_convolved_upsampling', None)
    if build is detector:
        assert_same_detections(model, fast)
    else:
        samples = segmentation_samples(1, (64, 96))
        assert_same_segmentation(fast, torch.randn(1, 3, 64, 96), samples)
        with torch.no_grad():
            images = torch.randn(1, 3, 64, 96)
            assert_near(fast(images), model(images))


def test_gradients_of_a_fast_segmentor():
    model = segmentor()
    fast = optimize_for_inference(model)
    images = torch.randn(2, 3, 64, 96)
    gradients = []
    for m in (model, fast):
        m.requires_grad_(True)
        m(images).square().mean().backward()
        gradients.append([p.grad for p in m.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        assert_near(a, b, tolerance=1e-4)
