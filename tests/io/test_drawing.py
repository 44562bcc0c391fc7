"""Images of any kind can be looked at."""

import numpy as np
import pytest

from convnext_backbones.io.drawing import drawable


def test_8_bits_keep_their_values():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert np.array_equal(drawable(image), image)
    assert np.array_equal(drawable(image.astype(np.float32)), image)
    assert np.array_equal(drawable(image[..., :1]), image[..., :1].repeat(3, 2))
    assert np.array_equal(drawable(image[..., 0]), image[..., :1].repeat(3, 2))
    more = np.concatenate([image, image[..., :1]], 2)  # R, G, B and another
    assert np.array_equal(drawable(more), image[..., ::-1])
    assert not drawable(np.zeros((2, 2, 3), np.uint8)).any()


@pytest.mark.parametrize('scale', [1, 100, 40_000])
def test_other_ranges_are_stretched(scale):
    image = np.linspace(0.1, 0.9, 300, dtype=np.float32).reshape(10, 10, 3) * scale + 7 * (
        scale > 1
    )
    if scale == 100:
        image -= 60
    image[0, 0] = np.nan
    drawn = drawable(image)
    assert drawn.dtype == np.uint8 and drawn.max() == 255 and not drawn[0, 0].any()
    assert (np.diff(drawn[1:].astype(int).ravel()) >= 0).all()
    assert not drawable(np.full((2, 2, 1), np.nan)).any()
