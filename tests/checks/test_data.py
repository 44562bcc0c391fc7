"""The choice of the check for each dataset, and comparisons between splits."""

from mmengine.config import ConfigDict
from support.datasets import (
    check_files,
)

from convnext_backbones.checks.findings import WARNING


def test_healthy_data_have_no_finding(coco, maps):
    assert check_files(coco.config()) == check_files(maps.config()) == []


def test_splits_that_share_images(coco):
    cfg = coco.config()
    cfg.val_dataloader.dataset.data_prefix.img = 'train/'
    (finding,) = check_files(cfg)
    assert finding.level == WARNING and finding.where == 'val_dataloader'
    assert finding.count == 3 and finding.examples[1] == str(coco.folder / 'train/2.jpg')


def test_metrics_from_another_file(coco):
    cfg = coco.config()
    cfg.val_evaluator = [dict(type='CocoMetric', ann_file=str(coco.folder / 'train.json'))]
    (finding,) = check_files(cfg)
    assert (finding.level, finding.where) == (WARNING, 'val_evaluator')
    cfg.val_evaluator[0].ann_file = str(coco.folder / 'val.json')
    assert check_files(cfg) == []


def test_other_layouts_are_said_not_to_be_checked(coco):
    cfg = coco.config()
    dataset = dict(type='VOCDataset', data_root=str(coco.folder), ann_file='none.txt')
    cfg.train_dataloader.dataset = ConfigDict(dataset, data_prefix=dict(sub_data_root='VOC2007/'))
    (finding,) = check_files(cfg)
    assert finding.level == WARNING and 'VOCDataset' in finding.what
    cfg = coco.config(backend_args=dict(backend='petrel'))
    assert {finding.level for finding in check_files(cfg)} == {WARNING}
