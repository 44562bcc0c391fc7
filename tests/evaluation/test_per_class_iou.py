"""mmseg's metrics are written for each class."""

import csv

import cv2
import numpy as np
import pytest
from support.noisy_models import noisy_labels
from support.noisy_runs import read_json


def test_segmentors_get_a_table_of_classes(segmented):
    classes = ('background', *'0123456789')
    counts = np.zeros((11, 11), int)  # true class, predicted class
    for path in (segmented.cwd / 'data/sample/ade20k/annotations/validation').iterdir():
        truth = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(int) - 1
        truth[truth < 0] = 255
        labels = noisy_labels(truth, f'{path.stem}.jpg')
        np.add.at(counts, (truth[truth < 255], labels[truth < 255]), 1)
    hits, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    assert 0 in true and 0 in true + predicted - hits  # a class that is in no image
    with np.errstate(invalid='ignore'):
        iou, accuracy = 100 * hits / (true + predicted - hits), 100 * hits / true

    rows = read_json(segmented.work_dir / 'per_class.json')
    assert [row['class'] for row in rows] == list(classes)
    for column, expected in (('IoU', iou), ('Acc', accuracy)):
        written = [np.nan if row[column] is None else row[column] for row in rows]
        assert written == pytest.approx(expected, abs=1e-3, nan_ok=True)
        assert segmented.metrics[f'm{column}'] == pytest.approx(np.nanmean(expected), abs=0.006)
    assert segmented.metrics['aAcc'] == pytest.approx(100 * hits.sum() / true.sum(), abs=0.006)
    with open(segmented.work_dir / 'per_class.csv', newline='') as file:
        table = list(csv.DictReader(file))
    assert table == [{k: '' if v is None else str(v) for k, v in row.items()} for row in rows]
