"""faster-coco-eval and pycocotools give the same numbers."""

import gc
import json

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS, init_default_scope
from support.noisy_runs import evaluate, read_json

from convnext_backbones.evaluation import metrics as evaluation_metrics
from dev import compare_evaluators

IMAGES, FEW_IMAGES = 120, 20
TASKS = ('bbox', 'segm')


@pytest.fixture(scope='module')
def made():
    made = compare_evaluators.DetectionMaker(IMAGES)
    assert len(made.detections) > 30 * IMAGES
    assert any(annotation['iscrowd'] for annotation in made.ground_truth['annotations'])
    return made


@pytest.fixture(scope='module')
def reference(made) -> dict[str, np.ndarray]:
    """The twelve numbers of pycocotools for each task."""
    coco = compare_evaluators.COCOeval
    numbers = {
        task: compare_evaluators.evaluate(coco, made.ground_truth, made.detections, task)[0]
        for task in TASKS
    }
    assert all(((n > 0.3) & (n < 0.9)).all() for n in numbers.values())
    return numbers


@pytest.mark.parametrize('task', TASKS)
def test_fast_evaluation_gives_the_same_twelve_numbers(made, reference, task):
    fast = evaluation_metrics.fast_evaluator()
    numbers, _ = compare_evaluators.evaluate(fast, made.ground_truth, made.detections, task)
    assert len(numbers) == 12
    assert np.abs(numbers - reference[task]).max() < 1e-9


def test_fast_evaluation_needs_its_own_first_number(made, reference):
    """Images with more than 100 detections of a class tell the two definitions of AP apart."""
    from faster_coco_eval import COCOeval_faster as theirs

    numbers, _ = compare_evaluators.evaluate(theirs, made.ground_truth, made.detections, 'bbox')
    assert np.abs(numbers - reference['bbox'])[0] > 1e-5


@pytest.mark.parametrize('enabled', [True, False])
def test_garbage_is_collected_again_after_an_evaluation(monkeypatch, enabled):
    collects = [enabled]
    monkeypatch.setattr(gc, 'isenabled', lambda: collects[-1])
    monkeypatch.setattr(gc, 'disable', lambda: collects.append(False))
    monkeypatch.setattr(gc, 'enable', lambda: collects.append(True))

    def fail(self):
        assert collects[-1] is False
        raise ZeroDivisionError

    monkeypatch.setattr('faster_coco_eval.COCOeval_faster.evaluate', fail)
    with pytest.raises(ZeroDivisionError):
        evaluation_metrics.fast_evaluator()(None, None, 'bbox').evaluate()
    assert collects[-1] is enabled


@pytest.mark.slow
def test_the_comparison_of_a_thousand_images(capsys):
    compare_evaluators.main(['--rounds', '1'])
    lines = capsys.readouterr().out.splitlines()
    detections = int(lines[0].split()[4])
    assert lines[0].startswith('1000 images') and abs(detections - 34000) < 1000
    differences = [float(x.split()[-1]) for x in lines if x.startswith('largest difference')]
    assert len(differences) == 2 and max(differences) < 1e-9
    assert sum(line.startswith('time: pycocotools') for line in lines) == 2


def test_fast_metric_has_the_keys_and_values_of_mmdets(tmp_path, monkeypatch):
    from mmdet.evaluation.metrics import coco_metric

    made = compare_evaluators.DetectionMaker(FEW_IMAGES)
    ann_file = tmp_path / 'instances.json'
    ann_file.write_text(json.dumps(made.ground_truth))
    options = dict(ann_file=str(ann_file), metric=[*TASKS, 'proposal'], classwise=True)
    classes = tuple(c['name'] for c in made.ground_truth['categories'])
    init_default_scope('mmdet')

    def compute(**kwargs) -> dict[str, float]:
        metric = METRICS.build(kwargs | options)
        metric.dataset_meta = dict(classes=classes)
        metric.process({}, list(detected_samples(made)))
        return metric.evaluate(FEW_IMAGES)

    slow = compute(type='CocoMetric')
    assert {'coco/bbox_mAP', 'coco/segm_mAP_s', 'coco/AR@300', 'coco/class 1_precision'} <= {*slow}
    assert np.isnan(list(slow.values())).any()  # a class that is in no image
    for name in ('COCOeval', 'COCOevalMP'):
        monkeypatch.setattr(coco_metric, name, None)  # pycocotools is not to be used
    for use_mp_eval in (False, True):
        fast = compute(type='FastCocoMetric', use_mp_eval=use_mp_eval)
        assert list(slow) == list(fast)
        assert fast == pytest.approx(slow, abs=1e-9, nan_ok=True)


def detected_samples(made):
    """The generated detections in the form in which mmdet's detectors return theirs."""
    by_image = {image['id']: [] for image in made.ground_truth['images']}
    for detection in made.detections:
        by_image[detection['image_id']].append(detection)
    for image in made.ground_truth['images']:
        found = by_image[image['id']]
        boxes = torch.tensor([d['bbox'] for d in found], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # x, y, w, h -> x1, y1, x2, y2
        yield dict(
            img_id=image['id'],
            ori_shape=(image['height'], image['width']),
            pred_instances=dict(
                bboxes=boxes,
                scores=torch.tensor([d['score'] for d in found], dtype=torch.float64),
                labels=torch.tensor([d['category_id'] - 1 for d in found], dtype=torch.int64),
                masks=[d['segmentation'] for d in found],
            ),
        )


def test_fast_evaluation_of_kept_predictions(detected, tmp_path, monkeypatch):
    monkeypatch.chdir(detected.cwd)
    evaluate(detected.config, detected.dump, '--work-dir', tmp_path, '--fast-eval', '--classwise')
    metrics = read_json(tmp_path / 'metrics.json')
    assert 'coco/7_precision' in metrics
    assert metrics == {name: detected.metrics[name] for name in metrics}
