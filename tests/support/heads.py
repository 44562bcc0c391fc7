"""Small detectors and segmentors for tests of the fast form, and comparisons with it."""

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS as DETECTION
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmseg.registry import MODELS as SEGMENTATION
from mmseg.structures import SegDataSample
from torch import nn
from torch.testing import assert_close

from convnext_backbones.inference.heads import optimize_heads
from convnext_backbones.inference.optimize import optimize_for_inference

MODEL_CONFIGS = Path(__file__).resolve().parents[2] / 'configs/_base_/models'
DIMS = [8, 16, 24, 32]
BACKBONE = dict(
    type='ConvNeXt', arch=dict(depths=[1, 1, 2, 1], dims=DIMS), layer_scale_init_value=1.0
)
CLASSES = 5


class Plain(nn.Module):
    """A neck that hands on the backbone's maps as they are, to levels of as many channels."""

    def __init__(self, in_channels, out_channels) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels)

    def forward(self, maps):
        maps = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        return (*maps, F.max_pool2d(maps[-1], 1, 2))


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
