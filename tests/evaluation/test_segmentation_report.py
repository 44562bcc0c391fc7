"""The report of a segmentor has the evaluator's numbers, and is made from kept predictions."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, DefaultScope
from support.noisy_runs import read_json

from convnext_backbones.config.loading import load_run_config
from convnext_backbones.evaluation.predictions import read_predictions
from convnext_backbones.evaluation.segmentation_report import (
    iou_options,
    write_segmentation_report,
)


def parts(online, **overrides):
    """Config, dataset and records of a run."""
    cfg = load_run_config(online.config, overrides)
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    return cfg, dataset, read_predictions(str(online.dump))['images']


def write(online, path: Path, **overrides) -> str:
    write_segmentation_report(*parts(online, **overrides), online.metrics, path)
    return path.read_text()


def facts(page: str) -> dict[str, str]:
    return dict(re.findall(r'<dt>(.*?)</dt><dd>(.*?)</dd>', page))


def test_numbers_are_those_of_the_evaluator(segmented, tmp_path, monkeypatch):
    monkeypatch.chdir(segmented.cwd)
    page = write(segmented, tmp_path / 'report.html')
    summary = facts(page)
    for name in ('aAcc', 'mIoU', 'mAcc'):
        assert float(summary[name]) == pytest.approx(segmented.metrics[name], rel=1e-5)
    assert summary['images'] == '3' and 'data_time' not in summary
    rows = dict(reversed(re.findall(r'<tr data-class="([^"]+)">(.*?)</tr>', page, re.S)))
    checked = 0
    for row in read_json(segmented.work_dir / 'per_class.json'):
        values = re.findall(r'data-value="([^"]+)"', rows[row['class']])
        written = [value for value in (row['IoU'], row['Acc']) if value is not None]
        numbers = [float(value) for value in values[: len(written)]]
        assert numbers == pytest.approx(written, abs=1e-3)
        checked += len(written)
    assert checked > 11


def test_images_are_shown_beside_truth_and_prediction(segmented, tmp_path, monkeypatch):
    monkeypatch.chdir(segmented.cwd)
    page = write(segmented, tmp_path / 'report.html')
    assert page.count('<img') == 3 * 4
    for name in ('000001.jpg', '000002.jpg', '000003.jpg'):
        assert f'alt="{name}: truth"' in page


def test_an_image_that_is_gone_gets_a_sentence(segmented, tmp_path, monkeypatch):
    monkeypatch.chdir(segmented.cwd)
    cfg, dataset, records = parts(segmented)
    get_data_info = dataset.get_data_info

    def elsewhere(index):
        return get_data_info(index) | (dict(img_path='gone/000001.jpg') if index == 0 else {})

    monkeypatch.setattr(dataset, 'get_data_info', elsewhere)
    path = tmp_path / 'report.html'
    write_segmentation_report(cfg, dataset, records, segmented.metrics, path)
    assert 'cannot read the image &#39;gone/000001.jpg&#39;' in path.read_text()
    assert path.read_text().count('<img') == 3 * 4 - 1


def test_truth_of_a_test_with_augmentation(segmented, tmp_path, monkeypatch):
    monkeypatch.chdir(segmented.cwd)
    cfg, dataset, records = parts(segmented)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    write_segmentation_report(cfg, dataset, records, {}, tmp_path / 'report.html')
    assert facts((tmp_path / 'report.html').read_text())['images'] == '3'


def test_predictions_in_another_order_are_refused(segmented, tmp_path, monkeypatch):
    monkeypatch.chdir(segmented.cwd)
    cfg, dataset, records = parts(segmented)
    with pytest.raises(ValueError, match='the 3 images of the test data in their order'):
        write_segmentation_report(cfg, dataset, records[::-1], {}, tmp_path / 'report.html')
    assert not any(tmp_path.iterdir())


def test_options_of_the_metric_are_used(segmented, tmp_path, monkeypatch):
    monkeypatch.chdir(segmented.cwd)
    cfg, *_ = parts(segmented)
    cfg.test_evaluator = dict(type='PerClassIoUMetric', ignore_index=0, nan_to_num=0)
    assert iou_options(cfg) == dict(ignore_index=0, nan_to_num=0)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'test_evaluator.format_only': True}, 'compares with true label maps'),
        ({'test_evaluator.type': 'CityscapesMetric'}, 'expected an IoUMetric'),
    ],
)
def test_without_truth_there_is_no_report(change, message, segmented, tmp_path, monkeypatch):
    monkeypatch.chdir(segmented.cwd)
    with pytest.raises(ValueError, match=message) as caught:
        write(segmented, tmp_path / 'report.html', **change)
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'report.html').exists()


def test_test_data_without_label_maps_get_no_report(segmented, tmp_path, monkeypatch):
    monkeypatch.chdir(segmented.cwd)
    cfg, dataset, records = parts(segmented)
    prefix = dict(img_path=cfg.test_dataloader.dataset.data_prefix.img_path)
    cfg.test_dataloader.dataset.data_prefix = prefix
    with DefaultScope.overwrite_default_scope('mmseg'):
        images_only = DATASETS.build(cfg.test_dataloader.dataset)
    with pytest.raises(ValueError, match='found images only; set data_prefix.seg_map_path'):
        write_segmentation_report(cfg, images_only, records, {}, tmp_path / 'report.html')


def test_predictions_of_another_size_are_refused(segmented, tmp_path, monkeypatch):
    monkeypatch.chdir(segmented.cwd)
    cfg, dataset, records = parts(segmented)
    _, image = cv2.imencode('.png', np.zeros((96, 95), np.uint8))
    records[1] = dict(records[1], labels=torch.from_numpy(image))
    with pytest.raises(ValueError, match=r'shape \(96, 96\) for 000002.jpg, got one of'):
        write_segmentation_report(cfg, dataset, records, {}, tmp_path / 'report.html')
