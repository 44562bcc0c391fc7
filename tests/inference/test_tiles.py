"""Tiles cover the image, on the grid of the network, with context around what they contribute."""

import numpy as np
import pytest

from convnext_backbones.inference.tiles import STRIDE, Tiling, cut

SIZES = [1, 31, 127, 128, 129, 160, 191, 193, 300, 513]


@pytest.mark.parametrize('tiling', [Tiling(128, 64), Tiling(192, 64)])
@pytest.mark.parametrize('height', SIZES)
def test_the_cores_are_a_partition_and_tiles_give_them_context(height, tiling):
    for width in SIZES:
        seen = np.zeros((height, width), int)
        tiles = cut(height, width, tiling)
        assert len({(tile.top, tile.left) for tile in tiles}) == len(tiles)
        for tile in tiles:
            assert tile.top % STRIDE == tile.left % STRIDE == 0
            top, left, rows, columns = tile.core
            assert top % tiling.core == left % tiling.core == 0
            seen[top : top + rows, left : left + columns] += 1
            core = np.array([left, top, left + columns, top + rows])
            margins = np.abs(core - tile.box)
            assert (margins[list(tile.inner)] >= tiling.overlap // 2).all()
            at_edges = tile.box == [0, 0, width, height]
            assert (at_edges == ~np.array(tile.inner)).all()
            for size, side in ((height, tile.height), (width, tile.width)):
                assert min(size, tiling.tile - STRIDE + 1) <= side <= tiling.tile
            numbers = np.arange(tile.height * tile.width).reshape(tile.height, tile.width)
            assert tile.of_core(numbers).shape == (rows, columns)
            assert tile.of_core(numbers)[0, 0] == numbers[top - tile.top, left - tile.left]
        assert (seen == 1).all()


def test_a_large_image_costs_no_more_tiles_than_it_needs():
    assert len(cut(30_000, 30_000, Tiling())) == 34 * 34
    assert len(cut(1850, 1024, Tiling())) == 2


@pytest.mark.parametrize(
    ('tile', 'overlap', 'message'),
    [
        (1000, 128, '--tiles to be a multiple of 32.* got 1000'),
        (64, 64, '--tiles to be .*from 128 on.* got 64'),
        (-32, 64, 'got -32'),
        (256, 0, '--overlap to be a multiple of 64 above 0.* got 0'),
        (256, 100, 'got 100'),
        (256, 192, 'at most half of the tile of 256, got 192'),
        (256, -64, 'got -64'),
    ],
)
def test_other_numbers_are_refused(tile, overlap, message):
    with pytest.raises(ValueError, match=message):
        Tiling(tile, overlap)
