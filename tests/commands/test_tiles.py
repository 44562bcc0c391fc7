"""tools/predict.py --tiles, as a user runs it."""

import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from support.untrained import leave_untrained

from convnext_backbones.inference import tiled
from tools import predict


@pytest.fixture(scope='module', params=['det', 'seg'])
def model(request, tmp_path_factory):
    """A config and a checkpoint."""
    return leave_untrained(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def images(tmp_path):
    """A large image, one that fits into a tile, and one that cannot be read."""
    folder = tmp_path / 'images'
    folder.mkdir()
    colors = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(colors.repeat(8, 0).repeat(8, 1)).save(folder / 'large.tif')
    Image.fromarray(colors.repeat(3, 0).repeat(3, 1)).save(folder / 'small.png')
    (folder / 'empty.png').write_bytes(b'')
    return folder


def run(model, source, out, *flags):
    """Predict; the exit status or the message that stands for it, and the results."""
    status = 0
    try:
        predict.main([*map(str, (*model, source, '--out', out, '--score-thr', 0.05, *flags))])
    except SystemExit as end:
        status = end.code
    saved = out / 'predictions.json'
    return status, json.loads(saved.read_text()) if saved.exists() else None


def test_a_folder_of_images_of_any_size(model, images, tmp_path):
    out = tmp_path / 'tiles'
    message, saved = run(model, images, out, '--tiles', 128, '--overlap', 64)
    assert message == f'predict: {images / "empty.png"}: the file is empty'
    assert saved['images'].keys() == {'large.tif', 'small.png'}
    for name in saved['images']:
        expected = cv2.imread(str(images / name)).shape
        assert cv2.imread(str(out / 'overlays' / name)).shape == expected
    # An image that fits into a tile is predicted as without tiles.
    _, whole = run(model, images / 'small.png', tmp_path / 'whole')
    one, other = saved['images']['small.png'], whole['images']['small.png']
    if Config.fromfile(model[0]).default_scope == 'mmseg':
        assert one == other
        assert cv2.imread(str(out / 'label_maps/large.tif'), -1).shape == (320, 240)
        return
    assert len(saved['images']['large.tif']['instances']) > 1
    assert len(one['instances']) == len(other['instances'])
    for ours, theirs in zip(
        *(sorted(r['instances'], key=lambda i: (i['score'], i['bbox'])) for r in (one, other)),
        strict=True,
    ):
        assert ours.get('mask', theirs['mask']) == theirs['mask']
        assert ours['category'] == theirs['category']
        assert ours['bbox'] == pytest.approx(theirs['bbox'], abs=1e-4)


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--tiles', 1000], '--tiles to be a multiple of 32'),
        (['--tiles', 256, '--overlap', 10], '--overlap to be a multiple of 64'),
        (['--overlap', 64], 'expected --overlap together with --tiles'),
    ],
)
def test_wrong_numbers_are_said_before_anything_is_done(flags, message, model, images, tmp_path):
    status, saved = run(model, images, tmp_path / 'out', *flags)
    assert message in status and saved is None


def test_finished_images_are_kept_when_it_is_interrupted(model, images, tmp_path, monkeypatch):
    found = tiled.predict_file

    def interrupt_second(predictor, path, tiling):
        if path.name == 'small.png':
            raise KeyboardInterrupt
        return found(predictor, path, tiling)

    monkeypatch.setattr(tiled, 'predict_file', interrupt_second)
    status, saved = run(model, images, tmp_path / 'out', '--tiles', 256)
    assert status == 130 and saved['images'].keys() == {'large.tif'}
