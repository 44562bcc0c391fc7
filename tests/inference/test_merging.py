"""Objects found tile by tile are those of the image: each once, none cut."""

import cv2
import numpy as np
import pytest

from convnext_backbones.inference.cropped_masks import CroppedMask
from convnext_backbones.inference.merging import Detection, merge
from convnext_backbones.inference.tiles import Tiling, cut

TILING = Tiling(128, 64)
SIZE = 300  # the tiles begin at 0, 32, 96, 160 and 192


def ellipse(center: tuple[int, int], axes: tuple[int, int], size: int = SIZE) -> np.ndarray:
    """The mask of an object, (size, size)."""
    image = np.zeros((size, size), np.uint8)
    cv2.ellipse(image, center, axes, 30, 0, 360, 1, -1)
    return image.astype(bool)


def perfect(objects: list[tuple[np.ndarray, int]], tile, with_masks: bool, shift: float = 0):
    """What a detector that misses nothing finds in a tile.

    Args:
        objects: Masks of the image, and labels.
        tile: Of the image.
        with_masks: Whether the detector predicts masks.
        shift: Errors of the sides of boxes, in pixels, other ones in each tile.
    """
    rng = np.random.default_rng(tile.top * 1000 + tile.left)
    found = []
    for mask, label in objects:
        rows = slice(tile.top, tile.top + tile.height)
        part = mask[rows, tile.left : tile.left + tile.width]
        y, x = part.nonzero()
        if not y.size:
            continue
        box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float64)
        box = (box + rng.uniform(-shift, shift, 4)).clip(0, [tile.width, tile.height] * 2)
        box += [tile.left, tile.top] * 2
        kept = CroppedMask.of(part, tile.top, tile.left) if with_masks else None
        found.append(Detection(box, 0.5 + y.size / 1e6, label, kept))
    return found


def found_in_tiles(objects, with_masks, tiling=TILING, shift=0.0):
    tiles = cut(*objects[0][0].shape, tiling)
    return merge(tiles, [perfect(objects, tile, with_masks, shift) for tile in tiles])


def assert_found(objects, merged, tolerance=0.0):
    assert len(merged) == len(objects)
    for mask, label in objects:
        y, x = mask.nonzero()
        box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        errors = [np.abs(one.box - box).max() for one in merged]
        (nearest,) = [one for one, error in zip(merged, errors, strict=True) if error <= tolerance]
        assert nearest.label == label
        if nearest.mask:
            assert np.array_equal(nearest.mask.within(0, 0, *mask.shape), mask)


@pytest.mark.parametrize('with_masks', [False, True], ids=['boxes', 'masks'])
def test_an_object_at_any_place_of_the_grid_is_found_once_and_whole(with_masks):
    for x in range(20, 280, 11):
        for y in (25, 64, 96, 128, 200, 280):
            objects = [(ellipse((x, y), (18, 9)), 2)]
            assert_found(objects, found_in_tiles(objects, with_masks))


@pytest.mark.parametrize('with_masks', [False, True], ids=['boxes', 'masks'])
@pytest.mark.parametrize('axes', [(70, 9), (130, 20), (80, 70), (140, 130)])
def test_an_object_larger_than_the_overlap_is_joined_from_its_parts(axes, with_masks):
    for x, y in [(150, 150), (140, 160), (101, 97), (160, 190)]:
        objects = [(ellipse((x, y), axes), 0)]
        assert_found(objects, found_in_tiles(objects, with_masks))


@pytest.mark.parametrize('with_masks', [False, True], ids=['boxes', 'masks'])
def test_neighbours_and_objects_of_other_classes_stay_apart(with_masks):
    centers = [(x, y) for x in range(16, 290, 24) for y in range(16, 290, 24)]
    objects = [(ellipse(center, (10, 8)), i % 3) for i, center in enumerate(centers)]
    # In front of a large object, a small one of its class; at one place, one of another class.
    objects += [(ellipse((150, 150), (140, 130)), 1), (ellipse((100, 100), (140, 60)), 4)]
    assert_found(objects, found_in_tiles(objects, with_masks))


@pytest.mark.parametrize('with_masks', [False, True], ids=['boxes', 'masks'])
def test_inexact_boxes_are_merged_as_well(with_masks):
    rng = np.random.default_rng(0)
    for _ in range(30):
        center, axes = rng.integers(30, 270, 2), rng.integers(12, 60, 2)
        objects = [(ellipse(tuple(map(int, center)), tuple(map(int, axes))), 0)]
        assert_found(objects, found_in_tiles(objects, with_masks, shift=2.0), tolerance=2.0)


def test_an_object_that_only_the_cutting_tile_finds_is_no_object():
    tiles = cut(SIZE, SIZE, TILING)
    part = Detection(np.array([110.0, 40, 128, 60]), 0.9, 0)  # at the right border of the first
    merged = merge(tiles, [[part] if tile.left == tile.top == 0 else [] for tile in tiles])
    assert merged == []


def test_the_best_of_equal_objects_is_kept_and_the_best_come_first():
    tiles = cut(128, 192, TILING)
    boxes = np.array([80.0, 40, 100, 60]), np.array([81.0, 40, 100, 60])
    far = Detection(np.array([2.0, 2, 30, 30]), 0.8, 0)
    found = {0: [Detection(boxes[0], 0.6, 0), far], 32: [Detection(boxes[1], 0.7, 0)]}
    merged = merge(tiles, [found.get(tile.left, []) for tile in tiles])
    assert [one.score for one in merged] == [0.8, 0.7]
    assert merged[1].box is boxes[1]


def test_an_image_in_one_tile_keeps_what_was_found():
    tiles = cut(100, 100, TILING)
    boxes = np.array([[0.0, 0, 99, 99], [0, 0, 98, 99]])
    found = [Detection(boxes[0], 0.5, 0), Detection(boxes[1], 0.4, 0)]
    assert merge(tiles, [found]) == found
    assert merge(tiles, [[]]) == []
