"""Counts of errors, and what correcting them gains."""

import pytest
from support.detection_images import image, made_images

from convnext_backbones.analysis.detection_errors import average_precision, count_errors
from convnext_backbones.analysis.detection_matches import match_detections
from convnext_backbones.analysis.detection_precision import measure_precision
from dev.compare_evaluators import CLASSES, DetectionMaker

LEFT, RIGHT = (10, 10, 40, 40), (110, 10, 40, 40)
BESIDE = (130, 10, 40, 40)  # IoU 1/3 with RIGHT
# Two objects of class 0, the left one always found with score 0.9: AP50 is 51/101 without errors.
HALF = 51 / 101
CASES = {
    # The second detection, and the gain of each kind that gains anything.
    'classification': ((1, *RIGHT, 0.8), dict(classification=1 - HALF)),
    'localization': ((0, *BESIDE, 0.8), dict(localization=1 - HALF)),
    'both': ((1, *BESIDE, 0.8), dict(missed=1 - HALF)),
    'duplicate': ((0, *LEFT, 0.8), dict(missed=1 - HALF)),
    'background': ((0, 60, 60, 20, 20, 0.8), dict(missed=1 - HALF)),
    'missed': (None, dict(missed=1 - HALF)),
}


@pytest.mark.parametrize('name', CASES)
def test_one_error_of_each_kind(name):
    second, gains = CASES[name]
    found = [(0, *LEFT, 0.9), *([second] if second else [])]
    matches = match_detections([image([(0, *LEFT), (0, *RIGHT)], found)], 2)
    errors = count_errors(matches, 0.3)
    assert errors.ap50 == pytest.approx(HALF)
    assert errors.correct == 1 and errors.ignored == 0
    almost = name in ('classification', 'localization')
    for kind in errors.kinds:
        expected = kind.name == name or (kind.name == 'missed' and not almost)
        assert kind.count == kind.total == expected, kind
        assert kind.gain == pytest.approx(gains.get(kind.name, 0)), kind


@pytest.mark.parametrize(
    ('wrong', 'kind'), [((1, *LEFT), 'classification'), ((0, 25, 10, 60, 40), 'localization')]
)
def test_false_detections_before_the_correct_one_cost_precision(wrong, kind):
    """Also those whose object is found: they are removed, not corrected."""
    truth = [(0, *LEFT), (1, *RIGHT)]
    found = [(*wrong, 0.9), (0, *LEFT, 0.8), (1, *RIGHT, 0.7)]
    matches = match_detections([image(truth, found)], 2)
    errors = count_errors(matches, 0.3)
    assert errors.ap50 == pytest.approx(0.75)
    assert {k.name: k.gain for k in errors.kinds if k.gain} == {kind: pytest.approx(0.25)}


def test_of_two_errors_with_one_target_the_higher_score_is_corrected():
    found = [(1, *LEFT, 0.9), (2, *LEFT, 0.8)]
    errors = count_errors(match_detections([image([(0, *LEFT)], found)], 3), 0.3)
    assert errors.ap50 == 0
    assert {k.name: k.gain for k in errors.kinds if k.gain} == {'classification': 1}
    assert errors.kinds[0].total == 2


def test_low_scores_count_at_any_score_only():
    found = [(0, *LEFT, 0.9), (0, *RIGHT, 0.2), (1, *LEFT, 0.1)]
    errors = count_errors(match_detections([image([(0, *LEFT), (0, *RIGHT)], found)], 2), 0.3)
    counts = {kind.name: (kind.count, kind.total) for kind in errors.kinds}
    assert errors.correct == 1
    assert counts['classification'] == (0, 1)
    assert counts['missed'] == (1, 0)


def test_all_objects_of_a_class_are_missed():
    errors = count_errors(match_detections([image([(0, *LEFT)])], 1), 0.3)
    assert errors.ap50 == 0
    assert {k.name: k.gain for k in errors.kinds if k.gain} == {'missed': 1}


def test_without_objects_there_is_no_ap():
    errors = count_errors(match_detections([image([], [(0, *LEFT, 0.9)])], 1), 0.3)
    assert errors.ap50 is None
    assert all(kind.gain == 0 for kind in errors.kinds)
    assert {k.name: k.count for k in errors.kinds if k.count} == {'background': 1}


def test_generated_detections():
    """AP50 is that of COCOeval, with ties between scores; the numbers of kinds sum up."""
    images = made_images(DetectionMaker(40))
    matches = match_detections(images, CLASSES)
    precision = measure_precision(images, CLASSES)
    assert average_precision(matches) == pytest.approx(precision.statistics['mAP_50'], abs=1e-12)
    errors = count_errors(matches, 0.0)
    assert errors.ignored > 0
    of_detections = [kind for kind in errors.kinds if kind.name != 'missed']
    assert sum(kind.total for kind in of_detections) + errors.correct + errors.ignored == len(
        matches.kind
    )
    assert all(kind.count == kind.total for kind in errors.kinds)
    assert all(kind.gain >= 0 for kind in errors.kinds)
    assert sum(kind.gain > 0.01 for kind in errors.kinds) >= 3
