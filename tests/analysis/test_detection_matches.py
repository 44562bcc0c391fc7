"""Every detection is correct, or wrong in the way that it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.detection_images import image

from convnext_backbones.analysis.detection_matches import (
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    CORRECT,
    DUPLICATE,
    IGNORED,
    LOCALIZATION,
    NONE,
    match_detections,
)

OBJECT = (0, 10, 10, 40, 40)
# Detections beside one object of class 0, at 10, 10, of 40 x 40 pixels.
KINDS = {
    'on the object': ((0, 10, 10, 40, 40), CORRECT, 0),
    'just close enough': ((0, 10, 10, 40, 20), CORRECT, 0),  # IoU 0.5
    'of another class': ((1, 10, 10, 40, 40), CLASSIFICATION, 0),
    'beside the object': ((0, 30, 10, 40, 40), LOCALIZATION, 0),  # IoU 1/3
    'just not background': ((0, 10, 10, 40, 4), LOCALIZATION, 0),  # IoU 0.1
    'beside, of another class': ((1, 30, 10, 40, 40), BOTH, NONE),
    'just background': ((1, 10, 10, 40, 4), BACKGROUND, NONE),
    'elsewhere': ((0, 110, 10, 40, 40), BACKGROUND, NONE),
}


@pytest.mark.parametrize('name', KINDS)
def test_kinds_of_detections(name):
    row, kind, target = KINDS[name]
    matches = match_detections([image([OBJECT], [(*row, 0.9)])], 2)
    assert matches.kind.tolist() == [kind]
    assert matches.target.tolist() == [target]
    assert matches.missed(0.0).tolist() == [kind != CORRECT]
    assert matches.missed(0.95).tolist() == [True]


def test_the_higher_score_finds_the_object_and_the_other_is_a_duplicate():
    found = [(0, 10, 10, 40, 40, 0.5), (0, 12, 10, 40, 40, 0.9)]
    matches = match_detections([image([OBJECT], found)], 1)
    assert matches.kind.tolist() == [DUPLICATE, CORRECT]
    assert matches.target.tolist() == [NONE, 0]


def test_equal_scores_are_taken_in_order_and_the_closest_object_first():
    truth = [OBJECT, (0, 20, 10, 40, 40)]
    found = [(0, 18, 10, 40, 40, 0.5), (0, 18, 10, 40, 40, 0.5), (0, 18, 10, 40, 40, 0.5)]
    matches = match_detections([image(truth, found)], 1)
    assert matches.kind.tolist() == [CORRECT, CORRECT, DUPLICATE]
    assert matches.target.tolist() == [1, 0, NONE]


def test_detections_in_a_crowd_of_their_class_are_ignored():
    found = [(0, 20, 20, 10, 10, 0.9), (0, 22, 20, 10, 10, 0.8), (1, 20, 20, 10, 10, 0.7)]
    matches = match_detections([image([OBJECT], found, crowd=[0])], 2)
    assert matches.kind.tolist() == [IGNORED, IGNORED, BACKGROUND]
    assert not matches.missed(0.0).any()


def test_an_object_comes_before_a_crowd():
    truth = [(0, 0, 0, 100, 100), OBJECT]
    matches = match_detections([image(truth, [(*OBJECT, 0.9)], crowd=[0])], 1)
    assert matches.kind.tolist() == [CORRECT]
    assert matches.target.tolist() == [1]


def test_targets_count_on_over_images():
    images = [image([OBJECT]), image(), image([OBJECT, OBJECT], [(*OBJECT, 0.9)])]
    matches = match_detections(images, 1)
    assert matches.image.tolist() == [2]
    assert matches.truth_image.tolist() == [0, 2, 2]
    assert matches.target[0] in (1, 2)
    assert matches.missed(0.0).sum() == 2


def test_no_images_and_nothing_in_them():
    for images in ([], [image()], [image([OBJECT])], [image([], [(*OBJECT, 0.5)])]):
        matches = match_detections(images, 1)
        assert len(matches.kind) == sum(len(i.found.labels) for i in images)
        assert matches.missed(0.0).sum() == sum(len(i.truth.labels) for i in images)


ROWS = st.tuples(st.integers(0, 2), *[st.integers(0, 40)] * 2, *[st.integers(1, 30)] * 2)
SCORED = st.tuples(ROWS, st.sampled_from([0.1, 0.3, 0.5, 0.9])).map(lambda x: (*x[0], x[1]))
IMAGES = st.lists(
    st.tuples(st.lists(ROWS, max_size=5), st.lists(SCORED, max_size=8), st.sets(st.integers(0, 4))),
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(IMAGES)
def test_every_detection_is_of_one_kind_and_finds_one_object(rows):
    images = [image(truth, found, crowd=list(crowd)) for truth, found, crowd in rows]
    matches = match_detections(images, 3)
    assert len(matches.kind) == sum(len(found) for _, found, _ in rows)
    assert set(matches.kind) <= set(range(7))
    correct = matches.target[matches.kind == CORRECT]
    assert len(set(correct)) == len(correct)
    assert not matches.crowd[correct].any()
    assert (~matches.crowd).sum() == len(correct) + matches.missed(0.0).sum()
    with_target = np.isin(matches.kind, [CORRECT, CLASSIFICATION, LOCALIZATION])
    assert ((matches.target != NONE) == with_target).all()
    own = np.isin(matches.kind, [CORRECT, LOCALIZATION])
    assert (matches.truth_label[matches.target[own]] == matches.label[own]).all()
    for kind in (CLASSIFICATION, CORRECT, LOCALIZATION):
        of = matches.kind == kind
        assert (matches.truth_image[matches.target[of]] == matches.image[of]).all()
