"""Changes between two sets of label maps, on hand-made cases and beside the scores of each."""

import numpy as np
import pytest

from convnext_backbones.analysis.segmentation_changes import (
    SegmentationChangeCounter,
    rank_changes,
)
from convnext_backbones.analysis.segmentations import SegmentationCounter

CLASSES = ('sky', 'sea', 'ship')


def test_changes_without_truth():
    counter = SegmentationChangeCounter(CLASSES, with_truth=False)
    change = counter.add('a', np.array([[0, 0, 1, 2]]), np.array([[0, 1, 1, 0]]))
    assert (change.pixels, change.changed, change.share) == (4, 2, 0.5)
    assert change.classes == (0, 1, 2) and change.became_right is None
    changes = counter.changes()
    assert changes.transitions.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    sky = changes.classes[0]
    assert (sky.pixels, sky.left, sky.joined) == ((2, 2), 1, 1)
    assert sky.became_right is None and sky.iou == (None, None)
    assert changes.mean_iou == (None, None) and changes.became_wrong is None


def test_changes_with_truth():
    counter = SegmentationChangeCounter(CLASSES, with_truth=True)
    truth = np.array([[0, 0, 1, 1, 2, 255]])
    a = np.array([[0, 1, 1, 1, 0, 0]])
    b = np.array([[0, 0, 2, 1, 1, 1]])  # right, wrong, and wrong in another way; one is unlabeled
    change = counter.add('a', a, b, truth)
    assert (change.pixels, change.changed) == (5, 3)
    assert (change.became_right, change.became_wrong) == (1, 1)
    by_class = counter.changes().classes
    assert [one.became_right for one in by_class] == [1, 0, 0]
    assert [one.became_wrong for one in by_class] == [0, 1, 0]


@pytest.mark.parametrize('nan_to_num', [None, 0])
def test_scores_are_those_of_each_set(nan_to_num):
    rng = np.random.default_rng(0)
    counter = SegmentationChangeCounter(CLASSES, with_truth=True, nan_to_num=nan_to_num)
    alone = [SegmentationCounter(CLASSES, nan_to_num=nan_to_num) for _ in range(2)]
    for number in range(3):
        truth, *maps = rng.integers(0, 2, (3, 12, 15), np.uint8)
        truth[:2] = 255
        change = counter.add(str(number), *maps, truth)
        scores = [one.add(str(number), truth, m) for one, m in zip(alone, maps, strict=True)]
        assert change.mean_iou == tuple(score.mean_iou for score in scores)
    changes = counter.changes()
    analyses = [one.analysis() for one in alone]
    assert changes.mean_iou == pytest.approx([one.mean_iou for one in analyses])
    for label, one in enumerate(changes.classes):
        assert one.iou == tuple(analysis.classes[label].iou for analysis in analyses)
    assert changes.pixels == 3 * 10 * 15
    right = [analysis.confusion.trace() for analysis in analyses]
    assert right[1] - right[0] == changes.became_right - changes.became_wrong


def test_equal_maps_have_no_changes():
    counter = SegmentationChangeCounter(CLASSES, with_truth=False)
    labels = np.arange(6).reshape(2, 3)  # three of the labels are no class
    counter.add('a', labels, labels)
    changes = counter.changes()
    assert changes.changed == 0 and rank_changes(changes.images) == []


def test_the_most_changed_image_comes_first():
    counter = SegmentationChangeCounter(CLASSES, with_truth=False)
    before = np.zeros((1, 4), int)
    for name, after in (('z', [0, 0, 0, 1]), ('b', [0, 0, 1, 1]), ('a', [2, 2, 0, 0])):
        counter.add(name, before, np.array([after]))
    assert [image.name for image in rank_changes(counter.changes().images)] == ['a', 'b', 'z']


def test_maps_of_two_shapes_are_refused():
    counter = SegmentationChangeCounter(CLASSES, with_truth=False)
    with pytest.raises(ValueError, match=r"of one shape for 'a', got \(2, 3\) and \(3, 2\)"):
        counter.add('a', np.zeros((2, 3), int), np.zeros((3, 2), int))
