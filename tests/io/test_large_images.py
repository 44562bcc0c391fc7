"""Windows of an image are those of the image as other commands decode it."""

import sys

import numpy as np
import pytest
from PIL import Image
from support.channels import write_tiff

from convnext_backbones.io.images import ANY_CHANNELS, UnreadableFileError, read_image
from convnext_backbones.io.large_images import DecodedImage, TiffImage, open_windows

pytest.importorskip('rasterio')


def noise(channels: int, dtype: str) -> np.ndarray:
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max + 1, (60, 80, channels), dtype)


@pytest.mark.parametrize('dtype', ['uint8', 'uint16'])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_windows_of_a_tiff(channels, dtype, tmp_path, monkeypatch):
    path = tmp_path / 'a.tif'
    write_tiff(path, noise(channels, dtype), **(dict(photometric='RGB') if channels > 1 else {}))
    for backend in (None, 'cv2', ANY_CHANNELS):
        whole = read_image(path, backend=backend)
        monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)  # which does not concern windows
        monkeypatch.setenv('CONVNEXT_BACKBONES_MAX_PIXELS', '10')
        with open_windows(path, backend=backend) as image:
            assert isinstance(image, TiffImage) and (image.height, image.width) == (60, 80)
            assert np.array_equal(image.read(8, 16, 32, 50), whole[8:40, 16:66])
        monkeypatch.undo()


@pytest.mark.parametrize('dtype', ['uint8', 'uint16'])
@pytest.mark.parametrize('interleave', ['pixel', 'band'])
@pytest.mark.parametrize('alpha', ['YES', 'NO', 'PREMULTIPLIED'])
@pytest.mark.parametrize(
    ('photometric', 'channels'), [('RGB', 3), ('RGB', 4), *(('MINISBLACK', n) for n in range(1, 5))]
)
def test_gray_and_alpha_are_those_of_the_whole_image(
    dtype, interleave, alpha, photometric, channels, tmp_path
):
    path = tmp_path / 'a.tif'
    form = dict(interleave=interleave, alpha=alpha, photometric=photometric)
    write_tiff(path, noise(channels, dtype), **form)
    with open_windows(path) as image:
        assert isinstance(image, TiffImage)
        assert np.array_equal(image.read(0, 0, 60, 80), read_image(path))


@pytest.mark.parametrize('kind', ['P', '1', 'CMYK', 'turned'])
def test_tiffs_that_need_a_conversion_are_decoded_as_a_whole(kind, tmp_path):
    path = tmp_path / 'a.tif'
    picture = Image.fromarray(noise(3, 'uint8'))
    if kind == 'turned':
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(path, exif=exif)
    else:
        picture.convert(kind).save(path)
    whole = read_image(path)
    with open_windows(path) as image:
        assert isinstance(image, DecodedImage) and image.is_tiff
        assert np.array_equal(image.read(1, 2, 20, 30), whole[1:21, 2:32])


def test_other_files_and_missing_rasterio(tmp_path, monkeypatch):
    png, tif = tmp_path / 'a.png', tmp_path / 'a.tif'
    Image.fromarray(noise(3, 'uint8')).save(png)
    write_tiff(tif, noise(3, 'uint8'), photometric='RGB')
    monkeypatch.setitem(sys.modules, 'rasterio', None)
    for path in (png, tif):
        with open_windows(path) as image:
            assert isinstance(image, DecodedImage) and not image.is_tiff
            assert np.array_equal(image.read(0, 0, 60, 80), read_image(path))
    monkeypatch.setenv('CONVNEXT_BACKBONES_MAX_PIXELS', '10')
    with pytest.raises(UnreadableFileError, match='4,800 pixels are more than'), open_windows(tif):
        pass
    with pytest.raises(UnreadableFileError, match='No such file'), open_windows(tmp_path / 'b.png'):
        pass


def test_errors_of_those_who_read_are_their_own(tmp_path):
    write_tiff(tmp_path / 'a.tif', noise(3, 'uint8'))
    with pytest.raises(ValueError, match='^mine$'), open_windows(tmp_path / 'a.tif'):
        raise ValueError('mine')
