"""Mean and std of channels are those of the values in the files."""

import cv2
import numpy as np
import pytest
from support.channels import write_tiff

from convnext_backbones.io import statistics
from convnext_backbones.io.statistics import channel_statistics

pytest.importorskip('rasterio')


@pytest.mark.parametrize(('channels', 'dtype'), [(1, 'uint8'), (3, 'uint16'), (5, 'float32')])
def test_statistics_are_those_of_the_files(channels, dtype, tmp_path):
    rng = np.random.default_rng(0)
    stored = (rng.random((3, 20, 30, channels)) * np.arange(1, channels + 1) * 50).astype(dtype)
    paths = [tmp_path / f'{number}.tif' for number in range(3)]
    for path, pixels in zip(paths, stored, strict=True):
        write_tiff(path, pixels)
    mean, std = channel_statistics(reversed(paths))
    pixels = stored.reshape(-1, channels).astype(np.float64)
    assert np.allclose(mean, pixels.mean(0), rtol=1e-4)
    assert np.allclose(std, pixels.std(0), rtol=1e-4)


def test_three_channels_are_in_the_order_of_the_file(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((4, 4, 3), (10, 20, 30), np.uint8))  # BGR
    assert channel_statistics([tmp_path / 'a.png']) == ([30.0, 20.0, 10.0], [1.0, 1.0, 1.0])


def test_missing_values_do_not_count_and_the_sample_is_spread(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, 'IMAGES', 2)
    for number in range(4):
        pixels = np.full((4, 4, 1), number, np.float32)
        pixels[0] = np.nan
        write_tiff(tmp_path / f'{number}.tif', pixels)
    assert channel_statistics(tmp_path.iterdir()) == ([1.0], [1.0])  # of 0 and 2


def test_what_has_no_statistics_is_said(tmp_path):
    with pytest.raises(ValueError, match='expected images'):
        channel_statistics([])
    write_tiff(tmp_path / 'a.tif', np.full((4, 4, 2), np.nan, np.float32))
    with pytest.raises(ValueError, match='found none in channel 0'):
        channel_statistics([tmp_path / 'a.tif'])
    write_tiff(tmp_path / 'b.tif', np.ones((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="got 2 in '.*a.tif' and 3 in '.*b.tif'"):
        channel_statistics(tmp_path.iterdir())
