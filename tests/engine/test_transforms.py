"""Pipelines name the file that they cannot read, and keep data inside their folders."""

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from PIL import Image
from support.miniatures import leave_configs_unformatted, make_data, miniature

from convnext_backbones.engine.runner import build_runner
from convnext_backbones.engine.transforms import name_unreadable_files
from convnext_backbones.io.images import UnreadableFileError
from convnext_backbones.training.flags import set_bad_image_skipping
from tools import test as test_tool
from tools import train

ROOT = Path(__file__).resolve().parents[2]

LIMIT = 240  # seconds for one command


def scene(height: int, width: int) -> np.ndarray:
    """(height, width, 3), uint8, BGR: slopes, which survive compression, and no two alike."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [255 * x / width, 255 * y / height, 128 * (x / width + y / height)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def by_cv2(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


@pytest.fixture(scope='module')
def samples(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('samples')
    make_data(folder)
    return folder


@pytest.fixture
def data(samples, tmp_path, monkeypatch) -> Path:
    """Sample data of its own in the current folder."""
    leave_configs_unformatted(monkeypatch)
    monkeypatch.setattr('convnext_backbones.training.records.draw_results', lambda rows, path: None)
    shutil.copytree(samples, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images(task: str, split: str) -> list[Path]:
    folder = dict(
        det=f'coco/{split}',
        seg='ade20k/images/' + dict(train='training', val='validation')[split],
    )[task]
    return sorted(Path('data/sample', folder).iterdir())


def label_map(image: Path) -> Path:
    return Path(str(image).replace('/images/', '/annotations/')).with_suffix('.png')


def of_kind(kind: str, size: tuple[int, int]) -> bytes:
    """An image of ``size`` in some format."""
    gray = np.full(size, 90, np.uint8)
    color = np.dstack([gray, gray, gray])
    picture, file = Image.fromarray(color), io.BytesIO()
    if kind == 'cmyk':
        picture.convert('CMYK').save(file, 'JPEG')
    elif kind == 'gif':
        picture.save(file, 'GIF', save_all=True, append_images=[Image.new('RGB', picture.size)])
    else:
        alpha, deep = np.dstack([color, gray]), gray.astype(np.uint16) * 256
        forms = {'gray': gray, 'alpha': alpha, '16 bits': deep, 'one pixel': color[:1, :1]}
        return by_cv2('.png', forms[kind])
    return file.getvalue()


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_odd_images_train_and_validate(task, data):
    """Four images to train with and three to validate, none of them an RGB JPEG."""
    # mmdet loads boxes without looking at the image; for label maps see below.
    small = 'one pixel' if task == 'det' else 'alpha'
    kinds = ['gray', 'alpha', 'cmyk', '16 bits', '16 bits', 'gif', small]
    for path, kind in zip(images(task, 'train') + images(task, 'val'), kinds, strict=True):
        path.write_bytes(of_kind(kind, cv2.imread(str(path)).shape[:2]))
    runner = build_runner(miniature(task, data / 'work', dict(det=1, seg=2)[task]))
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 2 and np.isfinite(losses).all()


def store(cfg: Config) -> str:
    cfg.dump('config.py')
    return 'config.py'


def message(tool, *args: str) -> str:
    with pytest.raises(SystemExit) as end:
        tool.main([*args])
    return end.value.code


def checkpoint(cfg: Config) -> str:
    """A checkpoint of an untrained model of ``cfg``."""
    init_default_scope(cfg.default_scope)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), 'start.pth')
    return 'start.pth'


@pytest.mark.parametrize(('task', 'workers'), [('det', 2), ('seg', 0)])
def test_training_names_the_bad_image(task, workers, data):
    bad = images(task, 'train')[2]
    bad.write_bytes(bad.read_bytes()[:900])
    cfg = miniature(task, data / 'work', length=2)
    cfg.train_dataloader.update(num_workers=workers, persistent_workers=workers > 0)
    sentence = message(train, store(cfg), '--no-check')
    assert sentence.startswith(f"train: cannot read the image '{bad}': image file is truncated")


def test_training_names_the_bad_label_map(data):
    bad = label_map(images('seg', 'train')[2])
    bad.write_bytes(b'')
    sentence = f"train: cannot read the annotations in '{bad}': the file is damaged or not an image"
    config = store(miniature('seg', data / 'work', length=2))
    assert message(train, config, '--no-check') == sentence


def test_training_without_bad_images_names_each(data):
    bad = images('det', 'train')[2]
    bad.write_bytes(b'')
    cfg = miniature('det', data / 'work', length=1)
    train.main([store(cfg), '--skip-bad-images', '--no-check'])
    (log,) = Path('work').rglob('2*.log')
    assert f"Skipped: cannot read the image '{bad}': the file is empty" in log.read_text()
    # Only for training: what is evaluated has to be there.
    images('det', 'val')[1].write_bytes(b'')
    assert message(train, 'config.py', '--skip-bad-images', '--no-check').endswith(
        'the file is empty'
    )


def test_only_loaders_of_files_can_skip():
    cfg = Config(dict(train_dataloader=dict(dataset=dict(pipeline=[dict(type='Resize')]))))
    with pytest.raises(ValueError, match='expected LoadImageFromFile in the pipeline of train'):
        set_bad_image_skipping(cfg)
    inner = dict(pipeline=[dict(type='mmcv.LoadImageFromFile', to_float32=True)])
    wrapped = dict(type='RepeatDataset', times=2, dataset=inner)
    cfg = Config(dict(train_dataloader=dict(dataset=wrapped)))
    set_bad_image_skipping(cfg)
    assert cfg.train_dataloader.dataset.dataset.pipeline == [
        dict(type='LoadImageFromFile', to_float32=True, ignore_empty=True)
    ]


@pytest.mark.parametrize('flags', [[], ['--tta']])
def test_testing_names_the_bad_image(flags, data):
    cfg = miniature('seg', data / 'work', length=2)
    start = checkpoint(cfg)
    bad = images('seg', 'val')[1]
    bad.write_bytes(b'no image')
    sentence = f"test: cannot read the image '{bad}': the file is damaged or not an image"
    assert message(test_tool, store(cfg), start, *flags) == sentence


def test_testing_names_the_image_that_the_network_cannot_take(data, capfd):
    cfg = miniature('seg', data / 'work', length=2)
    cfg.test_dataloader.batch_size = 1
    start = checkpoint(cfg)
    bad = images('seg', 'val')[1]
    bad.write_bytes(by_cv2('.png', scene(2, 64)))
    label_map(bad).write_bytes(by_cv2('.png', np.ones((2, 64), np.uint8)))
    sentence = message(test_tool, store(cfg), start)
    assert sentence.startswith('test: expected an input of at least 32 x 32 pixels')
    assert f'This failed with {bad}:' in ''.join(capfd.readouterr())


@pytest.mark.parametrize('name', ['../../../start.pth', '/etc/hostname'])
def test_data_cannot_name_files_outside_of_their_folder(name, data):
    cfg = miniature('det', data / 'work', length=1)
    start = checkpoint(cfg)
    for split in ('train', 'val'):
        path = Path(f'data/sample/coco/annotations/instances_{split}.json')
        content = json.loads(path.read_text())
        content['images'][1]['file_name'] = name
        path.write_text(json.dumps(content))
    for tool, args in ((train, ['--no-check']), (test_tool, [start])):
        sentence = message(tool, store(cfg), *args)
        assert 'expected files below' in sentence and name in sentence
    assert 'lead out of the data root' in message(train, 'config.py')


@pytest.mark.slow
def test_workers_name_the_bad_image_without_a_traceback(data):
    bad = images('seg', 'train')[2]
    bad.write_bytes(b'')
    cfg = miniature('seg', data / 'work', length=2)
    cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools/train.py'), store(cfg), '--no-check'],
        env=os.environ | dict(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"train: cannot read the image '{bad}': the file is empty"
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_transforms_keep_their_names_and_may_be_sent_to_workers(scope):
    for _ in range(2):  # once for every config of a process
        name_unreadable_files(scope)
    init_default_scope(scope)
    for name in ('LoadImageFromFile', 'LoadAnnotations'):
        transform = TRANSFORMS.build(dict(type=name))
        assert re.match(r'Load(Image|Annotations)', repr(transform))
        assert repr(pickle.loads(pickle.dumps(transform))) == repr(transform)


def load_annotations(scope: str, results: dict, **arguments) -> str:
    """What a LoadAnnotations says of them."""
    name_unreadable_files(scope)
    init_default_scope(scope)
    load = TRANSFORMS.build(dict(type='LoadAnnotations', **arguments))
    with pytest.raises(UnreadableFileError) as error:
        load(results)
    return str(error.value)


def test_annotations_that_cannot_be_loaded_name_their_image():
    results = dict(img_path='a.jpg', instances=[dict(bbox=[0, 0, 1, 1], bbox_label=0)])
    sentence = load_annotations('mmdet', results, with_mask=True)
    assert sentence == "cannot read the annotations of 'a.jpg': KeyError: 'ignore_flag'"


def test_a_label_map_has_the_size_of_its_image(tmp_path):
    path = tmp_path / 'a.png'
    results = dict(img_path='a.jpg', seg_map_path=str(path), reduce_zero_label=False, seg_fields=[])
    for labels in (np.zeros((64, 63), np.uint8), np.zeros((64, 64, 3), np.uint8)):
        path.write_bytes(by_cv2('.png', labels))
        assert load_annotations('mmseg', dict(results, ori_shape=(64, 64))) == (
            "expected one label for each of the 64 x 64 pixels of 'a.jpg', got "
            f'{" x ".join(map(str, labels.shape))} in {str(path)!r}'
        )
    path.write_bytes(by_cv2('.png', np.zeros((1, 1), np.uint8)))
    sentence = load_annotations('mmseg', dict(results, ori_shape=(1, 1)))
    assert sentence.startswith(
        'expected an image of at least 2 x 2 pixels, because mmdet and mmseg'
    )
    assert sentence.endswith("got 1 x 1 in 'a.jpg'")
