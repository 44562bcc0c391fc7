"""Numbers of label maps equal those of mmseg's IoUMetric and of hand-made cases."""

import math

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

from convnext_backbones.analysis import segmentation_boundaries as boundaries
from convnext_backbones.analysis.segmentation_choice import (
    OF_CLASS,
    choose_images,
    largest_confusions,
    rank_images,
)
from convnext_backbones.analysis.segmentations import GRID, SegmentationCounter

CLASSES = tuple('abcdefg')


def random_pairs(count=4, classes=5, shape=(37, 53)):
    """Blocks of random labels with unlabeled pixels; classes above ``classes`` do not occur."""
    rng = np.random.default_rng(3)
    pairs = []
    for _ in range(count):
        truth = cv2.resize(
            rng.integers(0, classes, (5, 7), np.uint8), shape[::-1], None, 0, 0, cv2.INTER_NEAREST
        )
        predicted = np.where(rng.random(shape) < 0.3, rng.integers(0, classes, shape), truth)
        truth[rng.random(shape) < 0.1] = 255
        pairs.append((truth, predicted))
    return pairs


def count(pairs, **options):
    counter = SegmentationCounter(CLASSES, **options)
    for number, (truth, predicted) in enumerate(pairs):
        counter.add(f'{number}.jpg', truth, predicted)
    return counter.analysis()


def iou_metric(pairs, **options):
    """Metrics, in percent, and metrics by class, in fractions, of mmseg."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        from mmseg.evaluation import IoUMetric

        metric = IoUMetric(iou_metrics=['mIoU', 'mDice', 'mFscore'], **options)
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process(
        {},
        [
            dict(
                gt_sem_seg=dict(data=torch.from_numpy(truth.astype(np.int64))),
                pred_sem_seg=dict(data=torch.from_numpy(predicted.astype(np.int64))),
            )
            for truth, predicted in pairs
        ],
    )
    areas = [sum(part) for part in zip(*metric.results, strict=True)]
    by_class = metric.total_area_to_metrics(*areas, metric.metrics)
    return metric.evaluate(len(pairs)), by_class


@pytest.mark.parametrize('nan_to_num', [None, 0, -1])
def test_numbers_equal_those_of_iou_metric(nan_to_num):
    pairs = random_pairs()
    pairs[0][0][:4] = 3  # of class f, labels are only predicted
    pairs[0][1][:4] = 5
    analysis = count(pairs, nan_to_num=nan_to_num)
    metrics, by_class = iou_metric(pairs, nan_to_num=nan_to_num)
    assert 100 * analysis.mean_iou == pytest.approx(metrics['mIoU'], abs=0.0051)
    assert 100 * analysis.mean_accuracy == pytest.approx(metrics['mAcc'], abs=0.0051)
    assert 100 * analysis.accuracy == pytest.approx(metrics['aAcc'], abs=0.0051)
    names = dict(iou='IoU', accuracy='Acc', dice='Dice', precision='Precision')
    for own, theirs in names.items():
        values = [getattr(one, own) for one in analysis.classes]
        expected = [None if math.isnan(v) else float(v) for v in by_class[theirs]]
        assert [v is None for v in values] == [v is None for v in expected]
        assert [v for v in values if v is not None] == pytest.approx(
            [v for v in expected if v is not None], abs=1e-6
        )
    assert analysis.classes[5].accuracy is None and analysis.classes[5].iou == 0
    assert analysis.classes[6].iou is None and analysis.classes[6].boundary_iou is None


def test_labels_that_are_no_class_count_as_in_iou_metric():
    pairs = random_pairs()
    pairs[1][0][5:9] = 100  # true, not the ignored label
    pairs[2][1][5:9] = 200  # predicted
    analysis = count(pairs)
    _, by_class = iou_metric(pairs)
    assert [one.iou for one in analysis.classes[:5]] == pytest.approx(by_class['IoU'][:5].tolist())
    assert analysis.confusion.shape == (7, 7)
    assert sum(one.pixels for one in analysis.images) == sum((t != 255).sum() for t, _ in pairs)


def test_another_label_can_be_ignored():
    pairs = random_pairs()
    metrics, _ = iou_metric(pairs, ignore_index=2)
    assert 100 * count(pairs, ignore_index=2).mean_iou == pytest.approx(metrics['mIoU'], abs=0.0051)


def test_more_classes_than_fit_into_a_byte():
    names = [f'class {i}' for i in range(300)]
    truth = np.arange(600, dtype=np.int64).reshape(20, 30) // 2
    counter = SegmentationCounter(names, ignore_index=65535)
    counter.add('many', truth, truth)
    few = SegmentationCounter(names, ignore_index=65535)
    few.add('few', truth, np.zeros_like(truth, np.uint8))  # as a PNG image has them
    assert few.analysis().confusion[299, 0] == 2
    analysis = counter.analysis()
    assert analysis.mean_iou == 1 and analysis.confusion[299, 299] == 2
    assert analysis.classes[299].boundary_iou == 1


def test_maps_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(H, W\) for 'a', got \(2, 3\) and \(3, 2\)"):
        SegmentationCounter(CLASSES).add('a', np.zeros((2, 3), int), np.zeros((3, 2), int))


# --- boundaries -----------------------------------------------------------------------------


def mask_boundary(mask, width):
    """As the paper's authors compute it for one mask."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask & (eroded == 0)


@pytest.mark.parametrize('width', [1, 3])
def test_boundary_regions_equal_those_of_single_masks(width):
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 3, (4, 5)), np.ones((9, 8), int)).astype(np.uint8)
    region = boundaries.boundary_region(labels, width)
    for label in range(3):
        mask = labels == label
        np.testing.assert_array_equal(region & mask, mask_boundary(mask, width))


def test_boundary_iou_of_a_moved_square():
    truth = np.zeros((30, 40), np.uint8)  # the diagonal is 50, so the width is 1
    predicted = truth.copy()
    truth[10:20, 10:20] = 1
    predicted[10:20, 11:21] = 1
    score = count([(truth, predicted)]).classes[1]
    assert boundaries.boundary_width(30, 40) == 1
    # Both rings have 36 pixels; they share the 9 + 9 of the upper and lower sides but no others.
    assert score.boundary_iou == pytest.approx(18 / (36 + 36 - 18))
    assert score.iou == pytest.approx(90 / 110)


def test_boundary_iou_is_a_ratio_of_sums_over_images():
    good = np.zeros((30, 40), np.uint8)
    good[10:20, 10:20] = 1
    bad = np.zeros_like(good)
    assert count([(good, good), (good, bad)]).classes[1].boundary_iou == pytest.approx(0.5)


def test_right_predictions_beside_unlabeled_pixels_have_no_boundary_errors():
    truth = np.zeros((30, 40), np.uint8)
    truth[10:20, 10:20] = 1
    predicted = truth.copy()
    truth[:, 18:] = 255
    analysis = count([(truth, predicted)])
    assert analysis.classes[0].boundary_iou == analysis.classes[1].boundary_iou == 1


def test_errors_by_distance_to_the_boundary():
    truth = np.zeros((20, 200), np.uint8)
    truth[:, 100:] = 1
    predicted = truth.copy()
    predicted[:, 99] = 1  # beside the boundary
    predicted[:, 94] = 1  # the sixth column
    predicted[:10, 199] = 0  # the hundredth
    errors = {one.label: one for one in count([(truth, predicted)]).distances}
    assert list(errors) == ['1', '2', '3-4', '5-8', '9-16', '17-32', '33-64', 'over 64']
    assert {label: one.wrong for label, one in errors.items() if one.wrong} == {
        '1': 20,
        '5-8': 20,
        'over 64': 10,
    }
    assert errors['1'].pixels == 40 and errors['1'].share == 0.5
    assert sum(one.pixels for one in errors.values()) == truth.size


def test_an_image_without_a_boundary_is_far_from_any():
    truth = np.zeros((20, 20), np.uint8)
    distances = count([(truth, truth)]).distances
    assert distances[-1].pixels == 400 and distances[0].share is None


# --- places ---------------------------------------------------------------------------------


def test_positions_of_errors():
    truth = np.zeros((64, 128), np.uint8)
    predicted = truth.copy()
    predicted[:2, :4] = 1  # the first cell
    predicted[63, 126:] = 1  # half a row of the last cell
    truth[10:12, 20:24] = 255  # one whole cell
    positions = count([(truth, predicted)]).error_positions
    assert positions.shape == (GRID, GRID)
    assert positions[0, 0] == 1 and positions[-1, -1] == pytest.approx(0.25)
    assert np.isnan(positions[5, 5])
    assert np.nansum(positions) == pytest.approx(1.25)


def test_small_images_leave_cells_empty():
    truth = np.zeros((3, 5), np.uint8)
    positions = count([(truth, truth)]).error_positions
    assert np.isfinite(positions).sum() == 15


# --- images ---------------------------------------------------------------------------------


def test_scores_of_an_image():
    truth = np.array([[0, 0, 1, 1], [0, 0, 255, 255]])
    predicted = np.array([[0, 0, 1, 2], [0, 1, 5, 5]])
    (image,) = count([(truth, predicted)]).images
    assert image.pixels == 6 and image.accuracy == pytest.approx(4 / 6)
    assert image.present == (0, 1, 2) and image.wrong == (1, 2, 1)
    assert image.mean_iou == pytest.approx((3 / 4 + 1 / 3 + 0) / 3)


def test_images_are_ranked_and_ties_are_stable():
    truth = np.zeros((4, 4), np.uint8)
    wrong = truth.copy()
    wrong[0] = 1
    counter = SegmentationCounter(CLASSES)
    for name, predicted in (('z', truth), ('b', wrong), ('a', wrong)):
        counter.add(name, truth, predicted)
    counter.add('unlabeled', np.full((4, 4), 255), truth)
    images = counter.analysis().images
    assert images[-1].mean_iou is None and images[-1].accuracy is None
    assert [image.name for image in rank_images(images)] == ['a', 'b', 'z']


def test_chosen_images_are_the_worst_the_best_and_some_of_every_class():
    truth = np.zeros((10, 10), np.uint8)
    truth[:5] = 1
    counter = SegmentationCounter(CLASSES)
    for number in range(40):
        predicted = truth.copy()
        predicted[0, : number % 10] = 2
        counter.add(f'{number:02}', truth, predicted)
    few = truth.copy()
    few[9, 0] = 6  # hardly wrong, but the only image with the last class
    counter.add('last class', truth, few)
    chosen = choose_images(counter.analysis(), worst=5, best=3, per_class=1)
    groups = list(chosen.values())
    assert groups[:5] == ['worst'] * 5 and groups[-3:] == ['best'] * 3
    assert chosen[40] == OF_CLASS
    assert {index % 10 for index, group in chosen.items() if group == 'best'} == {0}
    limited = choose_images(counter.analysis(), worst=5, best=3, per_class=1, most=8)
    assert OF_CLASS not in limited.values()


def test_few_images_are_shown_once():
    truth = np.zeros((4, 4), np.uint8)
    assert choose_images(count([(truth, truth)] * 3)) == {0: 'worst', 1: 'worst', 2: 'worst'}


def test_no_images():
    analysis = SegmentationCounter(CLASSES).analysis()
    assert analysis.mean_iou is None and analysis.accuracy is None
    assert choose_images(analysis) == {}


def test_largest_confusions_come_first():
    confusion = np.array([[9, 4, 0], [7, 99, 4], [0, 0, 0]])
    assert largest_confusions(confusion) == [(1, 0, 7), (0, 1, 4), (1, 2, 4)]
    assert largest_confusions(confusion, 1) == [(1, 0, 7)]
