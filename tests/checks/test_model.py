"""The comparison of heads with the classes of the data."""

import pytest

from convnext_backbones.checks import model as checks_model
from convnext_backbones.checks.findings import ERROR
from convnext_backbones.checks.preflight import find_problems
from convnext_backbones.engine.build import build_on_meta


def test_heads_for_other_classes(det):
    det.model.roi_head.bbox_head.num_classes = 80
    (finding,) = find_problems(det, thorough=False)  # of both splits, once each
    assert finding.level == ERROR and finding.where == 'model'
    assert finding.examples == ('roi_head.bbox_head: 80',)
    assert 'num_classes=2' in finding.fix


def test_every_head_of_a_list(det, seg):
    roi_head = det.model.roi_head
    roi_head.update(type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1, 0.5])
    roi_head.bbox_head = [roi_head.bbox_head, dict(roi_head.bbox_head, num_classes=3)]
    det.model.type = 'CascadeRCNN'
    det.model.train_cfg.rcnn = [det.model.train_cfg.rcnn] * 2
    heads = dict(checks_model.classifying_heads(build_on_meta(det)))
    assert heads == {
        'roi_head.bbox_head.0': 2,
        'roi_head.bbox_head.1': 3,
        'roi_head.mask_head.0': 2,
        'roi_head.mask_head.1': 2,
    }
    seg.model.auxiliary_head = [dict(seg.model.auxiliary_head, num_classes=5)]
    heads = dict(checks_model.classifying_heads(build_on_meta(seg)))
    assert heads == {'decode_head': 2, 'auxiliary_head.0': 5}


@pytest.mark.parametrize('classes', ['cat', None])
def test_classes_that_are_no_list(det, classes):
    det.val_dataloader.dataset.metainfo = dict(classes=classes)
    finding = find_problems(det, thorough=False)[0]
    assert (finding.level, finding.where) == (ERROR, 'val_dataloader.dataset.metainfo')
    assert f'got {classes!r}' in finding.what and 'comma' in finding.fix


def test_classes_that_differ_between_splits(det, coco):
    for category, name in zip(coco.content['val']['categories'], ('cow', 'dog'), strict=True):
        category['name'] = name
    coco.config()
    det.val_dataloader.dataset.metainfo = dict(classes=('cow', 'dog'))
    (finding,) = find_problems(det, thorough=False)
    assert (finding.level, finding.where) == (ERROR, 'val_dataloader.dataset.metainfo')
    assert "'cow', 'dog' other than those of train_dataloader.dataset" in finding.what
