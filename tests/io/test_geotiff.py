"""TIFFs of any number of channels are read and written by windows, and nothing beside them."""

import resource
import signal

import numpy as np
import pytest
from support.channels import write_tiff as write_file

from convnext_backbones.io import geotiff
from convnext_backbones.io.files import WriteError
from convnext_backbones.io.geotiff import Georeference, open_tiff, write_tiff
from convnext_backbones.io.images import ANY_CHANNELS, UnreadableFileError, read_image

rasterio = pytest.importorskip('rasterio')
SIZE = 70, 90


def values(channels: int, dtype: str) -> np.ndarray:
    pixels = np.random.default_rng(channels).random((*SIZE, channels)) * 250
    return (pixels * (200 if dtype != 'uint8' else 1)).astype(dtype)


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'float32', 'int16', 'float64'])
@pytest.mark.parametrize('channels', [1, 2, 3, 4, 7])
@pytest.mark.parametrize(
    'options',
    [{}, dict(interleave='band', compress='lzw'), dict(tiled=True, blockxsize=16, blockysize=16)],
    ids=['strips', 'bands', 'tiles'],
)
def test_all_channels_and_bits_are_read(channels, dtype, options, tmp_path):
    path = tmp_path / 'a.tif'
    stored = values(channels, dtype)
    write_file(path, stored, **options)
    image = read_image(path, backend=ANY_CHANNELS)
    expected = stored[..., ::-1] if channels == 3 else stored  # BGR, as everywhere
    assert np.array_equal(image, expected.astype(image.dtype))
    assert image.dtype == (dtype if dtype in geotiff.KEPT_TYPES else 'float32')
    with open_tiff(path) as file:
        assert np.array_equal(file.read(10, 20, 30, 40), image[10:40, 20:60])


def test_what_cannot_be_read_is_said(tmp_path, monkeypatch):
    path = tmp_path / 'a.tif'
    write_file(path, values(5, 'uint16'))
    content = path.read_bytes()

    def refused(message):
        with pytest.raises(UnreadableFileError, match=f'a.tif.*{message}'):
            read_image(path, backend=ANY_CHANNELS)

    path.write_bytes(content[:200])
    refused('damaged')
    path.write_bytes(content)
    monkeypatch.setenv('CONVNEXT_BACKBONES_MAX_PIXELS', '6000')
    refused('90 x 70 = 6,300 pixels are more than 6,000')
    monkeypatch.delenv('CONVNEXT_BACKBONES_MAX_PIXELS')
    write_file(path, values(2, 'float32').astype('complex64'))
    refused('expected pixels that are real numbers, got complex64')
    monkeypatch.setattr(geotiff, 'MOST_BLOCK_BYTES', 1000)
    write_file(path, values(3, 'uint8'), compress='deflate', tiled=True)
    refused('its blocks of 256 x 256 pixels take .* rewrite it in tiles: rio convert')


def test_without_rasterio_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    path = tmp_path / 'a.tif'
    write_file(path, values(4, 'uint16'))
    monkeypatch.setitem(__import__('sys').modules, 'rasterio', None)
    message = r"rasterio, which is not installed: pip install 'convnext_backbones\[large\]'"
    with pytest.raises(UnreadableFileError, match=message):
        read_image(path, backend=ANY_CHANNELS)


def test_files_beside_an_image_are_not_read(tmp_path):
    path = tmp_path / 'a.tif'
    write_file(path, values(3, 'uint8'))
    aside = '<PAMDataset><GeoTransform>1, 2, 0, 3, 0, -2</GeoTransform></PAMDataset>'
    (tmp_path / 'a.tif.aux.xml').write_text(aside)
    with open_tiff(path) as file:
        assert file.georeference is None
    (tmp_path / 'b.tif').write_text('<VRTDataset rasterXSize="1" rasterYSize="1"></VRTDataset>')
    with (
        pytest.raises(ValueError, match='damaged or of an unknown kind'),
        open_tiff(tmp_path / 'b.tif'),
    ):
        pass


def test_labels_are_written_by_windows_with_their_georeference(tmp_path):
    path = tmp_path / 'labels.tif'
    labels = np.random.default_rng(0).integers(0, 9, SIZE)
    place = Georeference(
        rasterio.crs.CRS.from_epsg(32633), rasterio.transform.from_origin(5e5, 5e6, 0.5, 0.5)
    )
    with write_tiff(path, SIZE, 'uint8', 32, place) as writer:
        for top in range(0, SIZE[0], 32):
            for left in range(0, SIZE[1], 32):
                writer.write(top, left, labels[top : top + 32, left : left + 32])
        assert not path.exists()  # until all is written
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(1), labels)
        assert file.crs == place.crs and file.transform == place.transform
        assert file.block_shapes == [(32, 32)] and file.compression.name == 'deflate'
    with open_tiff(path) as file:
        assert file.georeference == place


def test_an_interruption_or_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / 'labels.tif'
    path.write_bytes(b'old')
    with pytest.raises(KeyboardInterrupt), write_tiff(path, SIZE, 'uint8', 32) as writer:
        writer.write(0, 0, np.zeros((32, 32), np.uint8))
        raise KeyboardInterrupt
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    noise = np.random.default_rng(0).integers(0, 256, (512, 512))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(WriteError), write_tiff(path, (512, 512), 'uint8', 512) as writer:
            writer.write(0, 0, noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]
