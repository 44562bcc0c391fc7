"""Shipped detectors and segmentors that use different operators train a step, and predict.

Their operators are compared with compiled mmcv's elsewhere; here, whole models have to run on a
CPU with the provider of this environment.
"""

from __future__ import annotations

import logging

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData

from convnext_backbones.ops.providers import serving
from dev.called_operators import called_by, named, parts
from dev.shipped_configs import configs_folder, group_of_one

# Operators for which compiled mmcv has no code for a CPU.
GPU_ONLY = (
    'carafe_forward',
    'deform_roi_pool_forward',
    'masked_im2col_forward',
    'sync_bn_forward_output',
)
# Shipped configs, and an operator in each that it is here for.
DETECTORS = {
    'retinanet/retinanet_r50_fpn_1x_coco': 'nms',
    'faster_rcnn/faster-rcnn_r50_fpn_soft-nms_1x_coco': 'softnms',
    'pisa/faster-rcnn_r50_fpn_pisa_1x_coco': 'nms_match',
    'dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco': 'deform_conv_forward',
    'dcn/faster-rcnn_r50_fpn_dpool_1x_coco': 'deform_roi_pool_forward',
    'dcnv2/faster-rcnn_r50_fpn_mdpool_1x_coco': 'deform_roi_pool_forward',
    'dcnv2/mask-rcnn_r50-mdconv-c3-c5_fpn_1x_coco': 'modulated_deform_conv_forward',
    'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco': 'roi_align_forward',
    'groie/mask-rcnn_r50_fpn_groie_1x_coco': 'roi_align_forward',
    'carafe/mask-rcnn_r50_fpn-carafe_1x_coco': 'carafe_forward',
    'guided_anchoring/ga-faster-rcnn_r50_fpn_1x_coco': 'masked_im2col_forward',
    'guided_anchoring/ga-retinanet_r50_fpn_1x_coco': 'masked_im2col_forward',
    'reppoints/reppoints-moment_r50_fpn_1x_coco': 'deform_conv_forward',
    'vfnet/vfnet_r50_fpn_1x_coco': 'deform_conv_forward',
    'tood/tood_r50_fpn_1x_coco': 'deform_conv_forward',
    'cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco': 'deform_conv_forward',
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco': 'ms_deform_attn_forward',
    'strong_baselines/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_lsj-100e_coco': (
        'sync_bn_forward_output'
    ),
}
SEGMENTORS = {
    'psanet/psanet_r50-d8_4xb4-20k_voc12aug-512x512': 'psamask_forward',
    'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512': 'ms_deform_attn_forward',
    'point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024': '',
}
HEADS = ('decode_head', 'auxiliary_head', 'panoptic_head')  # that can follow a backbone
WIDTH = 8  # channels of the narrowest stage, instead of 64
SIZE = 96  # of the images


def shipped_model(scope: str, name: str):
    """A shipped config, and its model with a narrow backbone and random weights."""
    cfg = Config.fromfile(configs_folder(scope) / f'{name}.py')
    cfg.model.backbone.update(base_channels=WIDTH, stem_channels=WIDTH, init_cfg=None)
    parts = ('neck',) if cfg.model.get('neck') else HEADS
    for part in parts:
        if cfg.model.get(part):
            cfg.model[part].in_channels = narrow(cfg.model[part].in_channels)
    if scope == 'mmseg':
        cfg.model.update(pretrained=None, test_cfg=dict(mode='whole'))
        cfg.model.data_preprocessor.size = (SIZE, SIZE)
    if 'psanet' in name:
        cfg.model.decode_head.mask_size = (7, 7)
    cfg.model.data_preprocessor.batch_augments = None  # such as padding to 1024 x 1024
    limit_boxes(cfg.model)
    use_cpu_norms(cfg.model)
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(cfg.model)
    logging.disable(logging.INFO)  # a line for each of the weights
    model.init_weights()
    logging.disable(logging.NOTSET)
    for parameter in model.parameters():
        if not parameter.any():  # deformable convolutions start without offsets, as plain ones
            torch.nn.init.normal_(parameter, std=0.05)
    return cfg, model


def narrow(channels):
    """Numbers of channels of a ResNet-50, in a narrow one."""
    if isinstance(channels, int):
        return channels * WIDTH // 64
    return [narrow(count) for count in channels]


def limit_boxes(cfg) -> None:
    """Let a detector's heads see few boxes, which is faster."""
    for key, value in cfg.items():
        if key == 'sampler' and 'num' in value:
            value.num = 16
        elif key == 'max_per_img':
            cfg[key] = 20
        elif isinstance(value, dict):
            limit_boxes(value)


def use_cpu_norms(cfg) -> None:
    """Replace torch's SyncBN, which refuses a CPU; mmcv's stays."""
    for value in cfg.values():
        if isinstance(value, dict):
            use_cpu_norms(value)
    if cfg.get('type') == 'SyncBN':
        cfg.type = 'BN'


def detector_batch() -> dict:
    from mmdet.testing import demo_mm_inputs

    shapes = [[3, SIZE, SIZE], [3, SIZE - 7, SIZE - 16]]
    return demo_mm_inputs(2, shapes, num_items=[3, 2], num_classes=10, with_mask=True)


def segmentor_batch() -> dict:
    from mmseg.structures import SegDataSample

    shape = dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), pad_shape=(SIZE, SIZE))
    samples = []
    for _ in range(2):
        truth = PixelData(data=torch.randint(0, 19, (1, SIZE, SIZE)))
        samples.append(SegDataSample(gt_sem_seg=truth, metainfo=shape))
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    return dict(inputs=[*images], data_samples=samples)


def check(scope: str, name: str, operator: str, batch) -> None:
    if serving() == 'mmcv' and operator in GPU_ONLY:
        pytest.skip(f'compiled mmcv has no {operator} for a CPU')
    cfg, model = shipped_model(scope, name)
    assert not operator or operator in called_by([*parts(model), *named(cfg.to_dict())])

    model.train()
    MessageHub.get_current_instance().update_info('epoch', 0)  # TOOD asks for it
    data = model.data_preprocessor(batch(), True)
    loss, logged = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert torch.isfinite(loss), logged
    gradients = {
        key: parameter.grad
        for key, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    assert len(gradients) > 20
    assert not [key for key, gradient in gradients.items() if not gradient.isfinite().all()]

    model.eval()
    # Of one image: masked convolution takes no more.
    one = {key: values[:1] for key, values in batch().items()}
    with torch.no_grad():
        (result,) = model(**model.data_preprocessor(one, False), mode='predict')
    if scope == 'mmdet':
        assert result.pred_instances.scores.isfinite().all()
        assert result.pred_instances.bboxes.isfinite().all()
    else:
        assert result.pred_sem_seg.data.shape == (1, SIZE, SIZE)


@pytest.mark.slow
@pytest.mark.parametrize('name', DETECTORS)
def test_detectors(name):
    with group_of_one():
        check('mmdet', name, DETECTORS[name], detector_batch)


@pytest.mark.slow
@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentors(name):
    check('mmseg', name, SEGMENTORS[name], segmentor_batch)
