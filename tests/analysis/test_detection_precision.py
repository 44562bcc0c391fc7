"""The numbers of mmdet's CocoMetric."""

import json

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS, DefaultScope
from support.detection_images import image, made_images

from convnext_backbones.analysis.detection_precision import measure_precision
from convnext_backbones.evaluation.metrics import fast_evaluator
from dev.compare_evaluators import CLASSES, DetectionMaker

IMAGES = 30
TASKS = ('bbox', 'segm')


@pytest.fixture(scope='module')
def made() -> DetectionMaker:
    made = DetectionMaker(IMAGES)
    assert any(annotation['iscrowd'] for annotation in made.ground_truth['annotations'])
    return made


@pytest.fixture(scope='module')
def reference(made, tmp_path_factory) -> dict[str, float]:
    """What CocoMetric returns for the generated detections."""
    ann_file = tmp_path_factory.mktemp('coco') / 'instances.json'
    ann_file.write_text(json.dumps(made.ground_truth))
    with DefaultScope.overwrite_default_scope('mmdet'):
        metric = METRICS.build(
            dict(type='CocoMetric', ann_file=str(ann_file), metric=[*TASKS], classwise=True)
        )
    metric.dataset_meta = dict(classes=[c['name'] for c in made.ground_truth['categories']])
    for entry, one in zip(made.ground_truth['images'], made_images(made), strict=True):
        boxes = torch.from_numpy(one.found.boxes).clone()
        boxes[:, 2:] += boxes[:, :2]
        found = dict(
            bboxes=boxes,
            scores=torch.from_numpy(one.found.scores),
            labels=torch.from_numpy(one.found.labels),
            masks=[dict(mask) for mask in one.found.masks],
        )
        metric.process({}, [dict(img_id=entry['id'], ori_shape=one.size, pred_instances=found)])
    return {name.removeprefix('coco/'): v for name, v in metric.evaluate(IMAGES).items()}


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('fast', [False, True], ids=['pycocotools', 'faster-coco-eval'])
def test_the_numbers_are_those_of_coco_metric(made, reference, task, fast):
    options = dict(evaluator=fast_evaluator()) if fast else {}
    measured = measure_precision(made_images(made), CLASSES, task, **options)
    for name in ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l'):
        assert round(measured.statistics[name], 3) == reference[f'{task}_{name}'], name
        assert 0.3 < measured.statistics[name] < 0.9
    if task == 'segm':  # CocoMetric keeps the numbers by class of its last task
        expected = [reference[f'class {i + 1}_precision'] for i in range(CLASSES)]
        assert np.isnan(expected).any()  # a class that is in no image
        np.testing.assert_array_equal(measured.by_class[:, 0].round(3), expected)
    counted = ~np.isnan(measured.by_class[:, 1])
    assert measured.by_class[counted, 1].mean() == pytest.approx(measured.statistics['mAP_50'])


def test_curves_are_those_that_ap_averages(made):
    measured = measure_precision(made_images(made), CLASSES)
    for iou, column in ((0.5, 1), (0.75, 2)):
        curves = measured.curves(iou)
        assert curves.shape == (CLASSES, 101)
        np.testing.assert_allclose(curves.mean(1), measured.by_class[:, column])
        assert (np.diff(curves[~np.isnan(curves[:, 0])], axis=1) <= 1e-12).all()
    assert measured.curves(0.42) is None


def test_other_iou_thresholds(made):
    measured = measure_precision(made_images(made), CLASSES, iou_thresholds=[0.5])
    # The first number is of at most 100 detections of a class in an image, the second of 1000.
    assert measured.statistics['mAP'] == pytest.approx(measured.statistics['mAP_50'], abs=1e-3)
    assert measured.statistics['mAP'] == pytest.approx(
        np.nanmean(measured.by_class[:, 1]), abs=1e-3
    )
    assert measured.statistics['mAP_75'] is None
    assert np.isnan(measured.by_class[:, 2]).all()
    assert measured.curves(0.75) is None


def test_nothing_to_find_is_none_and_nothing_found_is_zero():
    measured = measure_precision([image([(0, 10, 10, 20, 20)])], 2)
    assert measured.statistics['mAP'] == measured.statistics['mAP_s'] == 0
    assert measured.statistics['mAP_l'] is None
    assert measured.by_class[0, 0] == 0 and np.isnan(measured.by_class[1]).all()
    nothing = measure_precision([image([], [(0, 10, 10, 20, 20, 0.5)])], 2)
    assert set(nothing.statistics.values()) == {None}


def test_masks_may_have_scores_of_their_own(made):
    images = made_images(made)
    turned = [
        one.__class__(**{**vars(one), 'found': one.found.__class__(
            **{**vars(one.found), 'mask_scores': 1 - one.found.scores}
        )})
        for one in images
    ]  # fmt: skip
    numbers = [
        measure_precision(x, CLASSES, task).statistics['mAP']
        for task in TASKS
        for x in (images, turned)
    ]
    assert numbers[0] == numbers[1] and numbers[2] > 2 * numbers[3]


def test_the_annotation_id_0_is_no_match_as_in_pycocotools():
    one = image([(0, 10, 10, 20, 20)], [(0, 10, 10, 20, 20, 0.5)])
    zero = one.__class__(
        **{**vars(one), 'truth': one.truth.__class__(**{**vars(one.truth), 'ids': [0]})}
    )
    assert measure_precision([one], 1).statistics['mAP'] == pytest.approx(1)
    assert measure_precision([zero], 1).statistics['mAP'] == 0
