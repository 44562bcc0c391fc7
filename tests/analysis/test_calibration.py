"""Scores compared with the share of correct detections."""

import numpy as np
import pytest
from support.detection_images import image

from convnext_backbones.analysis.calibration import measure_calibration
from convnext_backbones.analysis.detection_matches import match_detections

OBJECT, ELSEWHERE = (0, 10, 10, 40, 40), (0, 110, 10, 40, 40)


def test_bins_by_hand():
    images = [
        image([OBJECT], [(*OBJECT, 0.95), (*ELSEWHERE, 0.91)]),
        image([OBJECT], [(*OBJECT, 0.35)]),
        image([OBJECT], [(*OBJECT, 1.0)], crowd=[0]),  # ignored
        image([OBJECT], [(*OBJECT, 1.0)]),
    ]
    measured = measure_calibration(match_detections(images, 1))
    assert measured.counts.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 3]
    assert measured.mean_scores[[3, 9]] == pytest.approx([0.35, 2.86 / 3])
    assert measured.shares[[3, 9]] == pytest.approx([1, 2 / 3])
    assert np.isnan(measured.shares[:3]).all()
    assert measured.error == pytest.approx((0.65 + 0.86) / 4)
    assert len(measured.edges) == 11


def test_random_scores_that_are_calibrated_have_a_small_error():
    rng = np.random.default_rng(0)
    scores = rng.random(4000)
    images = [
        image([OBJECT], [(*(OBJECT if rng.random() < score else ELSEWHERE), score)])
        for score in scores
    ]
    assert measure_calibration(match_detections(images, 1)).error < 0.03


def test_without_detections_there_is_no_error():
    measured = measure_calibration(match_detections([image([OBJECT])], 1))
    assert measured.error is None and not measured.counts.any()
