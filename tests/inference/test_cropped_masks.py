"""Masks kept as run lengths of a part are those of the whole image."""

import numpy as np
import pytest
from pycocotools import mask as coco

from convnext_backbones.inference.cropped_masks import CroppedMask, union


def test_run_lengths_are_those_of_the_whole_mask():
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = map(int, rng.integers(1, 12, 2))
        mask = rng.random((height, width)) < rng.choice([0.1, 0.5, 0.9, 1.0])
        kept = CroppedMask.of(mask)
        if kept is None:
            assert not mask.any()
            continue
        expected = coco.encode(np.asfortranarray(mask, np.uint8))
        assert kept.run_lengths(height, width) == dict(
            size=[height, width], counts=expected['counts'].decode()
        )
        assert np.array_equal(kept.within(0, 0, height, width), mask)


def test_a_part_of_a_huge_image_needs_no_mask_of_it():
    kept = CroppedMask.of(np.ones((3, 2), bool), top=50_000, left=40_000)
    found = kept.run_lengths(60_000, 60_000)
    assert coco.area(found) == 6
    assert coco.toBbox(found).tolist() == [40_000, 50_000, 2, 3]
    assert kept.run_lengths(70_000, 70_000) is None  # more pixels than COCO can count


@pytest.mark.parametrize('corner', [(0, 0), (5, 7)])
def test_windows_and_unions(corner):
    top, left = corner
    one = CroppedMask.of(np.eye(4, dtype=bool), top, left)
    other = CroppedMask.of(np.ones((2, 3), bool), top + 3, left + 3)
    whole = np.zeros((20, 20), bool)
    whole[top : top + 4, left : left + 4] = np.eye(4)
    assert np.array_equal(one.within(2, 3, 11, 13), whole[2:11, 3:13])
    whole[top + 3 : top + 5, left + 3 : left + 6] = True
    assert np.array_equal(union([one, other]).within(0, 0, 20, 20), whole)
    assert not one.within(15, 15, 20, 20).any()
