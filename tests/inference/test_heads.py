"""The fast form of whole detectors and segmentors, and operators of mmcv in them."""

import copy
import itertools
import pickle

import mmcv.ops
import pytest
import torch
from mmcv.ops import DeformConv2d, ModulatedDeformConv2dPack, RoIAlign
from mmdet.structures import DetDataSample
from support.heads import (
    BACKBONE,
    DIMS,
    assert_near,
    assert_same_detections,
    assert_same_segmentation,
    detector,
    fast_copy,
    segmentation_samples,
    segmentor,
)
from torch import nn

from convnext_backbones import ConvNeXt
from convnext_backbones.inference import convolutions, segmentors
from convnext_backbones.inference.backbone import InferenceConvNeXt
from convnext_backbones.inference.block import InferenceBlock
from convnext_backbones.inference.convolutions import (
    InferenceConv2d,
    InferenceConvModule,
    InferenceLinear,
)
from convnext_backbones.inference.optimize import optimize_for_inference
from convnext_backbones.inference.roi_align import InferenceRoIAlign
from convnext_backbones.models.block import Block

# What mmcv and mmseg advise about the models here is not what is tested.
pytestmark = [
    pytest.mark.filterwarnings('ignore::UserWarning:mm(cv|seg)'),
    pytest.mark.usefixtures('registered'),
]


class OwnRoIAlign(RoIAlign):
    """What a user derives: it is not replaced, and reads memory as mmcv's operator does."""


# Operators


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


# Detectors


@pytest.mark.parametrize('name', ['mask_rcnn', 'cascade_mask_rcnn'])
@pytest.mark.usefixtures('cpu')
def test_detectors_of_the_project(name, winograds):
    model = detector(name)
    fast = optimize_for_inference(model)
    kinds = {type(module) for module in fast.modules()}
    assert {InferenceRoIAlign, InferenceConvModule, InferenceConv2d, InferenceLinear} <= kinds
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
