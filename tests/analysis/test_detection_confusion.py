"""The confusion matrix, with the background as its last class."""

import numpy as np
from support.detection_images import image, made_images

from convnext_backbones.analysis.detection_confusion import confusion_matrix
from dev.compare_evaluators import CLASSES, DetectionMaker

LEFT, RIGHT, MIDDLE = (10, 10, 40, 40), (110, 10, 40, 40), (60, 60, 20, 20)


def test_by_hand():
    truth = [(0, *LEFT), (1, *RIGHT)]
    found = [(0, *LEFT, 0.9), (2, *MIDDLE, 0.8), (0, *MIDDLE, 0.2)]
    expected = np.zeros((4, 4), int)
    expected[0, 0] = expected[1, 3] = expected[3, 2] = 1
    np.testing.assert_array_equal(confusion_matrix([image(truth, found)], 3, 0.3), expected)


def test_the_highest_score_takes_the_object_whatever_its_class():
    found = [(0, *LEFT, 0.5), (1, *LEFT, 0.9)]
    expected = np.zeros((3, 3), int)
    expected[0, 1] = expected[2, 0] = 1
    np.testing.assert_array_equal(confusion_matrix([image([(0, *LEFT)], found)], 2, 0.3), expected)


def test_of_equally_close_objects_that_of_the_same_class_is_taken():
    truth = [(0, *LEFT), (1, *LEFT)]
    for order in (truth, truth[::-1]):
        matrix = confusion_matrix([image(order, [(1, *LEFT, 0.9)])], 2, 0.3)
        assert matrix[1, 1] == matrix[0, 2] == 1 and matrix.sum() == 2


def test_detections_in_a_crowd_of_their_class_do_not_count():
    found = [(0, 20, 20, 10, 10, 0.9), (1, 20, 20, 10, 10, 0.9)]
    matrix = confusion_matrix([image([(0, *LEFT)], found, crowd=[0])], 2, 0.3)
    assert matrix[2, 1] == matrix.sum() == 1


def test_rows_sum_to_objects():
    images = made_images(DetectionMaker(20))
    matrix = confusion_matrix(images, CLASSES, 0.3)
    labels = np.concatenate([one.truth.labels[~one.truth.crowd] for one in images])
    np.testing.assert_array_equal(matrix[:-1].sum(1), np.bincount(labels, minlength=CLASSES))
    assert matrix[-1, -1] == 0
    assert confusion_matrix([], 2, 0.3).tolist() == [[0] * 3] * 3
