"""Train a step and predict with architectures of mmdet and mmseg whose backbone is a ConvNeXt."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from convnext_backbones.config.classes import set_classes
from convnext_backbones.config.exchange import exchange
from convnext_backbones.config.heads import Head, describe_head
from convnext_backbones.config.walk import walk
from convnext_backbones.inference.optimize import optimize_for_inference

# One config of each architecture, by name.
ARCHITECTURES: dict[str, str] = {
    'Faster R-CNN': 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
    'Mask R-CNN': 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco',
    'Cascade Mask R-CNN': 'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco',
    'HTC': 'mmdet::htc/htc_r50_fpn_1x_coco',
    'SCNet': 'mmdet::scnet/scnet_r50_fpn_1x_coco',
    'Grid R-CNN': 'mmdet::grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco',
    'Mask Scoring R-CNN': 'mmdet::ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco',
    'PointRend': 'mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco',
    'Double-Head R-CNN': 'mmdet::double_heads/dh-faster-rcnn_r50_fpn_1x_coco',
    'Dynamic R-CNN': 'mmdet::dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco',
    'Libra R-CNN': 'mmdet::libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco',
    'PAFPN': 'mmdet::pafpn/faster-rcnn_r50_pafpn_1x_coco',
    'HRFPN': 'mmdet::hrnet/faster-rcnn_hrnetv2p-w18-1x_coco',
    'FPG': 'mmdet::fpg/faster-rcnn_r50_fpg-chn128_crop640-50e_coco',
    'Sparse R-CNN': 'mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco',
    'QueryInst': 'mmdet::queryinst/queryinst_r50_fpn_1x_coco',
    'Panoptic FPN': 'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco',
    'RPN without neck': 'mmdet::rpn/rpn_r50-caffe-c4_1x_coco',
    'RetinaNet': 'mmdet::retinanet/retinanet_r50_fpn_1x_coco',
    'NAS-FPN': 'mmdet::nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco',
    'FCOS': 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
    'NAS-FCOS': 'mmdet::nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco',
    'ATSS': 'mmdet::atss/atss_r50_fpn_1x_coco',
    'PAA': 'mmdet::paa/paa_r50_fpn_1x_coco',
    'GFL': 'mmdet::gfl/gfl_r50_fpn_1x_coco',
    'VFNet': 'mmdet::vfnet/vfnet_r50_fpn_1x_coco',
    'TOOD': 'mmdet::tood/tood_r50_fpn_1x_coco',
    'DDOD': 'mmdet::ddod/ddod_r50_fpn_1x_coco',
    'AutoAssign': 'mmdet::autoassign/autoassign_r50-caffe_fpn_1x_coco',
    'FoveaBox': 'mmdet::foveabox/fovea_r50_fpn_4xb4-1x_coco',
    'FSAF': 'mmdet::fsaf/fsaf_r50_fpn_1x_coco',
    'FreeAnchor': 'mmdet::free_anchor/freeanchor_r50_fpn_1x_coco',
    'SABL': 'mmdet::sabl/sabl-retinanet_r50_fpn_1x_coco',
    'RepPoints': 'mmdet::reppoints/reppoints-moment_r50_fpn_1x_coco',
    'CenterNet': 'mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco',
    'YOLOX': 'mmdet::yolox/yolox_s_8xb8-300e_coco',
    'YOLOv3': 'mmdet::yolo/yolov3_d53_8xb8-320-273e_coco',
    'YOLOF': 'mmdet::yolof/yolof_r50-c5_8xb8-1x_coco',
    'SSDLite': 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco',
    'RTMDet': 'mmdet::rtmdet/rtmdet_l_8xb32-300e_coco',
    'RTMDet-Ins': 'mmdet::rtmdet/rtmdet-ins_l_8xb32-300e_coco',
    'YOLACT': 'mmdet::yolact/yolact_r50_1xb8-55e_coco',
    'SOLO': 'mmdet::solo/solo_r50_fpn_1x_coco',
    'SOLOv2': 'mmdet::solov2/solov2_r50_fpn_1x_coco',
    'CondInst': 'mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance',
    'DETR': 'mmdet::detr/detr_r50_8xb2-150e_coco',
    'Conditional DETR': 'mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco',
    'DAB-DETR': 'mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco',
    'Deformable DETR': 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco',
    'DDQ': 'mmdet::ddq/ddq-detr-4scale_r50_8xb2-12e_coco',
    'DINO': 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco',
    'MaskFormer': 'mmdet::maskformer/maskformer_r50_ms-16xb1-75e_coco',
    'Mask2Former': 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco',
    'Mask2Former, panoptic': 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic',
    'FCN': 'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024',
    'PSPNet': 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'DeepLabV3': 'mmseg::deeplabv3/deeplabv3_r50-d8_4xb2-40k_cityscapes-512x1024',
    'DeepLabV3+': 'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024',
    'UperNet': 'mmseg::upernet/upernet_r50_4xb2-40k_cityscapes-512x1024',
    'Semantic FPN': 'mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024',
    'PointRend (mmseg)': 'mmseg::point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024',
    'OCRNet': 'mmseg::ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024',
    'HRNet FCN': 'mmseg::hrnet/fcn_hr18_4xb2-40k_cityscapes-512x1024',
    'SegFormer': 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512',
    'SegNeXt': 'mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512',
    'K-Net': 'mmseg::knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512',
    'FastFCN': 'mmseg::fastfcn/fastfcn_r50-d32_jpu_psp_4xb2-80k_cityscapes-512x1024',
    'EncNet': 'mmseg::encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'ANN': 'mmseg::ann/ann_r50-d8_4xb2-40k_cityscapes-512x1024',
    'APCNet': 'mmseg::apcnet/apcnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'CCNet': 'mmseg::ccnet/ccnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'DANet': 'mmseg::danet/danet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'DMNet': 'mmseg::dmnet/dmnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'DNLNet': 'mmseg::dnlnet/dnl_r50-d8_4xb2-40k_cityscapes-512x1024',
    'EMANet': 'mmseg::emanet/emanet_r50-d8_4xb2-80k_cityscapes-512x1024',
    'GCNet': 'mmseg::gcnet/gcnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'ISANet': 'mmseg::isanet/isanet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'PSANet': 'mmseg::psanet/psanet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'NonLocal': 'mmseg::nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024',
    'MaskFormer (mmseg)': 'mmseg::maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512',
    'Mask2Former (mmseg)': 'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512',
}
# Only their raw outputs are computed: untrained boxes of QueryInst lie outside of the image, where
# mmdet pastes no masks; mmdet's SSDHead misses a loss that its prediction asks for.
NO_PREDICTION = ('QueryInst', 'SSDLite')
# Heads of mmseg that need more than maps.
WITH_SAMPLES = ('MaskFormerHead', 'Mask2FormerHead')
ARCH = dict(depths=[1, 1, 1, 1], dims=[16, 32, 64, 128])
CLASSES = ('first', 'second', 'third')
SIZE = 96  # of the images, in pixels
TOLERANCE = 1e-4  # of the largest value of a raw output
FEW = dict(
    num=32,
    max_per_img=20,
    max_per_image=20,
    nms_pre=100,
    num_queries=20,
    num_proposals=20,
    num_points=112,
)


@dataclass(frozen=True)
class Trial:
    """What came of an architecture.

    Attributes:
        name: Of the architecture.
        without_gradient: Parameters that a step of training leaves without a gradient.
        difference: Of the optimized form, as a part of the largest value of a raw output.
        outputs: How many raw outputs were compared.
    """

    name: str
    without_gradient: tuple[str, ...]
    difference: float
    outputs: int


def try_out(name: str, config: str, with_ours: bool = True) -> Trial:
    """Train a step, predict, and compare the optimized form.

    Args:
        name: Of the architecture.
        config: As in ``describe_head``.
        with_ours: Whether the backbone is exchanged. Otherwise it is the config's own, narrow, and
            nothing is compared.
    """
    torch.manual_seed(0)
    model, head = build_miniature(config, with_ours)
    data = partial(batch, head.scope, head.needs_masks)
    differences = [0.0]
    if with_ours:
        fast = optimize_for_inference(model)
        predict = name not in NO_PREDICTION
        outputs = [raw_outputs(one, data(), predict) for one in (model, fast)]
        differences = [
            ((a - b).abs().max() / a.abs().max().clamp(1e-6)).item()
            for a, b in zip(*outputs, strict=True)
        ]
    return Trial(name, train_step(model, data()), max(differences), len(differences))


def build_miniature(config: str, with_ours: bool = True) -> tuple[nn.Module, Head]:
    """Return the model of a config with a small backbone and few classes, and its head."""
    head = describe_head(config)
    importlib.import_module(f'{head.scope}.utils').register_all_modules(init_default_scope=False)
    cfg = deepcopy(head.config)
    if with_ours:
        cfg, _ = exchange(cfg, ARCH, drop_path_rate=0.0)
    cfg.default_scope, cfg.classes, cfg.stuff_classes = head.scope, CLASSES, CLASSES[-1:]
    if not head.needs_semantic_maps or 'htc' in config:
        cfg.stuff_classes = ()
    set_classes(cfg)
    shrink(cfg, head.scope)
    with DefaultScope.overwrite_default_scope(head.scope), quiet():
        model = MODELS.build(cfg.model)
        model.init_weights()
    for parameter in model.parameters():
        if not parameter.any():  # such as offsets, whose gradients would hide others
            nn.init.normal_(parameter, std=0.02)
    return model, head


def shrink(cfg: Config, scope: str) -> None:
    """Let a model run on small images of a CPU, with few boxes and queries."""
    for _, part in walk(cfg.model):
        for key, few in FEW.items():
            if isinstance(part.get(key), int) and part[key] > few:
                part[key] = few
        if part.get('type') == 'SyncBN':
            part['type'] = 'BN'
        part.pop('batch_augments', None)
        if part.get('type') in ('Pretrained', 'PretrainedInit'):
            part.clear()
    forget_starts(cfg.model)
    if scope == 'mmseg':
        cfg.model.test_cfg['mode'] = 'whole'
        cfg.model.data_preprocessor['size'] = (SIZE, SIZE)


def forget_starts(node: Any) -> None:
    """Remove what would load weights."""
    for _, part in walk(node):
        for key in [key for key, value in part.items() if key == 'init_cfg' and value == {}]:
            part[key] = None
        for key in ('pretrained', 'teacher_ckpt'):
            if key in part:
                part[key] = None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what models print and log while they are built."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


# --- data -----------------------------------------------------------------------------------


def batch(scope: str, with_masks: bool) -> dict[str, Any]:
    """Return two images with annotations."""
    return detector_batch(with_masks) if scope == 'mmdet' else segmentor_batch()


def detector_batch(with_masks: bool) -> dict[str, Any]:
    """Return images with boxes and label maps, and perhaps with masks, which disturb RTMDet."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    numbers = torch.Generator().manual_seed(1)
    images, samples = [], []
    for count in (4, 3):
        image = torch.randint(0, 60, (3, SIZE, SIZE), generator=numbers, dtype=torch.uint8)
        corners = torch.randint(0, SIZE // 2, (count, 2), generator=numbers)
        sizes = torch.randint(SIZE // 8, SIZE // 2, (count, 2), generator=numbers)
        boxes = torch.cat([corners, corners + sizes], 1)
        labels = torch.arange(count) % 2
        masks = torch.zeros(count, SIZE, SIZE, dtype=torch.uint8)
        truth = torch.full((1, SIZE, SIZE), 2)
        for (x1, y1, x2, y2), label, mask in zip(boxes.tolist(), labels, masks, strict=True):
            mask[y1:y2, x1:x2] = 1
            image[label, y1:y2, x1:x2] += 150
        shape = dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), pad_shape=(SIZE, SIZE))
        sample = DetDataSample(
            metainfo=dict(
                shape, scale_factor=(1.0, 1.0), batch_input_shape=(SIZE, SIZE), border=[0] * 4
            )
        )
        sample.gt_instances = InstanceData(bboxes=boxes.float(), labels=labels)
        if with_masks:
            sample.gt_instances.masks = BitmapMasks(masks.numpy(), SIZE, SIZE)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        sample.gt_sem_seg = PixelData(sem_seg=truth)
        images.append(image)
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def segmentor_batch() -> dict[str, Any]:
    """Return images with label maps."""
    from mmseg.structures import SegDataSample

    numbers = torch.Generator().manual_seed(1)
    keys = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    shape = dict.fromkeys(keys, (SIZE, SIZE))
    images, samples = [], []
    for _ in range(2):
        coarse = torch.randint(0, len(CLASSES), (1, 8, 8), generator=numbers)
        truth = coarse.repeat_interleave(SIZE // 8, 1).repeat_interleave(SIZE // 8, 2)
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=truth), metainfo=shape))
        noise = torch.randint(0, 60, (3, SIZE, SIZE), generator=numbers)
        images.append((noise + 60 * truth).to(torch.uint8))
    return dict(inputs=images, data_samples=samples)


# --- steps ----------------------------------------------------------------------------------


def train_step(model: nn.Module, data: dict[str, Any]) -> tuple[str, ...]:
    """Compute all gradients of a batch, and return the names of parameters that got none."""
    model.train()
    MessageHub.get_current_instance().update_info('epoch', 0)  # TOOD asks for it
    data = model.data_preprocessor(data, True)
    losses = model(**data, mode='loss')
    loss, logged = model.parse_losses(losses)
    if not torch.isfinite(loss):
        raise ValueError(f'expected a finite loss, got {logged}')
    loss.backward()
    named = model.named_parameters()
    return tuple(name for name, one in named if one.requires_grad and one.grad is None)


@torch.no_grad()
def raw_outputs(model: nn.Module, data: dict[str, Any], predict: bool = True) -> list[Tensor]:
    """Return everything that the heads compute for a batch, before scores are thresholded.

    With ``predict`` the whole pipeline runs, too. That it finds as many objects is not asked:
    scores lie on both sides of a threshold.
    """
    model.eval()
    torch.manual_seed(0)  # LightHamHead begins with random factors
    data = model.data_preprocessor(data, False)
    if predict:
        model(**deepcopy(data), mode='predict')
    if type(model).__name__ == 'CascadeEncoderDecoder':  # its heads need each other's outputs
        metas = [sample.metainfo for sample in data['data_samples']]
        return [model.encode_decode(data['inputs'], metas)]
    if type(getattr(model, 'decode_head', None)).__name__ in WITH_SAMPLES:
        maps = model.extract_feat(data['inputs'])
        return list(tensors(model.decode_head(maps, data['data_samples'])))
    return list(tensors(model(**data, mode='tensor')))


def tensors(node: Any) -> Iterator[Tensor]:
    """Iterate over the floating-point tensors in nested containers."""
    if isinstance(node, Tensor):
        if node.is_floating_point() and node.numel():
            yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from tensors(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from tensors(value)
    elif isinstance(node, InstanceData):
        yield from tensors(dict(node.items()))
