"""Exported models in mmseg's own surroundings: windows, resizing, label maps."""

import json

import numpy as np
import pytest
import torch
from mmseg.structures import SegDataSample
from support.exported import CLASSES, named
from support.heads import assert_near, detector, segmentor

from convnext_backbones.exporting.folder import Wanted, export
from convnext_backbones.inference import exported as module
from convnext_backbones.inference.exported import (
    RECORD,
    ExportedModel,
    exported_model,
    is_exported,
)

# What mmcv and mmseg advise about the models here is not what is tested.
pytestmark = [
    pytest.mark.filterwarnings('ignore::UserWarning:mm(cv|seg)'),
    pytest.mark.usefixtures('registered'),
]


@pytest.fixture(scope='module')
def original(registered):
    return named(segmentor())


@pytest.fixture(scope='module')
def folder(original, tmp_path_factory):
    path = tmp_path_factory.mktemp('exported') / 'model'
    export(original, path, Wanted('torch'))  # which needs no other package
    return path


@torch.no_grad()
@pytest.mark.parametrize(
    'test_cfg',
    [dict(mode='whole'), dict(mode='slide', crop_size=(64, 80), stride=(48, 50))],
    ids=['whole', 'slide'],
)
def test_predictions_are_those_of_the_original(original, folder, test_cfg):
    model = segmentor(test_cfg=test_cfg).eval()
    model.load_state_dict(original.state_dict())
    fast = exported_model(segmentor(test_cfg=test_cfg), folder)
    assert not any(True for _ in fast.parameters())
    images = [torch.randint(0, 256, (3, 90, 110), dtype=torch.uint8) for _ in range(2)]
    sizes = dict(img_shape=(90, 110), pad_shape=(90, 110), ori_shape=(135, 165))
    samples = [SegDataSample(metainfo=sizes) for _ in images]
    given = dict(inputs=images, data_samples=samples)
    expected = [sample.clone() for sample in model.test_step(given)]
    for a, b in zip(fast.test_step(given), expected, strict=True):
        assert_near(a.seg_logits.data, b.seg_logits.data)
        assert torch.equal(a.pred_sem_seg.data, b.pred_sem_seg.data)
    assert fast.dataset_meta['classes'] == list(CLASSES)


def test_what_is_no_exported_model(folder, tmp_path):
    assert is_exported(str(folder))
    assert not is_exported(str(tmp_path)) and not is_exported('convnext_tiny_1k_224')
    record = json.loads((folder / RECORD).read_text())
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(FileNotFoundError, match='expected the model'):
        ExportedModel(tmp_path)
    for text in ('{', '[]', '{"format": "onnx"}', '{"format": "tflite", "outputs": []}'):
        (tmp_path / RECORD).write_text(text)
        with pytest.raises(ValueError, match='expected .*config.json'):
            ExportedModel(tmp_path)


def test_models_that_do_not_fit_the_config(folder, original, tmp_path, monkeypatch):
    with pytest.raises(
        ValueError,
        match='outputs boxes, masks, as the MaskRCNN .* got one with log',
    ):
        exported_model(detector(), folder)
    with pytest.raises(ValueError, match='of 7 classes, as the config says, got 5'):
        exported_model(segmentor(decode_head=dict(num_classes=7)), folder)
    export(original, tmp_path / 'backbone', Wanted('torch', 'backbone'))
    with pytest.raises(ValueError, match='the outputs logits, .* got one with map0, map1'):
        exported_model(original, tmp_path / 'backbone')
    monkeypatch.setitem(module.RUNTIMES, 'torch', 'no_such_package')
    with pytest.raises(ValueError, match='expected no_such_package to run'):
        ExportedModel(folder)


def test_images_are_floats_in_any_layout(folder):
    model = ExportedModel(folder)
    image = np.random.default_rng(0).integers(0, 256, (66, 80, 3), dtype=np.uint8)
    found = model(image.transpose(2, 0, 1)[None])
    smallest = model.record['smallest']
    assert 1 < smallest <= 66
    with pytest.raises(ValueError, match=f'at least {smallest} x {smallest} .* got 80 x 31'):
        model(image[:31].transpose(2, 0, 1)[None])
    same = model(image.transpose(2, 0, 1)[None].astype(np.float32))
    assert (found['labels'] == same['labels']).all() and found['labels'].shape == (1, 66, 80)
