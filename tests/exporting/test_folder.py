"""A folder with model, description, example, and code that runs."""

import json

import numpy as np
import pytest
from support.exported import CLASSES, named
from support.heads import segmentor

from convnext_backbones.exporting import parity
from convnext_backbones.exporting.folder import EXAMPLE, Wanted, export
from convnext_backbones.inference.exported import RECORD

# What mmcv and mmseg advise about the models here is not what is tested.
pytestmark = [
    pytest.mark.filterwarnings('ignore::UserWarning:mm(cv|seg)'),
    pytest.mark.usefixtures('registered'),
]


def test_the_record_is_plain_data(exported, original):
    record = json.loads((exported() / RECORD).read_text())
    assert record['classes'] == list(CLASSES) and len(record['palette']) == len(CLASSES)
    assert record['mean'] == pytest.approx(original.data_preprocessor.mean.flatten().tolist())
    assert record['std'] == pytest.approx(original.data_preprocessor.std.flatten().tolist())
    assert record['outputs'] == ['logits', 'labels'] and record['num_classes'] == len(CLASSES)
    assert record['input']['shape'] == ['batch', 3, 'height', 'width']
    assert record['parity']['difference'] <= parity.TOLERANCE
    example = np.load(exported() / EXAMPLE)
    assert example['image'].dtype == np.uint8 and example['labels'].shape == (128, 192)


def test_a_folder_with_files_is_left_alone(tmp_path, original):
    (tmp_path / 'mine').write_text('mine')
    with pytest.raises(ValueError, match='a new or an empty folder'):
        export(original, tmp_path, Wanted('torch'))
    assert [path.name for path in tmp_path.iterdir()] == ['mine']


def test_nothing_is_left_of_a_model_that_differs(tmp_path, monkeypatch):
    monkeypatch.setattr(parity, 'TOLERANCE', -1.0)
    with pytest.raises(ValueError, match='the exported model is not used'):
        export(named(segmentor()), tmp_path / 'out', Wanted('torch', 'backbone'))
    assert not any(tmp_path.iterdir())
