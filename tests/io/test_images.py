"""Images of every kind are read as mmcv reads them; one that cannot be read is named."""

import io
import threading

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image

from convnext_backbones.io.images import (
    MAX_PIXELS_VARIABLE,
    PILLOWS_LIMIT_LIFTED,
    UnreadableFileError,
    read_image,
)

HEIGHT, WIDTH = 40, 56
ROTATED = 6  # the orientation tag of a camera held upright


def scene(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(height, width, 3), uint8, BGR: slopes, which survive compression, and no two alike."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [255 * x / width, 255 * y / height, 128 * (x / width + y / height)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def by_cv2(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def by_pillow(kind: str, mode: str = 'RGB', **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(scene()[..., ::-1]).convert(mode).save(file, kind, **options)
    return file.getvalue()


def animated(kind: str) -> bytes:
    other = Image.new('RGB', (WIDTH, HEIGHT), 'red')
    return by_pillow(kind, save_all=True, append_images=[other], **LOSSLESS.get(kind, {}))


def upright() -> bytes:
    exif = Image.Exif()
    exif[0x112] = ROTATED
    return by_pillow('JPEG', exif=exif, quality=95)


SCENE = scene()
GREY = cv2.cvtColor(SCENE, cv2.COLOR_BGR2GRAY)
LOSSLESS = dict(WEBP=dict(lossless=True))
JPEG = by_pillow('JPEG', quality=95)
# What the file holds, the pixels expected, and the tolerance of a lossy kind.
KINDS = {
    'jpeg': (JPEG, SCENE, 8),
    'progressive jpeg': (by_pillow('JPEG', progressive=True, quality=95), SCENE, 8),
    'jpeg and something after it': (JPEG + b'\0\0motion photo', SCENE, 8),
    'cmyk jpeg': (by_pillow('JPEG', 'CMYK', quality=95), SCENE, 8),
    'gray jpeg': (by_cv2('.jpg', GREY), GREY[..., None], 8),
    'rotated jpeg': (upright(), cv2.rotate(SCENE, cv2.ROTATE_90_CLOCKWISE), 8),
    'png': (by_cv2('.png', SCENE), SCENE, 0),
    'gray png': (by_cv2('.png', GREY), GREY[..., None], 0),
    'png with alpha': (
        by_cv2('.png', np.dstack([SCENE, np.full_like(GREY, 7)])),
        SCENE,
        0,
    ),
    'gray png with alpha': (by_pillow('PNG', 'LA'), GREY[..., None], 2),
    'png with a palette': (by_pillow('PNG', 'P'), SCENE, 60),
    'png of 1 bit': (by_pillow('PNG', '1'), None, 0),
    'png of 16 bits': (by_cv2('.png', SCENE.astype(np.uint16) * 256 + 255), SCENE, 0),
    'gray png of 16 bits': (by_cv2('.png', GREY.astype(np.uint16) * 256), GREY[..., None], 0),
    'tiff of 16 bits': (by_cv2('.tiff', SCENE.astype(np.uint16) * 256), SCENE, 1),
    'bmp': (by_cv2('.bmp', SCENE), SCENE, 0),
    'webp': (by_pillow('WEBP', lossless=True), SCENE, 0),
    'animated gif': (animated('GIF'), SCENE, 60),
    'animated webp': (animated('WEBP'), SCENE, 0),
    'animated png': (animated('PNG'), SCENE, 0),
    'one pixel': (by_cv2('.png', scene(1, 1)), scene(1, 1), 0),
    'one row': (by_cv2('.png', scene(1, 900)), scene(1, 900), 0),
}


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_is_read_as_mmcv_reads_it(kind, tmp_path):
    content, expected, tolerance = KINDS[kind]
    path = tmp_path / 'image'  # the content tells the format
    path.write_bytes(content)
    image = read_image(path)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    theirs = mmcv.imread(path)
    if theirs is not None:
        assert np.array_equal(image, theirs)
    if expected is not None:
        assert image.shape[:2] == expected.shape[:2]
        assert np.abs(image.astype(int) - expected).max() <= tolerance


def test_flags_and_decoders_are_those_of_mmcv(tmp_path):
    path = tmp_path / 'image.jpg'
    path.write_bytes(upright())
    for flag in ('color', 'grayscale', 'unchanged', 'color_ignore_orientation'):
        assert np.array_equal(read_image(path, flag), mmcv.imread(path, flag))
    ours = read_image(str(path), backend='pillow')
    assert np.array_equal(ours, mmcv.imread(path, backend='pillow'))


DAMAGED = 'the file is damaged or not an image'
BROKEN = {
    'empty': (b'', 'the file is empty'),
    'text': (b'<html>404</html>', DAMAGED),
    'zeros': (bytes(999), DAMAGED),
    'cut jpeg': (JPEG[: len(JPEG) * 3 // 4], 'truncated'),
    'cut progressive jpeg': (KINDS['progressive jpeg'][0][:-99], 'truncated'),
    'jpeg without its end marker': (JPEG[:-2], 'truncated'),
    'beginning of a jpeg': (JPEG[:20], ''),
    **{
        f'cut {kind}': (KINDS[kind][0][: len(KINDS[kind][0]) * 2 // 3], '')
        for kind in ('png', 'png of 16 bits', 'bmp', 'webp', 'tiff of 16 bits')
    },
}


@pytest.mark.parametrize('kind', BROKEN)
def test_what_cannot_be_read_is_named_with_the_reason(kind, tmp_path):
    content, reason = BROKEN[kind]
    path = tmp_path / 'image.jpg'
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError) as error:
        read_image(path)
    message = str(error.value)
    assert message.startswith(f'cannot read the image {str(path)!r}: ')
    assert reason in message and '\n' not in message and 'BytesIO' not in message


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UnreadableFileError, match="image '.*none.jpg': No such file or directory"):
        read_image(tmp_path / 'none.jpg')
    with pytest.raises(UnreadableFileError, match='Is a directory'):
        read_image(tmp_path)


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / 'huge.png'
    Image.new('1', (20_000, 20_000)).save(path, compress_level=1)
    with pytest.raises(
        UnreadableFileError,
        match="huge.png': its 20000 x 20000 = 400,000,000 pixels are more than 178,956,970; cut",
    ):
        read_image(path)
    Image.new('RGB', (40, 25)).save(path)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, '999')
    with pytest.raises(UnreadableFileError, match='1,000 pixels are more than 999'):
        read_image(path)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, '1000')
    assert read_image(path).shape == (25, 40, 3)


def test_threads_lift_the_limit_of_pillow_together(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 7)
    first, second, limits = threading.Event(), threading.Event(), []

    def short():
        with PILLOWS_LIMIT_LIFTED:
            first.set()
            second.wait(10)

    thread = threading.Thread(target=short)
    thread.start()
    first.wait(10)
    with PILLOWS_LIMIT_LIFTED:
        second.set()
        thread.join()
        limits.append(Image.MAX_IMAGE_PIXELS)
    assert [*limits, Image.MAX_IMAGE_PIXELS] == [None, 7]


def test_of_a_worker_s_traceback_the_sentence_is_kept():
    text = (
        'Caught UnreadableFileError in DataLoader worker process 1.\nOriginal Traceback (most '
        'recent call last):\n  File "a.py", line 1\n'
        "convnext_backbones.images.UnreadableFileError: cannot read the image 'a: b.jpg': gone\n"
    )
    assert str(UnreadableFileError(text)) == "cannot read the image 'a: b.jpg': gone"
