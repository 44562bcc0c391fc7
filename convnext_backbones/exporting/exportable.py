"""Which models can be exported as a whole: those whose results are what the graph computes."""

from __future__ import annotations

from typing import Any

from torch import nn

ADVICE = '; its backbone alone can be: --part backbone'


def kind_of(model: Any) -> str:
    """Return which graph computes what a model predicts.

    Returns:
        ``segmentor``, ``dense``, ``two_stage`` or ``transformer``.

    Raises:
        ValueError: No graph does.
    """
    if isinstance(getattr(model, 'decode_head', None), nn.Module):
        _check_segmentor(model)
        return 'segmentor'
    from mmdet.models.detectors import (
        DetectionTransformer,
        SingleStageDetector,
        TwoStageDetector,
    )

    if isinstance(model, DetectionTransformer):
        _check_transformer(model)
        kind = 'transformer'
    elif isinstance(model, TwoStageDetector):
        _check_two_stage(model)
        kind = 'two_stage'
    elif isinstance(model, SingleStageDetector):
        _check_dense(model)
        kind = 'dense'
    else:
        raise _refusal('a detector or a segmentor of the usual kinds', type(model).__name__)
    if getattr(model.data_preprocessor, 'boxtype2tensor', True) is False:
        raise _refusal('boxes as tensors', 'boxtype2tensor=False')
    return kind


def _refusal(expected: str, found: str) -> ValueError:
    return ValueError(f'expected {expected} to export, got {found}{ADVICE}')


def _check_segmentor(model: Any) -> None:
    if getattr(model.data_preprocessor, 'test_cfg', None):
        raise ValueError(
            "expected no test_cfg in the model's data_preprocessor, got "
            f'{model.data_preprocessor.test_cfg}: it pads normalized images, and the exported '
            f'model takes images as they are read{ADVICE}'
        )
    from mmseg.models import EncoderDecoder
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    head = model.decode_head
    own_model = not _inherits(model, EncoderDecoder, 'encode_decode', 'extract_feat')
    if own_model or not _inherits(head, BaseDecodeHead, 'predict', 'predict_by_feat'):
        raise ValueError(
            'expected an EncoderDecoder whose head gives one map of logits, got '
            f'{type(model).__name__} with {type(head).__name__}, which predicts in a way of its '
            f'own{ADVICE}'
        )


def _check_dense(model: Any) -> None:
    from mmdet.models.dense_heads import GFLHead
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmdet.models.detectors import SingleStageDetector
    from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder, DistancePointBBoxCoder

    head: Any = getattr(model, 'bbox_head', None)
    whole = ('predict', 'predict_by_feat', '_bbox_post_process')
    usual = _inherits(head, BaseDenseHead, *whole) and (
        _inherits(head, BaseDenseHead, '_predict_by_feat_single')
        or _inherits(head, GFLHead, '_predict_by_feat_single')
    )
    if not usual or not _inherits(model, SingleStageDetector, 'predict', 'extract_feat'):
        raise _refusal(
            'a head that predicts boxes as RetinaNet, FCOS, ATSS, GFL or RTMDet do',
            f'{type(model).__name__} with {type(head).__name__}',
        )
    coders, loss = (DeltaXYWHBBoxCoder, DistancePointBBoxCoder), getattr(head, 'loss_cls', None)
    custom = loss is None or getattr(loss, 'custom_cls_channels', False)
    if type(head.bbox_coder) not in coders or custom:
        raise _refusal(
            f'one of the box coders {", ".join(coder.__name__ for coder in coders)} and scores by '
            'sigmoid or softmax',
            f'{type(head.bbox_coder).__name__} and {type(loss).__name__}',
        )
    _check_suppression(head.test_cfg, 'nms_pre', 'score_thr', 'max_per_img')


def _check_two_stage(model: Any) -> None:
    from mmdet.models.dense_heads import RPNHead
    from mmdet.models.detectors import TwoStageDetector
    from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
    from mmdet.models.roi_heads.bbox_heads import BBoxHead
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    roi = model.roi_head
    extractors = _listed(roi.bbox_roi_extractor) + (
        _listed(roi.mask_roi_extractor) if roi.with_mask else []
    )
    masks = _listed(roi.mask_head) if roi.with_mask else []
    boxes = _listed(roi.bbox_head)
    parts = (
        _inherits(model, TwoStageDetector, 'predict', 'extract_feat'),
        type(model.rpn_head) is RPNHead,
        _predicts_as(roi, StandardRoIHead, '_bbox_forward', '_mask_forward')
        or _predicts_as(roi, CascadeRoIHead, '_bbox_forward', '_mask_forward', '_refine_roi'),
        not roi.with_shared_head,
        all(
            _inherits(
                head, BBoxHead, 'predict_by_feat', '_predict_by_feat_single', 'regress_by_class'
            )
            and not head.custom_cls_channels
            for head in boxes
        ),
        all(_inherits(head, FCNMaskHead, 'forward', 'predict_by_feat') for head in masks),
        all(type(extractor) is SingleRoIExtractor for extractor in extractors),
    )
    if not all(parts):
        found = (model, model.rpn_head, roi, *boxes[:1], *masks[:1], *extractors[:1])
        raise _refusal(
            'the parts of Faster, Mask or Cascade R-CNN',
            ', '.join(type(part).__name__ for part in found),
        )
    for layer in (layer for extractor in extractors for layer in extractor.roi_layers):
        if type(layer).__name__ != 'RoIAlign' or layer.pool_mode != 'avg':
            raise _refusal('RoIAlign with means', f'{layer}')
    _check_suppression(model.rpn_head.test_cfg, 'nms_pre', 'max_per_img')
    _check_suppression(roi.test_cfg, 'score_thr', 'max_per_img')


def _check_transformer(model: Any) -> None:
    from mmdet.models.dense_heads import DETRHead
    from mmdet.models.detectors import DABDETR, DETR, DINO, ConditionalDETR, DeformableDETR

    known = (DETR, ConditionalDETR, DABDETR, DeformableDETR, DINO)
    if type(model) not in known or not _inherits(
        model.bbox_head, DETRHead, '_predict_by_feat_single'
    ):
        raise _refusal(
            f'one of the detection transformers {", ".join(kind.__name__ for kind in known)}',
            f'{type(model).__name__} with {type(model.bbox_head).__name__}',
        )


def _check_suppression(cfg: Any, *numbers: str) -> None:
    """Refuse other ways to choose among boxes than by NMS, and without limits."""
    missing = [name for name in numbers if cfg.get(name, -1) is None or cfg.get(name, -1) < 0]
    if missing:
        raise _refusal(f'numbers for {", ".join(missing)} in test_cfg', f'{dict(cfg)}')
    nms = dict(cfg.nms)
    if nms.pop('type') != 'nms' or set(nms) != {'iou_threshold'}:
        raise _refusal("nms=dict(type='nms', iou_threshold=...) in test_cfg", f'{dict(cfg.nms)}')


def _inherits(module: Any, base: type, *names: str) -> bool:
    """Whether methods of a module are those of a class."""
    return isinstance(module, base) and all(
        getattr(type(module), name) is getattr(base, name) for name in names
    )


def _predicts_as(roi: Any, base: type, *names: str) -> bool:
    return _inherits(roi, base, 'predict', 'predict_bbox', 'predict_mask', *names)


def _listed(part: Any) -> list[Any]:
    return [*part] if isinstance(part, nn.ModuleList) else [part]
