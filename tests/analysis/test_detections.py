"""What a report of detections shows, and which images."""

import pytest
from support.detection_images import image, made_images

from convnext_backbones.analysis import detection_choice
from convnext_backbones.analysis.detection_choice import (
    BEST,
    OF_CLASS,
    WORST,
    best_images,
    choose_images,
    worst_images,
    worst_of_class,
)
from convnext_backbones.analysis.detections import ImageScore, analyse_detections
from dev.compare_evaluators import CLASSES, DetectionMaker

LEFT, RIGHT = (10, 10, 40, 40), (60, 60, 20, 20)
NAMES = ('cat', 'dog')


def score(name: str, correct=0, false=0, missed=0, index=0) -> ImageScore:
    return ImageScore(index, name, correct + missed, correct, false, missed)


def test_counts_by_hand():
    images = [
        image([(0, *LEFT), (0, *RIGHT)], [(0, *LEFT, 0.9), (1, *RIGHT, 0.8)], 'a'),
        image([(0, *LEFT)], [(0, *LEFT, 0.2), (0, 20, 20, 10, 10, 0.9)], 'b'),
        image([(1, *LEFT)], [(1, *LEFT, 0.9)], 'c', crowd=[0]),
    ]
    analysis = analyse_detections(images, NAMES)
    cat, dog = analysis.class_counts
    assert (cat.objects, cat.crowds, cat.images) == (3, 0, 2)
    assert (cat.detections, cat.correct, cat.missed) == (2, 1, 2)
    assert (dog.objects, dog.crowds, dog.images) == (0, 1, 0)
    assert (dog.detections, dog.correct, dog.missed) == (1, 0, 0)
    small, medium, large = analysis.size_counts
    assert (small.objects, small.missed, small.detections) == (1, 1, 2)
    assert (medium.objects, medium.missed, medium.detections) == (2, 1, 1)
    assert (large.objects, large.missed, large.detections) == (0, 0, 0)
    a, b, c = analysis.image_scores
    assert (a.objects, a.correct, a.false, a.missed, a.f1) == (2, 1, 1, 1, 0.5)
    assert (b.objects, b.correct, b.false, b.missed, b.f1) == (1, 0, 1, 1, 0)
    assert c.f1 is None  # a crowd, and a detection in it
    assert analysis.confusion[0, 1] == 1
    assert set(analysis.precision) == {'bbox'}


def test_a_threshold_changes_counts_and_not_precision():
    images = made_images(DetectionMaker(10))
    names = [f'class {i}' for i in range(CLASSES)]
    low, high = (
        analyse_detections(images, names, threshold, tasks=('bbox', 'segm'))
        for threshold in (0.0, 0.8)
    )
    assert low.precision['segm'].statistics == high.precision['segm'].statistics
    counted = [sum(c.detections for c in one.class_counts) for one in (low, high)]
    assert counted[0] > 2 * counted[1]
    for one in (low, high):
        assert sum(c.objects for c in one.class_counts) == sum(s.objects for s in one.image_scores)
        assert sum(c.missed for c in one.class_counts) == sum(s.missed for s in one.image_scores)
        assert sum(s.missed for s in one.size_counts) == sum(s.missed for s in one.image_scores)
        errors = sum(k.count for k in one.errors.kinds if k.name != 'missed')
        assert errors == sum(s.false for s in one.image_scores)
        assert one.errors.correct == sum(s.correct for s in one.image_scores)


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match='expected at least one image'):
        analyse_detections([], NAMES)
    with pytest.raises(ValueError, match="expected labels from 0 to 1, .* got 2 to 2 in 'odd'"):
        analyse_detections([image([(2, *LEFT)], name='odd')], NAMES)


def test_the_order_of_images():
    scores = [
        score('d', correct=2),
        score('c', correct=5),
        score('b', correct=2),
        score('f', missed=1),
        score('g', missed=4),
        score('e', false=1),
        score('nothing'),
        score('half', correct=1, missed=2),
    ]
    assert ''.join(s.name[0] for s in worst_images(scores)) == 'gefhbcd'
    assert ''.join(s.name[0] for s in best_images(scores)) == 'cbdhefg'


def test_the_choice_of_images(monkeypatch):
    monkeypatch.setattr(detection_choice, 'MOST_WORST', 2)
    monkeypatch.setattr(detection_choice, 'MOST_BEST', 1)
    good, bad = (0, *LEFT, 0.9), (1, *RIGHT, 0.9)
    images = [
        image([(0, *LEFT)], [good], '0 good'),
        image([(0, *LEFT)], [], '1 missed'),
        image([(0, *LEFT)], [good, bad], '2 one false'),
        image([(0, *LEFT)], [bad], '3 all wrong'),
        image([(0, *LEFT)], [good], '4 good'),
        image([], [], '5 empty'),
    ]
    analysis = analyse_detections(images, NAMES)
    assert choose_images(analysis) == [(3, WORST), (1, WORST), (0, BEST), (2, OF_CLASS)]
    assert worst_of_class(analysis, 0) == [1, 3]
    assert worst_of_class(analysis, 1) == [2, 3]
    assert worst_of_class(analysis, 1, most=1) == [2]
    monkeypatch.setattr(detection_choice, 'MOST_IMAGES', 3)
    assert len(choose_images(analysis)) == 3


def test_flawless_images_are_not_the_worst_and_empty_ones_not_the_best():
    images = [image([(0, *LEFT)], [(0, *LEFT, 0.9)], name) for name in 'abc'] + [image()]
    analysis = analyse_detections(images, NAMES)
    assert choose_images(analysis) == [(0, BEST), (1, BEST), (2, BEST)]
