"""Samples drawn as the network gets them: which ones, how large, with what on them."""

from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from support.miniatures import SCALE, TRAIN, VAL, make_data, miniature

from convnext_backbones.engine.browsing import Browser, build_dataset, dataset_config
from tools import browse_data

TASKS = ('det', 'seg')
FOLDERS = dict(train='training', val='validation')  # of ADE20K


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('data')
    make_data(folder)
    for task in TASKS:
        miniature(task, Path('work'), 1).dump(folder / f'{task}.py')
    return folder


@pytest.fixture
def browse(data, tmp_path, monkeypatch):
    """Runs the tool on a miniature; the pictures by name."""
    monkeypatch.chdir(data)

    def run(task: str, *flags: str) -> dict[str, np.ndarray]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        browse_data.main([f'{task}.py', '--out', str(out), *flags])
        return {path.name: cv2.imread(str(path)) for path in sorted(out.iterdir())}

    return run


def plain(data: Path, task: str, name: str, split: str) -> np.ndarray:
    """The file of a picture, at the size of the sample; BGR."""
    folder = f'coco/{split}' if task == 'det' else f'ade20k/images/{FOLDERS[split]}'
    image = cv2.imread(str(data / 'data/sample' / folder / f'{Path(name).stem[4:]}.jpg'))
    return mmcv.imresize(image, SCALE)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_boxes_and_masks_stand_where_the_objects_are(browse, data, split):
    pictures = browse('det', '--split', split)
    assert len(pictures) == dict(train=TRAIN, val=VAL)[split]
    from pycocotools.coco import COCO

    coco = COCO(str(data / f'data/sample/coco/annotations/instances_{split}.json'))
    images = {image['file_name']: image for image in coco.loadImgs(coco.getImgIds())}
    for name, picture in pictures.items():
        before = plain(data, 'det', name, split)
        assert picture.shape == before.shape
        changed = np.abs(picture.astype(int) - before).max(axis=2) > 40
        image = images[f'{Path(name).stem[4:]}.jpg']
        objects = np.zeros_like(changed)
        for annotation in coco.loadAnns(coco.getAnnIds(image['id'])):
            x, y, w, h = (value * SCALE[0] / image['width'] for value in annotation['bbox'])
            frame = np.zeros(changed.shape, np.uint8)
            corners = (round(x), round(y)), (round(x + w), round(y + h))
            cv2.rectangle(frame, *corners, 1, thickness=1)
            assert changed[frame > 0].mean() > 0.7, name
            cv2.rectangle(frame, *corners, 1, thickness=-1)
            objects |= cv2.dilate(frame, np.ones((9, 9))) > 0
        assert changed[~objects].mean() < 0.01, name  # what is between them is as it was


@pytest.mark.parametrize('split', ['train', 'val'])
def test_label_maps_cover_their_classes(browse, data, split):
    unscaled = ['--cfg-options', 'train_dataloader.dataset.pipeline.2.ratio_range=(1.0,1.0)']
    pictures = browse('seg', '--split', split, *unscaled)
    assert len(pictures) == dict(train=TRAIN, val=VAL)[split]
    folder = data / 'data/sample/ade20k/annotations' / FOLDERS[split]
    for name, picture in pictures.items():
        before = plain(data, 'seg', name, split)
        assert picture.shape == before.shape
        labels = cv2.imread(str(folder / f'{Path(name).stem[4:]}.png'), cv2.IMREAD_GRAYSCALE)
        labels = mmcv.imresize(labels, SCALE, interpolation='nearest')
        digits = labels >= 2
        # The palette is bright where there are digits and black elsewhere, over half the image.
        assert (picture[digits] > before[digits] * 0.5 + 20).any(axis=1).mean() > 0.8
        expected = before[labels == 1] * 0.5
        assert np.median(np.abs(picture[labels == 1] - expected)) < 2


def test_the_seed_decides_and_more_samples_begin_with_the_same(browse):
    cropped = ['--cfg-options', 'train_dataloader.dataset.pipeline.2.ratio_range=(0.5,2.0)']
    first = browse('seg', '--number', '2', '--seed', '5', *cropped)
    again = browse('seg', '--number', '3', '--seed', '5', *cropped)
    other = browse('seg', '--number', '2', '--seed', '6', *cropped)
    assert len(first) == 2 and len(again) == 3
    assert list(again)[:2] == list(first)
    assert all(np.array_equal(again[name], first[name]) for name in first)
    different = [n for n in first if n in other and np.array_equal(first[n], other[n])]
    assert not different


def test_flipped_samples_are_flipped_with_their_boxes(browse, data):
    pipeline = Config.fromfile(data / 'det.py').train_dataloader.dataset.pipeline
    assert pipeline[3].type == 'PackDetInputs'
    flip = dict(type='RandomFlip', prob=1.0, direction='horizontal')
    cfg = Config.fromfile(data / 'det.py')
    cfg.visualizer.line_width = 1
    cfg.train_dataloader.dataset.pipeline.insert(3, flip)
    cfg.dump(data / 'flipped.py')
    for name, picture in browse('flipped').items():
        before = plain(data, 'det', name, 'train')[:, ::-1]
        # Most of a picture is not annotated.
        assert np.median(np.abs(picture.astype(int) - before)) < 2


@pytest.mark.parametrize('to_rgb', [True, False])
def test_colors_are_those_of_the_file(data, monkeypatch, to_rgb):
    """Normalized or not, in either order of the channels."""
    monkeypatch.chdir(data)
    cfg = Config.fromfile('seg.py')
    init_default_scope(cfg.default_scope)
    config = dataset_config(cfg, 'train')
    config.pipeline[2:4] = [
        dict(type='Normalize', mean=[120.0, 110, 100], std=[60.0, 50, 40], to_rgb=to_rgb)
    ]
    dataset = build_dataset(config)
    sample = dataset[0]
    assert sample['inputs'].dtype == torch.float32
    image = Browser(cfg, config, dataset.metainfo).image(sample['inputs'])
    expected = mmcv.bgr2rgb(cv2.imread(sample['data_samples'].img_path))
    assert np.array_equal(image, expected)


def test_images_of_one_channel_and_of_four(data, monkeypatch):
    monkeypatch.chdir(data)
    cfg = Config.fromfile('seg.py')
    init_default_scope(cfg.default_scope)
    config = dataset_config(cfg, 'train')
    browser = Browser(cfg, config, build_dataset(config).metainfo)
    gray = torch.arange(6, dtype=torch.uint8).view(1, 2, 3)
    assert np.array_equal(browser.image(gray), gray[0].numpy()[:, :, None].repeat(3, axis=2))
    cfg.model.data_preprocessor.update(bgr_to_rgb=False, rgb_to_bgr=True)
    rgb = torch.arange(18, dtype=torch.uint8).view(3, 2, 3)
    browser = Browser(cfg, config, build_dataset(config).metainfo)
    assert np.array_equal(browser.image(rgb), rgb.permute(1, 2, 0).numpy())
    infrared = torch.cat([rgb, torch.zeros(1, 2, 3, dtype=torch.uint8)])  # in the file's order
    assert np.array_equal(browser.image(infrared), rgb.permute(1, 2, 0).numpy())
    deep = browser.image(torch.arange(18).view(3, 2, 3) * 1000.0)
    assert deep.dtype == np.uint8 and deep.min() == 0 and deep.max() == 255


def test_the_default_folder(data, monkeypatch, capsys):
    monkeypatch.chdir(data)
    browse_data.main(['seg.py', '--number', '1'])
    assert len(list(Path('work_dirs/seg/samples_train').iterdir())) == 1
    assert f'1 of {TRAIN} samples are in work_dirs/seg/samples_train' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('task', 'flags', 'message'),
    [
        ('none', [], "expected a config file, found none at 'none.py'"),
        ('det', ['--number', '0'], 'expected --number to be at least 1, got 0'),
        (
            'det',
            ['--cfg-options', 'train_dataloader.dataset.ann_file=annotations/none.json'],
            "found nothing at 'data/sample/coco/annotations/none.json'; check",
        ),
        (
            'det',
            ['--cfg-options', 'train_dataloader.dataset.data_prefix.img=none/'],
            "cannot read the image 'data/sample/coco/none/",
        ),
        (
            'seg',
            ['--cfg-options', 'train_dataloader.dataset.data_prefix.img_path=none'],
            "found nothing at 'data/sample/ade20k/none'; check",
        ),
        (
            'seg',
            ['--cfg-options', 'train_dataloader.dataset.img_suffix=.tif'],
            "expected a dataset with samples, found none for data_root='data/sample/ade20k/'",
        ),
        ('seg', ['--split', 'test', '--cfg-options', 'test_dataloader='], 'expected test_data'),
        ('seg', ['--cfg-options', 'train_dataloader='], 'expected train_dataloader in the config'),
    ],
)
def test_errors_are_one_sentence(browse, task, flags, message):
    with pytest.raises(SystemExit) as exit_:
        browse(task, *flags)
    assert str(exit_.value).startswith('browse_data: ')
    assert message in str(exit_.value)
