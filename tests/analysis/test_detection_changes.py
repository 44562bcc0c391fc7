"""Changes between two sets of detections, on hand-made cases."""

import numpy as np
import pytest

from convnext_backbones.analysis import detection_changes as changes
from convnext_backbones.analysis.detection_data import DetectionImage, Found, Truth

CLASSES = ('cat', 'dog')
BOX = (10, 10, 20, 20)


def found(*detections):
    """Detections of (box, label, score)."""
    boxes, labels, scores = zip(*detections, strict=True) if detections else ((), (), ())
    return Found(
        np.array(boxes, float).reshape(-1, 4), np.array(labels, int), np.array(scores, float)
    )


def image(name, detections, objects=()):
    boxes = np.array([box for box, _ in objects], float).reshape(-1, 4)
    truth = Truth(
        boxes,
        np.array([label for _, label in objects], int),
        boxes[:, 2] * boxes[:, 3],
        np.zeros(len(objects), bool),
    )
    return DetectionImage(name, '', (100, 100), truth, found(*detections))


def kinds(a, b, threshold=0.3):
    return [one.kind for one in changes.match_changes(found(*a), found(*b), threshold)]


@pytest.mark.parametrize(
    ('a', 'b', 'expected'),
    [
        ([(BOX, 0, 0.9)], [(BOX, 0, 0.5)], ['kept']),
        ([(BOX, 0, 0.9)], [((12, 10, 20, 20), 0, 0.9)], ['kept']),  # IoU 0.82
        ([(BOX, 0, 0.9)], [((14, 10, 20, 20), 0, 0.9)], ['box moved']),  # IoU 0.67
        ([(BOX, 0, 0.9)], [(BOX, 1, 0.9)], ['class changed']),
        ([(BOX, 0, 0.9)], [((18, 10, 20, 20), 0, 0.9)], ['gone', 'new']),  # IoU 0.43
        ([(BOX, 0, 0.9)], [(BOX, 0, 0.2)], ['gone']),  # below the threshold
        ([], [(BOX, 0, 0.9)], ['new']),
        ([], [], []),
    ],
)
def test_kinds_of_changes(a, b, expected):
    assert kinds(a, b) == expected


def test_pairs_of_one_class_come_first_and_each_detection_is_in_one():
    a = [(BOX, 0, 0.9), ((13, 10, 20, 20), 1, 0.8)]
    b = [(BOX, 1, 0.9), ((12, 10, 20, 20), 1, 0.9), ((14, 10, 20, 20), 0, 0.9)]
    assert kinds(a, b) == ['kept', 'box moved', 'new']


def compare(with_truth):
    objects = [(BOX, 0), ((50, 50, 20, 20), 1), ((70, 10, 20, 20), 1)]
    a = [
        image('first', [(BOX, 0, 0.9), ((50, 50, 20, 20), 0, 0.9)], objects),
        image('second', [(BOX, 0, 0.9)], objects[:1]),
    ]
    b = [
        image('first', [((50, 50, 20, 20), 1, 0.9)], objects),
        image('second', [(BOX, 0, 0.8)], objects[:1]),
    ]
    return changes.compare_detections(a, b, CLASSES, with_truth)


def test_objects_become_right_and_wrong():
    result = compare(with_truth=True)
    first, second = result.images
    assert (first.became_right, first.became_wrong) == ((1,), (0,))
    assert (second.became_right, second.became_wrong) == ((), ())
    assert first.kinds == ('class changed', 'gone', 'became right', 'became wrong')
    assert first.classes == (0, 1) and second.kinds == ()
    assert first.f1 == pytest.approx((2 * 1 / (2 + 3), 2 * 1 / (1 + 3)))
    assert second.f1 == (1, 1)
    assert (result.became_right, result.became_wrong) == (1, 1)
    assert result.kinds == {
        'kept': 1,
        'box moved': 0,
        'class changed': 1,
        'gone': 1,
        'new': 0,
    }
    cat, dog = result.classes
    assert cat.detections == (3, 1) and cat.kinds['class changed'] == 1 and dog.joined == 1
    assert (cat.became_right, cat.became_wrong, dog.became_right) == (0, 1, 1)
    assert dog.average_precision[0] == 0 and dog.average_precision[1] == pytest.approx(
        0.505, abs=1e-3
    )
    assert cat.f1 == pytest.approx((0.8, 2 / 3)) and result.f1[0] == pytest.approx(4 / 7)


def test_without_truth_nothing_is_right_or_wrong():
    result = compare(with_truth=False)
    assert result.became_right is None and result.average_precision == (None, None)
    assert all(one.became_right is None and one.f1 == (None, None) for one in result.classes)
    assert result.images[0].kinds == ('class changed', 'gone')


def test_images_are_ranked_and_unchanged_ones_left_out():
    ranked = changes.rank_changes(compare(with_truth=True).images)
    assert [one.name for one in ranked] == ['first']
    a = [image('b', []), image('a', []), image('c', [])]
    b = [image('b', [(BOX, 0, 0.9)]), image('a', [(BOX, 0, 0.9)]), image('c', [(BOX, 0, 0.9)] * 2)]
    ranked = changes.rank_changes(changes.compare_detections(a, b, CLASSES, False).images)
    assert [one.name for one in ranked] == ['c', 'a', 'b']


def test_every_detection_is_counted_once():
    rng = np.random.default_rng(0)

    def some(count):
        boxes = np.concatenate([rng.integers(0, 30, (count, 2)), np.full((count, 2), 20)], 1)
        return [
            (box, label, 0.9) for box, label in zip(boxes, rng.integers(0, 2, count), strict=True)
        ]

    a, b = some(30), some(25)
    result = list(changes.match_changes(found(*a), found(*b), 0.3))
    assert sorted(one.a for one in result if one.a is not None) == list(range(30))
    assert sorted(one.b for one in result if one.b is not None) == list(range(25))
