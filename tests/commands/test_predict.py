"""Prediction of folders as they are: every kind of image, bad ones between them, interruptions."""

import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from support.untrained import leave_untrained

from convnext_backbones.engine.build import build_model
from convnext_backbones.inference import folder, predictor
from convnext_backbones.io.images import MAX_PIXELS_VARIABLE
from tools import predict

TOOLS = Path(__file__).parents[2] / 'tools'


HEIGHT, WIDTH = 40, 56


def picture(seed: int = 0) -> np.ndarray:
    """Blocks of random colors, (H, W, 3)."""
    colors = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return colors.repeat(8, 0).repeat(8, 1)


def write_good_images(folder: Path) -> dict[str, tuple[int, int]]:
    """An image of every kind that is read; the sizes, (height, width), by name."""
    rgb = Image.fromarray(picture())
    deep = picture()[..., 0].astype(np.uint16) * 257
    rgb.save(folder / 'scene.jpg')
    rgb.save(folder / 'scene.png')  # the same stem
    rgb.save(folder / 'scene.webp')
    rgb.save(folder / 'UPPER.BMP')
    rgb.convert('L').save(folder / 'gray.png')
    rgb.convert('1').save(folder / 'black_and_white.png')
    rgb.convert('LA').save(folder / 'grey_alpha.png')
    rgb.convert('RGBA').save(folder / 'alpha.png')
    rgb.convert('P').save(folder / 'palette.png')
    rgb.convert('CMYK').save(folder / 'print.jpeg')
    Image.fromarray(deep).save(folder / 'deep.png')
    Image.fromarray(deep).save(folder / 'deep.tiff')
    cv2.imwrite(str(folder / 'deep_color.tif'), picture().astype(np.uint16) * 257)
    frames = [Image.fromarray(picture(seed)) for seed in (1, 2)]
    for name in ('animated.gif', 'animated.png', 'animated.webp'):
        rgb.save(folder / name, save_all=True, append_images=frames)
    sizes = {path.name: (HEIGHT, WIDTH) for path in folder.iterdir()}
    Image.new('RGB', (1, 1)).save(folder / 'dot.png')
    return sizes | {'dot.png': (1, 1)}


def write_bad_images(folder: Path) -> dict[str, str]:
    """Images that cannot be read, and what is said of each."""
    whole = (folder / 'scene.jpg').read_bytes()
    (folder / 'empty.jpg').write_bytes(b'')
    (folder / 'noise.jpg').write_bytes(bytes(range(256)) * 4)
    (folder / 'cut.jpg').write_bytes(whole[: len(whole) * 3 // 4])
    (folder / 'text.png').write_text('not an image')
    Image.new('1', (20_000, 20_000)).save(folder / 'huge.png')
    Image.new('RGB', (9000, 1)).save(folder / 'row.png')
    return {
        'empty.jpg': 'the file is empty',
        'noise.jpg': 'damaged or not an image',
        'cut.jpg': 'truncated',
        'text.png': 'damaged or not an image',
        'huge.png': '20000 x 20000 = 400,000,000 pixels are more than',
        'row.png': 'cannot be scaled',
    }


@pytest.fixture(scope='module', params=['det', 'seg'])
def model(request, tmp_path_factory) -> tuple[Path, Path]:
    """A config and a checkpoint."""
    return leave_untrained(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def two_images(tmp_path) -> Path:
    folder = tmp_path / 'images'
    folder.mkdir()
    for name in ('a.png', 'b.png'):
        Image.fromarray(picture()).save(folder / name)
    return folder


def run(model: tuple[Path, Path], source: Path, out: Path) -> tuple[str | int, dict]:
    """Predict; the exit status or the message that stands for it, and the results."""
    status = 0
    try:
        predict.main([*map(str, (*model, source, '--out', out, '--score-thr', 0))])
    except SystemExit as end:
        status = end.code
    return status, json.loads((out / 'predictions.json').read_text())


def test_every_kind_of_image_and_bad_ones_between_them(model, tmp_path):
    folder, out = tmp_path / 'images', tmp_path / 'out'
    folder.mkdir()
    sizes = write_good_images(folder)
    reasons = write_bad_images(folder)
    (folder / 'notes.txt').write_text('not for prediction')
    (folder / 'folder.jpg').mkdir()
    message, saved = run(model, folder, out)
    lines = message.splitlines()
    assert len(lines) == len(reasons), message
    for line, name in zip(lines, sorted(reasons), strict=True):
        assert re.match(f'predict: {folder / name}: .*{re.escape(reasons[name])}', line)
        assert line.endswith(saved['failures'][name])
    assert saved['images'].keys() == sizes.keys()
    assert len([*(out / 'overlays').iterdir()]) == len(sizes)
    for name, size in sizes.items():
        (overlay,) = {out / 'overlays' / name, out / 'overlays' / f'{name}.png'} & {
            *(out / 'overlays').iterdir()
        }
        assert np.array(Image.open(overlay).convert('RGB')).shape[:2] == size, name
        record = saved['images'][name]
        if 'label_map' in record:
            assert np.array(Image.open(out / 'label_maps' / record['label_map'])).shape == size
        else:
            assert all(instance['mask']['size'] == [*size] for instance in record['instances'])
    same = [
        {**saved['images'][name], 'label_map': ''}
        for name in ('scene.png', 'alpha.png', 'animated.png', 'UPPER.BMP')
    ]
    assert all(record == same[0] for record in same)


def test_a_failing_model_loses_one_image(model, two_images, tmp_path, monkeypatch):
    found = predictor.Predictor.predict
    calls = []

    def fail_first(self, image):
        calls.append(image)
        if len(calls) == 1:
            raise MemoryError('cannot allocate\n8 GiB')
        return found(self, image)

    monkeypatch.setattr(predictor.Predictor, 'predict', fail_first)
    message, saved = run(model, two_images, tmp_path / 'out')
    assert message == f'predict: {two_images / "a.png"}: MemoryError: cannot allocate 8 GiB'
    assert saved['images'].keys() == {'b.png'}


def test_without_an_overlay_the_results_are_kept(model, two_images, tmp_path):
    out = tmp_path / 'out'
    (out / 'overlays' / 'a.png').mkdir(parents=True)
    message, saved = run(model, two_images, out)
    assert message.startswith(f'predict: {two_images / "a.png"}: ')
    assert f"Is a directory: '{out / 'overlays' / 'a.png'}'" in message
    assert saved['images'].keys() == {'a.png', 'b.png'} and saved['failures'].keys() == {'a.png'}


def test_what_is_done_when_it_is_interrupted_is_kept(
    model, two_images, tmp_path, monkeypatch, capsys
):
    def read(path, **options):
        if path.name == 'b.png':
            raise KeyboardInterrupt
        return picture()

    monkeypatch.setattr(folder, 'read_image', read)
    status, saved = run(model, two_images, tmp_path / 'out')
    assert status == 130
    assert saved['images'].keys() == {'a.png'} and not saved['failures']
    assert '1 of 2 images predicted' in capsys.readouterr().out


def test_results_that_do_not_fit_into_memory_are_not_begun(
    model, two_images, tmp_path, monkeypatch
):
    Image.fromarray(np.zeros((400, 500, 3), np.uint8)).save(two_images / 'b.png')
    monkeypatch.setattr(predictor, 'available_memory', lambda: 12e6)
    message, saved = run(model, two_images, tmp_path / 'out')
    assert re.fullmatch(
        f'predict: {two_images / "b.png"}: results for 500 x 400 pixels take at least [0-9.]+ GiB, '
        'and 0.0 GiB of memory are free; predict in tiles \\(--tiles\\), or scale down',
        message,
    )
    assert saved['images'].keys() == {'a.png'}


@pytest.mark.slow
def test_an_image_of_20000_x_20000_pixels_that_may_be_read(model, tmp_path, monkeypatch):
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, str(20_000**2))
    monkeypatch.setattr(predictor, 'available_memory', lambda: 8 * 2**30)
    Image.new('1', (20_000, 20_000)).save(tmp_path / 'huge.png')
    message, saved = run(model, tmp_path / 'huge.png', tmp_path / 'out')
    assert 'results for 20000 x 20000 pixels take at least' in message and not saved['images']
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 24 * 2**20  # KiB


def test_free_memory_is_that_of_the_machine_or_of_its_container(monkeypatch):
    files = {'/proc/meminfo': 'MemTotal: 9000 kB\nMemAvailable:    5000 kB\n'}
    monkeypatch.setattr(predictor, '_text', lambda path: files.get(path, ''))
    assert predictor.available_memory() == 5000 * 1024
    files['/sys/fs/cgroup/memory.max'] = 'max\n'
    files['/sys/fs/cgroup/memory.stat'] = 'file 7\nanon 1000000\n'
    assert predictor.available_memory() == 5000 * 1024
    files['/sys/fs/cgroup/memory.max'] = '3000000\n'
    assert predictor.available_memory() == 2_000_000
    files.clear()
    assert predictor.available_memory() == float('inf')


def test_predictions_are_those_of_the_toolboxes(model, two_images, tmp_path):
    cfg = Config.fromfile(model[0])
    network = build_model(cfg, str(model[1]), 'cpu')
    image = cv2.imread(str(two_images / 'a.png'))
    ours = predictor.Predictor(cfg, network, tmp_path, 0).predict(image)
    if cfg.default_scope == 'mmdet':
        from mmdet.apis import inference_detector

        theirs = inference_detector(network, image)
        assert len(theirs.pred_instances)
        for key, value in theirs.pred_instances.items():
            assert ours.pred_instances[key].equal(value), key
    else:
        from mmseg.apis import inference_model

        cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline  # where mmseg looks for it
        theirs = inference_model(network, image)
        assert ours.seg_logits.data.equal(theirs.seg_logits.data)


def test_a_config_without_a_pipeline_or_classes_is_said(model, tmp_path):
    cfg = Config.fromfile(model[0])
    network = build_model(cfg, str(model[1]), 'cpu')
    network.dataset_meta = {}
    with pytest.raises(ValueError, match='expected the names of the classes in the checkpoint'):
        predictor.Predictor(cfg, network, tmp_path, 0)
    cfg.test_dataloader.dataset.pipeline = []
    with pytest.raises(ValueError, match='expected test_dataloader.dataset.pipeline'):
        predictor.inference_pipeline(cfg)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM'])
def test_a_signal_ends_it_with_what_is_done(name, model, two_images, tmp_path):
    for number in range(2000):
        (two_images / f'{number:04d}.png').symlink_to(two_images / 'a.png')
    out = tmp_path / 'out'
    process = subprocess.Popen(
        [sys.executable, TOOLS / 'predict.py', *model, two_images, '--out', out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (out / 'overlays' / '0005.png').exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130 and error.endswith('predict: interrupted\n')
    saved = json.loads((out / 'predictions.json').read_text())
    assert 6 <= len(saved['images']) < 2000 and not saved['failures']
