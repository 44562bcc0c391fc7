"""Any backbone and the usual heads are counted in full."""

from pathlib import Path

import mmcv.ops  # noqa: F401 -- chooses who computes them
import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from convnext_backbones.benchmark.counting import count_parts
from convnext_backbones.engine.build import build_on_meta
from convnext_backbones.ops.providers import serving

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = [ROOT / f'configs/sample/{name}_convnext_sample.py' for name in ('mask_rcnn', 'upernet')]


@pytest.mark.parametrize('path', SAMPLES, ids=lambda path: path.stem)
def test_an_independent_counter_agrees(path):
    """mmengine traces real modules with real numbers on the CPU."""
    cfg = Config.fromfile(path)
    counted = {part.name: part for part in count_parts(build_on_meta(cfg), (64, 96))}
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    model.eval()
    assert sum(part.params for part in counted.values()) == sum(
        p.numel() for p in model.parameters()
    )

    def macs(module: nn.Module, inputs: torch.Tensor | tuple) -> int:
        analyzer = FlopAnalyzer(module, (inputs,))
        analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        operators = analyzer.by_operator()
        return sum(operators[name] for name in ('conv', 'linear', 'matmul'))

    image = torch.zeros(1, 3, 64, 96)
    assert sum(p.macs for n, p in counted.items() if n.startswith('backbone')) == macs(
        model.backbone, image
    )
    maps = model.backbone(image)
    if cfg.default_scope == 'mmseg':
        assert counted['decode head'].macs == macs(model.decode_head, maps)
        return
    assert counted['neck'].macs == macs(model.neck, maps)
    assert counted['RPN head'].macs == macs(model.rpn_head, model.neck(maps))
    channels = cfg.model.neck.out_channels
    box_head, mask_head = model.roi_head.bbox_head, model.roi_head.mask_head
    assert counted['box head'].macs == 1000 * macs(box_head, torch.zeros(1, channels, 7, 7))
    assert counted['mask head'].macs == 100 * macs(mask_head, torch.zeros(1, channels, 14, 14))


DETECTOR, SEGMENTOR = (Config.fromfile(path) for path in SAMPLES)
RESNET = dict(_delete_=True, type='ResNet', depth=18, in_channels=4, norm_cfg=dict(type='SyncBN'))


def count(cfg: Config, changes: dict, shape: tuple[int, int] = (64, 64)) -> dict[str, int]:
    cfg = Config(cfg.to_dict())
    cfg.merge_from_dict(changes)
    return {part.name: part.macs for part in count_parts(build_on_meta(cfg), shape)}


def test_any_backbone_is_counted():
    detector = {
        'model.backbone': RESNET,
        'model.neck.in_channels': [64, 128, 256, 512],
    }
    parts = count(DETECTOR, detector)
    # 7x7 convolution with stride 2, from 4 channels to 64.
    assert parts['backbone: conv1'] == 7 * 7 * 4 * 64 * 32 * 32
    assert {f'backbone: layer{i}' for i in (1, 2, 3, 4)} <= set(parts)
    # A position embedding stands in no child of its backbone; attention is matrix products.
    vit = dict(
        _delete_=True,
        type='VisionTransformer',
        img_size=64,
        embed_dims=16,
        num_layers=4,
        num_heads=2,
        out_indices=(0, 1, 2, 3),
    )
    segmentor = {
        'model.backbone': vit,
        'model.decode_head.in_channels': [16] * 4,
        'model.auxiliary_head.in_channels': 16,
    }
    parts = count(SEGMENTOR, segmentor)
    assert 'backbone: other' in parts
    tokens = 4 * 4 + 1
    linear = tokens * 16 * (3 * 16 + 16 + 2 * 4 * 16)
    attention = 2 * tokens**2 * 16
    assert parts['backbone: layers.0'] == linear + attention


def test_shared_head_is_counted():
    """Detectors without FPN run the last stage of a ResNet on each proposal."""
    stages = dict(strides=(1, 2, 2), dilations=(1, 1, 1))
    extractor = dict(DETECTOR.model.roi_head.bbox_roi_extractor, out_channels=1024)
    extractor.update(featmap_strides=[16], roi_layer=dict(type='RoIAlign', output_size=14))
    head = dict(type='BBoxHead', with_avg_pool=True, in_channels=2048, num_classes=10)
    changes = {
        'model.backbone': dict(
            _delete_=True, type='ResNet', depth=50, num_stages=3, out_indices=(2,), **stages
        ),
        'model.neck': None,
        'model.rpn_head.in_channels': 1024,
        'model.rpn_head.anchor_generator.strides': [16],
        'model.roi_head.shared_head': dict(type='ResLayer', depth=50, stage=3, stride=2),
        'model.roi_head.bbox_roi_extractor': extractor,
        'model.roi_head.bbox_head': dict(_delete_=True, **head),
        'model.roi_head.mask_head': None,
        'model.roi_head.mask_roi_extractor': None,
    }
    parts = count(DETECTOR, changes)
    assert list(parts)[-3:] == ['RPN head', 'box head', 'shared head']
    assert parts['box head'] == 1000 * 2048 * (10 + 1 + 4 * 10)
    # Three bottlenecks; the first has a stride of two and a shortcut of its own.
    first = 14 * 14 * 1024 * 512 + 7 * 7 * (9 * 512 * 512 + 512 * 2048 + 1024 * 2048)
    others = 2 * 7 * 7 * (2048 * 512 + 9 * 512 * 512 + 512 * 2048)
    assert parts['shared head'] == 1000 * (first + others)


def test_deformable_convolutions_are_counted():
    """Compiled operators do not run on the meta device; the others do, and none is left out."""
    plain = dict(_delete_=True, type='ResNet', depth=50)
    deformable = dict(
        plain, dcn=dict(type='DCNv2', deform_groups=1), stage_with_dcn=(False, False, False, True)
    )
    neck = {'model.neck.in_channels': [256, 512, 1024, 2048]}
    if serving() == 'mmcv':
        with pytest.raises(ValueError, match='expected ResNet to run at this image size'):
            count(DETECTOR, {'model.backbone': deformable, **neck})
        return
    one, other = (count(DETECTOR, {'model.backbone': x, **neck}) for x in (plain, deformable))
    # In each of the three blocks, on a map of 2 x 2: x, y and the mask of the kernel's positions.
    assert sum(other.values()) - sum(one.values()) == 3 * 2 * 2 * (9 * 512) * (3 * 9)


def test_cascaded_decode_heads_are_counted():
    head = dict(in_channels=256, in_index=3, channels=16, num_classes=11)
    changes = {
        'model.type': 'CascadeEncoderDecoder',
        'model.num_stages': 2,
        'model.decode_head': [
            dict(type='FCNHead', num_convs=1, concat_input=False, **head),
            dict(type='OCRHead', ocr_channels=8, **head),
        ],
        'model.auxiliary_head': None,
    }
    parts = count(SEGMENTOR, changes)
    assert parts['decode head 1'] == 2 * 2 * (9 * 256 * 16 + 16 * 11)
    assert parts['decode head 2'] > 2 * 2 * 9 * 256 * 16


@pytest.mark.parametrize(
    ('cfg', 'changes', 'message'),
    [
        (DETECTOR, {'model.type': 'TwoStageDetector', 'model.roi_head': None}, 'got TwoStage'),
        (
            DETECTOR,
            {'model.roi_head.type': 'DoubleHeadRoIHead', 'model.roi_head.reg_roi_scale_factor': 1},
            'got DoubleHeadRoIHead',
        ),
        (
            DETECTOR,
            {'model.roi_head.bbox_roi_extractor.type': 'GenericRoIExtractor'}
            | {'model.roi_head.bbox_roi_extractor.aggregation': 'sum'}
            | {
                'model.roi_head.bbox_roi_extractor.pre_cfg': dict(
                    type='ConvModule', in_channels=64, out_channels=64, kernel_size=1
                )
            },
            '4,160 parameters belong to none of them',
        ),
        (SEGMENTOR, {'model.decode_head.in_channels': [8] * 4}, 'expected UPerHead to run'),
    ],
)
def test_what_cannot_be_counted_is_said(cfg, changes, message):
    with pytest.raises(ValueError, match=message):
        count(cfg, changes)
