"""What the evaluation fails at is found: each variant of a file, evaluated by the real metrics."""

import copy
import json

import numpy as np
import pytest
from mmdet.evaluation.metrics import CocoMetric
from pycocotools import mask as masks
from support.datasets import CLASSES, HEIGHT, WIDTH, check_files

from convnext_backbones.checks.coco_evaluation import check_evaluation
from convnext_backbones.checks.findings import ERROR, WARNING
from convnext_backbones.evaluation.fast_coco import FastCocoMetric

SQUARE = [5, 6, 15, 6, 15, 14, 5, 14]
ABSENT = object()
# What is done to the second annotation. NaN in a polygon, which the check of datasets refuses, ends
# the process in pycocotools.
VARIANTS = {
    'healthy': {},
    'no iscrowd': dict(iscrowd=ABSENT),
    'iscrowd of null': dict(iscrowd=None),
    'a crowd': dict(iscrowd=1),
    'no segmentation': dict(segmentation=ABSENT),
    'null': dict(segmentation=None),
    'text': dict(segmentation='abc'),
    'no polygon': dict(segmentation=[]),
    'empty polygon': dict(segmentation=[[]]),
    'one point': dict(segmentation=[[1, 2]]),
    'two points': dict(segmentation=[[5.0, 6.0, 15.0, 14.0]]),
    'two points first': dict(segmentation=[[1.0, 2.0, 3.0, 4.0], SQUARE]),
    'two points later': dict(segmentation=[SQUARE, [1.0, 2.0, 3.0, 4.0]]),
    'half a point': dict(segmentation=[SQUARE[:7]]),
    'a flat list': dict(segmentation=SQUARE),
    'pairs': dict(segmentation=[[[5, 6], [15, 6], [15, 14]]]),
    'a line': dict(segmentation=[[5, 6, 15, 6, 9, 6]]),
    'runs': dict(segmentation=dict(size=[HEIGHT, WIDTH], counts=[600, 100, 500])),
    'runs of floats': dict(segmentation=dict(size=[HEIGHT, WIDTH], counts=[600.0, 100.0, 500.0])),
    'runs without a size': dict(segmentation=dict(counts=[600, 100, 500])),
}


def broken(content: dict, changes: dict) -> dict:
    content = copy.deepcopy(content)
    entry = content['annotations'][1]
    for key, value in changes.items():
        entry[key] = value
        if value is ABSENT:
            del entry[key]
    return content


def evaluate(kind: type, path, metric: str, images: list[dict], folder) -> float:
    """Mean AP of predictions that are the healthy annotations."""
    computed = kind(ann_file=str(path), metric=metric, outfile_prefix=str(folder / 'results'))
    computed.dataset_meta = dict(classes=CLASSES)
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order='F')
    pixels[6:14, 5:15] = 1
    for image in images:
        found = dict(
            img_id=image['id'],
            bboxes=np.array([[5, 6, 15, 14]]),
            scores=np.array([0.9]),
            labels=np.array([image['id'] % 2]),
            masks=[masks.encode(pixels)],
        )
        computed.results.append((dict(img_id=image['id'], width=WIDTH, height=HEIGHT), found))
    return computed.compute_metrics(computed.results)[f'{metric}_mAP']


def findings_on(coco, path, metric: str, name: str) -> list:
    cfg = coco.config()
    cfg.val_evaluator = dict(type=name, ann_file=str(path), metric=[metric])
    return [*check_evaluation(cfg, 'val')]


@pytest.mark.parametrize('metric', ['bbox', 'segm'])
@pytest.mark.parametrize('kind', [CocoMetric, FastCocoMetric])
@pytest.mark.parametrize('name', VARIANTS)
def test_the_check_knows_what_the_metric_fails_at(name, kind, metric, coco, tmp_path):
    content = broken(coco.content['val'], VARIANTS[name])
    path = tmp_path / 'broken.json'
    path.write_text(json.dumps(content))
    findings = findings_on(coco, path, metric, f'mmdet.{kind.__name__}')
    try:
        evaluate(kind, path, metric, content['images'], tmp_path)
    except Exception as error:
        assert [finding.level for finding in findings] == [ERROR], (findings, error)
        assert findings[0].where == str(path) and findings[0].count == 1
    else:
        assert not findings


def test_an_annotation_of_the_id_0_counts_as_missed(coco, tmp_path):
    content = broken(coco.content['val'], dict(id=0))
    path = tmp_path / 'broken.json'
    path.write_text(json.dumps(content))
    assert evaluate(CocoMetric, path, 'bbox', content['images'], tmp_path) < 0.6
    (finding,) = findings_on(coco, path, 'bbox', 'CocoMetric')
    assert finding.level == WARNING and finding.examples == ('annotation 0',)


@pytest.mark.parametrize('number', [-1, 10**30, 'x'])
def test_annotation_ids_with_which_the_fast_evaluation_counts_wrongly(number, coco, tmp_path):
    content = broken(coco.content['val'], dict(id=number))
    path = tmp_path / 'broken.json'
    path.write_text(json.dumps(content))
    assert evaluate(FastCocoMetric, path, 'bbox', content['images'], tmp_path) < 0.6
    (finding,) = findings_on(coco, path, 'bbox', 'FastCocoMetric')
    assert finding.examples == (f'annotation {number}',)
    is_text = isinstance(number, str)
    assert bool(findings_on(coco, path, 'bbox', 'CocoMetric')) == is_text


@pytest.mark.parametrize('key', ['images', 'categories'])
def test_text_as_id_of_images_and_categories(key, coco, tmp_path):
    content = copy.deepcopy(coco.content['val'])
    reference = dict(images='image_id', categories='category_id')[key]
    for entry in content[key]:
        entry['id'] = str(entry['id'])
    for entry in content['annotations']:
        entry[reference] = str(entry[reference])
    path = tmp_path / 'broken.json'
    path.write_text(json.dumps(content))
    (finding,) = findings_on(coco, path, 'bbox', 'FastCocoMetric')
    assert finding.level == ERROR and finding.count == len(content[key])
    assert not findings_on(coco, path, 'bbox', 'CocoMetric')


def test_sizes_that_are_no_integers(coco, tmp_path):
    content = copy.deepcopy(coco.content['val'])
    content['images'][1]['width'] = float(WIDTH)
    path = tmp_path / 'broken.json'
    path.write_text(json.dumps(content))
    with pytest.raises(TypeError):
        evaluate(FastCocoMetric, path, 'segm', content['images'], tmp_path)
    (finding,) = findings_on(coco, path, 'segm', 'FastCocoMetric')
    assert finding.level == ERROR and finding.examples == ('image 2',)
    assert not findings_on(coco, path, 'segm', 'CocoMetric')
    assert not findings_on(coco, path, 'bbox', 'FastCocoMetric')


def test_the_check_of_a_config_includes_it(coco):
    coco.content['val']['annotations'][1]['segmentation'] = [[1, 2, 3, 4]]
    cfg = coco.config()
    path = str(coco.folder / 'val.json')
    cfg.val_evaluator = dict(type='CocoMetric', ann_file=path, metric=['bbox', 'segm'])
    errors = [finding for finding in check_files(cfg) if finding.level == ERROR]
    assert [finding.entry for finding in errors] == ['val_evaluator']


def test_other_metrics_and_absent_files_are_left_alone(coco):
    cfg = coco.config()
    cfg.val_evaluator = [dict(type='CocoPanopticMetric', ann_file='a'), dict(type='CocoMetric')]
    assert not [*check_evaluation(cfg, 'val')] and not [*check_evaluation(cfg, 'test')]
    cfg.val_evaluator = dict(type='CocoMetric', ann_file='none.json')
    assert not [*check_evaluation(cfg, 'val')]
