"""Exported detectors in mmdet's own surroundings: resizing, boxes and masks of the image."""

import copy

import pytest
import torch
from mmdet.utils import register_all_modules
from support.heads import CLASSES, assert_near, detection_batch, detector

from convnext_backbones.exporting.folder import Wanted, export
from convnext_backbones.inference.exported import exported_model

# What mmcv and mmdet advise about the models here is not what is tested.
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:mm(cv|det)')
SIZE = (160, 200)


@pytest.fixture(scope='module')
def original():
    register_all_modules(init_default_scope=False)
    model = detector().eval()
    model.dataset_meta = dict(classes=[f'class {i}' for i in range(CLASSES)], palette=[[1, 2, 3]])
    return model


@pytest.fixture(scope='module')
def folder(original, tmp_path_factory):
    path = tmp_path_factory.mktemp('exported') / 'model'
    export(original, path, Wanted('torch'))  # which needs no other package
    return path


def test_predictions_are_those_of_the_original(original, folder):
    fast = exported_model(detector(), folder)
    batch = detection_batch(2, SIZE)
    for sample in batch['data_samples']:
        sample.set_metainfo(dict(ori_shape=(80, 100), scale_factor=(2.0, 2.0)))
    expected = original.test_step(copy.deepcopy(batch))
    for a, b in zip(fast.test_step(copy.deepcopy(batch)), expected, strict=True):
        a, b = a.pred_instances, b.pred_instances
        assert len(a) == len(b) == 8 and torch.equal(a.labels, b.labels)
        assert_near(a.bboxes, b.bboxes)
        assert_near(a.scores, b.scores)
        assert a.masks.shape == b.masks.shape == (8, 80, 100)
        assert (a.masks != b.masks).float().mean() < 1e-3
    assert fast.with_mask and fast.test_cfg == original.test_cfg
    assert fast.dataset_meta['classes'] == original.dataset_meta['classes']


def test_an_image_without_detections(original, folder):
    fast = exported_model(detector(), folder)
    whole = fast.exported
    fast.exported = lambda images: {
        name: value - 1e6 if name == 'labels' else value for name, value in whole(images).items()
    }
    sample = fast.test_step(detection_batch(1, SIZE))[0]
    assert len(sample.pred_instances) == 0 and sample.pred_instances.masks.shape == (0, 60, 80)


def test_only_predictions_can_be_asked_for(folder):
    fast = exported_model(detector(), folder)
    batch = detection_batch(1, SIZE)
    for mode in ('loss', 'tensor'):
        with pytest.raises(TypeError, match='expected only predictions of an exported model'):
            fast(**batch, mode=mode)


def test_other_classes_are_refused(folder):
    model = detector()
    model.roi_head.bbox_head.num_classes = 7
    with pytest.raises(ValueError, match='of 7 classes, as the config says, got 5'):
        exported_model(model, folder)
