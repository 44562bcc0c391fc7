"""Exported detectors find what mmdet finds, with all that chooses boxes inside."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from support.exported_detectors import images, predicted, small_detector
from support.heads import assert_near, detector

from convnext_backbones.exporting import parity
from convnext_backbones.exporting.exportable import kind_of
from convnext_backbones.exporting.folder import EXAMPLE, READ_ME, Wanted, export
from convnext_backbones.exporting.graphs import make_graph
from convnext_backbones.inference.exported import FILES, RECORD, ExportedModel

# What mmcv and mmdet advise about the models here is not what is tested.
pytestmark = [
    pytest.mark.filterwarnings('ignore::UserWarning:mm(cv|det)'),
    pytest.mark.usefixtures('registered'),
]
DENSE = ['RetinaNet', 'FCOS', 'ATSS', 'GFL', 'DDOD', 'AutoAssign', 'FreeAnchor', 'YOLOF', 'RTMDet']
TWO_STAGE = ['Faster R-CNN', 'Dynamic R-CNN', 'Libra R-CNN', 'PAFPN']
TRANSFORMERS = ['DETR', 'Conditional DETR', 'DAB-DETR', 'Deformable DETR', 'DINO']


def with_few_layers(model):
    """A transformer whose export takes seconds."""
    for coder in (model.encoder, model.decoder):
        coder.layers = coder.layers[:1]
    return model


@torch.no_grad()
@pytest.mark.parametrize('name', DENSE + TWO_STAGE + TRANSFORMERS)
def test_boxes_are_those_of_mmdet(name):
    model, batch = small_detector(name), images()
    boxes, scores, labels = make_graph(model, 'model')(batch)
    for number, expected in enumerate(predicted(model, batch)):
        count = len(expected)
        assert count and (labels[number] >= 0).sum() == count
        assert torch.equal(labels[number, :count], expected.labels)
        assert_near(scores[number, :count], expected.scores)
        assert_near(boxes[number, :count], expected.bboxes)
        assert not boxes[number, count:].any() and not scores[number, count:].any()


@torch.no_grad()
@pytest.mark.parametrize('name', ['mask_rcnn', 'cascade_mask_rcnn'])
def test_masks_are_those_of_mmdet(name):
    model, batch = detector(name).eval(), images()
    boxes, scores, labels, masks = make_graph(model, 'model')(batch)
    padded = make_graph(model, 'model').images(batch)
    maps = model.extract_feat(padded)
    for number, expected in enumerate(predicted(model, batch)):
        count = len(expected)
        assert count == 8 and torch.equal(labels[number, :count], expected.labels)
        assert_near(scores[number, :count], expected.scores)
        assert_near(boxes[number, :count], expected.bboxes)
        assert masks[number].shape == (8, 28, 28)
    head = model.roi_head
    rois = torch.cat([torch.zeros(8, 1), boxes[0]], 1)
    stages = range(3) if name.startswith('cascade') else [None]
    found = []
    for stage in stages:
        forward = (maps, rois) if stage is None else (stage, maps, rois)
        found.append(head._mask_forward(*forward)['mask_preds'].sigmoid())
    mean = torch.stack(found).mean(0)[range(8), labels[0]]
    assert_near(masks[0], mean)


@pytest.mark.parametrize(
    ('build', 'format_', 'operators'),
    [
        (lambda: detector('mask_rcnn'), 'onnx', True),
        (lambda: small_detector('RetinaNet'), 'torch', True),
        (lambda: small_detector('RetinaNet'), 'openvino', True),
        (lambda: with_few_layers(small_detector('Deformable DETR')), 'onnx', False),
    ],
    ids=['mask_rcnn', 'retinanet-torch', 'retinanet-openvino', 'deformable_detr'],
)
def test_any_number_and_size_of_images(build, format_, operators, tmp_path):
    if format_ != 'torch':
        pytest.importorskip('openvino' if format_ == 'openvino' else 'onnxscript')
    model = build().eval()
    found = export(model, tmp_path / 'out', Wanted(format_))
    assert found.difference <= parity.TOLERANCE and found.detections == 0
    record = json.loads((tmp_path / 'out' / RECORD).read_text())
    assert record['operators'] == operators
    run, graph = ExportedModel(tmp_path / 'out'), make_graph(model, 'model')
    for number, size in ((1, (131, 200)), (3, (150, 210))):
        batch = images(number, size)
        again = parity.measure_detector(graph, run, [batch.numpy()])
        assert again.detections == 0
    if format_ == 'torch':
        assert record['smallest'] > 1
        with pytest.raises(ValueError, match='expected images of at least'):
            run(images(1, (32, 32)).numpy())
    if format_ == 'onnx':
        onnx = pytest.importorskip('onnx')
        nodes = onnx.load(tmp_path / 'out' / FILES['onnx']).graph.node
        assert {node.domain for node in nodes} <= {'', 'ai.onnx'}
    _repeat_the_example(tmp_path / 'out', format_)


def _repeat_the_example(folder, format_):
    """By the code of the README, in a process that does not know this package's sources."""
    code, *paste = re.findall(r'```python\n(.*?)```', (folder / READ_ME).read_text(), re.DOTALL)
    assert ('convnext' in code) == (format_ == 'torch')
    done = subprocess.run(
        [sys.executable, '-I', '-c', code], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) <= 1e-3  # pixels
    example = np.load(folder / EXAMPLE)
    assert set(example) == {'image', 'boxes', 'scores', 'labels', *(['masks'] if paste else [])}


def test_masks_are_pasted_as_mmdet_does():
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    from convnext_backbones.exporting.read_me import PASTE

    (code,) = re.findall(r'```python\n(.*?)```', PASTE, re.DOTALL)
    names = {'np': np}
    exec(code, names)
    mask = torch.rand(1, 28, 28)
    box = torch.tensor([[10.3, -4.0, 61.7, 55.5]])
    expected = _do_paste_mask(mask[:, None], box, 60, 80, skip_empty=False)[0][0]
    found = names['paste'](mask[0].numpy(), box[0].numpy(), 60, 80)
    assert found.shape == (60, 80) and (found != (expected >= 0.5).numpy()).mean() < 1e-3


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('HTC', 'the parts of Faster, Mask or Cascade R-CNN .* HybridTaskCascadeRoIHead'),
        ('YOLOX', 'a head that predicts boxes as RetinaNet, .* got YOLOX with YOLOXHead'),
        ('FSAF', 'one of the box coders .* got TBLRBBoxCoder'),
        ('DDQ', 'one of the detection transformers .* got DDQDETR'),
        ('Mask2Former', 'got Mask2Former'),
    ],
)
def test_other_detectors_are_refused(name, message):
    model = small_detector(name)
    with pytest.raises(ValueError, match=f'{message}.* --part backbone'):
        kind_of(model)
    make_graph(model, 'backbone')


def test_other_ways_to_choose_boxes_are_refused():
    model = detector()
    model.roi_head.test_cfg.nms = dict(type='soft_nms', iou_threshold=0.5)
    with pytest.raises(ValueError, match="expected nms=dict.type='nms', .* 'soft_nms'"):
        kind_of(model)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = small_detector('RetinaNet')
    del model.bbox_head.test_cfg['nms_pre']
    with pytest.raises(ValueError, match='expected numbers for nms_pre in test_cfg'):
        kind_of(model)
