"""The check before a training: healthy data and configs, then each broken in one way."""

import importlib
import json
import os
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from PIL import Image
from support.miniatures import leave_configs_unformatted, miniature

from convnext_backbones import ConvNeXt
from convnext_backbones.checks import coco as checks_coco
from convnext_backbones.checks import model as checks_model
from convnext_backbones.checks import preflight
from convnext_backbones.checks import sources as checks_sources
from convnext_backbones.checks.data import check_data
from convnext_backbones.checks.findings import ERROR, WARNING
from convnext_backbones.checks.preflight import find_problems
from convnext_backbones.checks.sources import SAMPLE, build_sources
from convnext_backbones.checks.training import (
    check_batch_size,
    check_disk,
    check_imports,
    check_optimizer,
    checkpoint_size,
    count_checkpoints,
)
from convnext_backbones.checks.weights import check_weights
from convnext_backbones.engine import build as engine_build
from convnext_backbones.experiments import EXPERIMENTS
from convnext_backbones.io.files import leaves_root
from convnext_backbones.weights.zoo import local_file

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 40, 30
CLASSES = ('cat', 'dog')
SPLITS = ('train', 'val')


def tool(name: str):
    return importlib.import_module(f'tools.{name}')


def draw(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), noise)


def check_files(cfg: Config, thorough: bool = True) -> list:
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        sources, findings = build_sources(cfg, SPLITS)
        return [*findings, *check_data(cfg, sources, frozenset({255}), thorough)]


class Coco:
    """A healthy data set of two splits of three images, with one object each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content = {}
        for split in SPLITS:
            numbers = range(1, 4)
            for number in numbers:
                draw(folder / split / f'{number}.jpg')
            self.content[split] = dict(
                images=[
                    dict(id=n, file_name=f'{n}.jpg', width=WIDTH, height=HEIGHT) for n in numbers
                ],
                annotations=[
                    dict(
                        id=10 * n,
                        image_id=n,
                        category_id=1 + n % 2,
                        bbox=[5, 6, 10, 8],
                        area=80,
                        segmentation=[[5, 6, 15, 6, 15, 14, 5, 14]],
                    )
                    for n in numbers
                ],
                categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
            )

    def dataset(self, split: str, **overrides) -> dict:
        return dict(
            type='CocoDataset',
            data_root=str(self.folder),
            ann_file=f'{split}.json',
            data_prefix=dict(img=f'{split}/'),
            metainfo=dict(classes=CLASSES),
            filter_cfg=dict(filter_empty_gt=True, min_size=20),
            test_mode=split != 'train',
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            ],
        ) | dict(overrides)

    def config(self, **overrides) -> Config:
        for split, content in self.content.items():
            (self.folder / f'{split}.json').write_text(json.dumps(content))
        loaders = {
            f'{split}_dataloader': dict(dataset=self.dataset(split, **overrides))
            for split in SPLITS
        }
        return Config(dict(default_scope='mmdet', **loaders))

    @property
    def train(self) -> dict:
        return self.content['train']


class Maps:
    """A healthy data set for segmentation: values 1 and 2 are the classes, 0 is unlabeled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for split in SPLITS:
            for number in range(1, 4):
                draw(folder / 'images' / split / f'{number}.jpg')
                self.label(f'{split}/{number}', 0, 1, 2)

    def label(self, name: str, *values: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
        path = self.folder / 'maps' / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.resize(np.array(values, np.uint8), size))

    def config(self, **overrides) -> Config:
        loaders = {}
        for split in SPLITS:
            dataset = dict(
                type='BaseSegDataset',
                data_root=str(self.folder),
                data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'maps/{split}'),
                metainfo=dict(classes=CLASSES, palette=[[0, 0, 0], [9, 9, 9]]),
                reduce_zero_label=True,
                pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
            )
            loaders[f'{split}_dataloader'] = dict(dataset=dataset | overrides)
        return Config(dict(default_scope='mmseg', **loaders))


@pytest.fixture
def coco(tmp_path):
    return Coco(tmp_path / 'coco')


@pytest.fixture
def maps(tmp_path):
    return Maps(tmp_path / 'maps')


def test_healthy_data_have_no_finding(coco, maps):
    assert check_files(coco.config()) == check_files(maps.config()) == []


# --- detection --------------------------------------------------------------------------------


def annotation(**values):
    return lambda content: content['annotations'][1].update(values)


def image(**values):
    return lambda content: content['images'][1].update(values)


def without(key):
    return lambda content: content['annotations'][1].pop(key)


def rle(size=(HEIGHT, WIDTH), counts=(600, 100, 500)):
    return annotation(segmentation=dict(size=list(size), counts=counts))


def again(key, **values):
    return lambda content: content[key].append(dict(content[key][1], **values))


# What is done to the annotation file, and the one finding: level, part of what it says, place.
BROKEN_FILES = {
    'no area': (annotation(bbox=[5, 6, 0.5, 8]), WARNING, 'boxes without area', 'annotation 20'),
    'area of 0': (annotation(area=0), WARNING, 'boxes without area', 'annotation 20'),
    'outside': (annotation(bbox=[40, 6, 5, 5]), ERROR, 'boxes outside', 'annotation 20'),
    'beyond': (annotation(bbox=[5, 6, 37, 8]), WARNING, 'boxes that reach beyond', 'annotation 20'),
    'no box': (without('bbox'), ERROR, 'annotations without an id', 'annotation 20'),
    'box of NaN': (
        annotation(bbox=[5, 6, float('nan'), 8]),
        ERROR,
        'four as bbox',
        'annotation 20',
    ),
    'no number': (without('area'), ERROR, 'a number as area', 'annotation 20'),
    'no mask': (without('segmentation'), ERROR, 'without a segmentation', 'annotation 20'),
    'flat list': (annotation(segmentation=[5, 6, 7]), ERROR, 'neither lists', 'annotation 20'),
    'words': (annotation(segmentation=[['a'] * 6]), ERROR, 'neither lists', 'annotation 20'),
    'half a point': (annotation(segmentation=[[5, 6, 15, 6, 15, 14, 5]]), WARNING, 'half', '20'),
    'a line': (annotation(segmentation=[[5, 6, 15, 6, 9, 6]]), WARNING, 'without area', '20'),
    'far': (annotation(segmentation=[[5, 6, 44, 6, 44, 14]]), WARNING, 'polygons that reach', '20'),
    'RLE size': (rle(size=(WIDTH, HEIGHT)), ERROR, 'RLE of another size', 'annotation 20'),
    'RLE counts': (rle(counts=[600, 100]), ERROR, 'RLE whose counts', 'annotation 20'),
    'RLE text': (rle(counts='0'), ERROR, 'RLE whose counts', 'annotation 20'),
    'RLE cut off': (rle(counts='k45i0000000000'), ERROR, 'RLE whose counts', 'annotation 20'),
    'RLE of other letters': (rle(counts='ÿ0'), ERROR, 'RLE whose counts', 'annotation 20'),
    'RLE of nothing': (rle(counts=None), ERROR, 'RLE whose counts', 'annotation 20'),
    'id twice': (again('annotations'), ERROR, 'with the id of another', 'annotation 20'),
    'unknown image': (annotation(image_id=7), ERROR, 'images that are not listed', '20: image 7'),
    'unknown category': (annotation(category_id=7), ERROR, 'categories that are', '20: category 7'),
    'category twice': (again('categories', id=1), ERROR, 'categories with the id', None),
    'more categories': (again('categories', id=3, name='cow'), WARNING, 'are no classes', 'cow'),
    'missing image': (image(file_name='none.jpg'), ERROR, 'not there', 'train/none.jpg'),
    'name of half a letter': (image(file_name='\ud800/2.jpg'), ERROR, 'not there', r'\ud800'),
    'name of two lines': (image(file_name='a\n2.jpg'), ERROR, 'not there', r'a\n2.jpg'),
    'name with a zero': (image(file_name='\0/2.jpg'), ERROR, 'not there', r'\x00/2.jpg'),
    'no width': (image(width=None), ERROR, 'images without an id', 'image 2'),
    'image twice': (again('images', file_name='2.jpg', id=9), WARNING, 'the file of', 'image 9'),
    'other size': (image(width=50), ERROR, 'of another size', '40 x 30, listed as 50 x 30'),
}
MORE_THAN_ONE = {'no width'}  # its annotation is that of an unknown image


@pytest.mark.parametrize('name', BROKEN_FILES)
def test_a_broken_annotation_file(coco, name):
    change, level, what, place = BROKEN_FILES[name]
    change(coco.train)
    finding, *others = check_files(coco.config())
    assert bool(others) == (name in MORE_THAN_ONE)
    assert finding.level == level and what in finding.what and finding.fix
    assert finding.where == str(coco.folder / 'train.json')
    assert finding.count == (place is not None)
    assert place is None or place in finding.examples[0]


def test_compressed_rle_is_healthy(coco):
    from pycocotools import mask

    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order='F')
    for entry, noise in zip(coco.train['annotations'], (0.0, 0.1, 0.5), strict=True):
        pixels[6:14, 5:15] = np.random.rand(8, 10) >= noise  # many runs, of many lengths
        encoded = mask.encode(pixels)
        entry['segmentation'] = dict(size=[HEIGHT, WIDTH], counts=encoded['counts'].decode())
    rle(counts=[600, 100, 500])(coco.content['val'])
    assert check_files(coco.config()) == []


def test_systems_without_affinity(coco, monkeypatch):
    monkeypatch.delattr(os, 'sched_getaffinity')  # Linux only
    assert check_files(coco.config()) == []


def test_masks_are_not_checked_where_none_is_trained(coco):
    without('segmentation')(coco.train)
    assert check_files(coco.config(pipeline=[dict(type='LoadAnnotations', with_bbox=True)])) == []


def test_corners_in_place_of_sizes_are_an_error(coco):
    for entry in coco.train['annotations']:
        entry['bbox'] = [25, 16, 35, 24]
    (finding,) = check_files(coco.config())
    assert finding.level == ERROR and 'reach beyond' in finding.what and finding.count == 3
    assert 'not two corners' in finding.fix


@pytest.mark.parametrize(
    'text',
    ['{', '[]', '{"images": [], "annotations": [1]}', pytest.param('[' * 10**5, id='deep')],
)
def test_what_is_no_annotation_file(coco, text):
    cfg = coco.config()
    (coco.folder / 'train.json').write_text(text)
    (finding,) = check_files(cfg)
    assert finding.level == ERROR and 'cannot be read' in finding.what
    assert finding.where == str(coco.folder / 'train.json')


def test_a_missing_annotation_file(coco):
    cfg = coco.config()
    cfg.val_dataloader.dataset.ann_file = 'none.json'
    (finding,) = check_files(cfg)
    assert finding.level == ERROR and 'No such file' in finding.what
    assert finding.where == str(coco.folder / 'none.json')
    assert 'val_dataloader.dataset' in finding.fix


def test_no_category_is_a_class(coco):
    findings = check_files(coco.config(metainfo=dict(classes=('Cat', 'Dog'))))
    texts = [str(finding) for finding in findings if finding.level == ERROR]
    assert len(texts) == 4  # of each split the names, and that no annotation is left
    assert "none of the categories 'cat', 'dog' is among the classes 'Cat', 'Dog'" in texts[0]
    assert 'The testing results of the whole dataset is empty' in texts[0]
    assert 'none of 3 annotations is left to the train data' in texts[1]


@pytest.mark.parametrize(
    ('classes', 'level', 'what'),
    [
        (('cat', 'dog', 'emu'), WARNING, 'classes that are no categories'),
        (('dog', 'cat'), ERROR, "label 0 is 'cat' in the order of this file"),
        (('ant', 'cat', 'dog'), ERROR, "and 'ant' in that of the classes"),
    ],
)
def test_labels_are_numbered_by_the_file(coco, classes, level, what):
    from mmdet.datasets import CocoDataset

    cfg = coco.config(metainfo=dict(classes=classes))
    findings = check_files(cfg)
    assert len(findings) == 2 and {finding.level for finding in findings} == {level}
    assert all(what in finding.what for finding in findings)
    # That it is so: the first image has a dog, the second category.
    settings = {**cfg.train_dataloader.dataset, 'pipeline': []}
    settings.pop('type')
    dataset = CocoDataset(**settings)
    (instance,) = dataset.get_data_info(0)['instances']
    assert instance['bbox_label'] == 1


def test_filters_that_leave_nothing(coco):
    (finding,) = check_files(coco.config(filter_cfg=dict(filter_empty_gt=True, min_size=31)))
    assert finding.level == ERROR  # the validation data are not filtered
    assert 'none of 3 annotations is left to the train data' in finding.what


def test_images_for_prediction_need_no_annotations(coco):
    cfg = coco.config()
    content = dict(coco.train)
    del content['annotations']
    (coco.folder / 'train.json').write_text(json.dumps(content))
    cfg.test_dataloader = cfg.pop('train_dataloader')
    with DefaultScope.overwrite_default_scope('mmdet'):
        sources, _ = build_sources(cfg, ['test'])
        (finding,) = check_data(cfg, sources, frozenset(), True)
    assert finding.level == WARNING and 'none of 0 annotations' in finding.what


def test_splits_that_share_images(coco):
    cfg = coco.config()
    cfg.val_dataloader.dataset.data_prefix.img = 'train/'
    (finding,) = check_files(cfg)
    assert finding.level == WARNING and finding.where == 'val_dataloader'
    assert finding.count == 3 and finding.examples[1] == str(coco.folder / 'train/2.jpg')


def test_metrics_from_another_file(coco):
    cfg = coco.config()
    cfg.val_evaluator = [dict(type='CocoMetric', ann_file=str(coco.folder / 'train.json'))]
    (finding,) = check_files(cfg)
    assert (finding.level, finding.where) == (WARNING, 'val_evaluator')
    cfg.val_evaluator[0].ann_file = str(coco.folder / 'val.json')
    assert check_files(cfg) == []


@pytest.mark.parametrize('name', ['../../secret.jpg', '/etc/hostname', 'a/../../../secret.jpg'])
def test_file_names_that_lead_out_are_not_opened(coco, name, monkeypatch):
    draw(coco.folder.parent / 'secret.jpg')
    image(file_name=name)(coco.train)
    opened = []
    open_image = checks_sources.open_image
    monkeypatch.setattr(
        checks_coco,
        'open_image',
        lambda path, loader: opened.append(path) or open_image(path, loader),
    )
    (finding,) = check_files(coco.config())
    assert finding.level == ERROR and 'lead out of the data root' in finding.what
    assert finding.examples[0].startswith('image 2: ') and name in finding.examples[0]
    assert len(opened) == 5 and not any(name in path for path in opened)


def test_what_leaves_a_root(tmp_path):
    root = str(tmp_path / 'data')
    for inside in ('a.jpg', 'a/../b.jpg', str(tmp_path / 'data/c/d.jpg')):
        assert not leaves_root(os.path.join(root, inside), root)
    for outside in ('..', '../data2/a.jpg', 'a/../../b.jpg', '/etc/passwd', str(tmp_path)):
        assert leaves_root(os.path.join(root, outside), root)


def test_prefixes_of_the_config_may_be_anywhere(coco, tmp_path):
    cfg = coco.config()
    os.rename(coco.folder / 'train', tmp_path / 'elsewhere')
    cfg.train_dataloader.dataset.data_prefix.img = str(tmp_path / 'elsewhere')
    assert check_files(cfg) == []


def test_an_image_that_is_cut_off(coco):
    path = coco.folder / 'train/3.jpg'
    path.write_bytes(path.read_bytes()[:-40])
    (finding,) = check_files(coco.config())
    assert finding.level == ERROR and 'cannot be read' in finding.what
    assert str(path) in finding.examples[0]
    # As with --skip-bad-images.
    load = [dict(type='LoadImageFromFile', ignore_empty=True)]
    (finding,) = check_files(coco.config(pipeline=load))
    assert finding.level == WARNING


def test_a_photograph_that_is_turned(coco):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = coco.folder / 'train/1.jpg'
    with Image.open(path) as picture:
        picture.save(path, exif=exif)
    cfg = coco.config()
    (finding,) = check_files(cfg)
    assert finding.level == ERROR and 'EXIF' in finding.what and finding.examples == (str(path),)
    load = cfg.train_dataloader.dataset.pipeline[0]
    load.color_type = 'color_ignore_orientation'  # the remedy that the finding names
    assert load.color_type in finding.fix
    assert check_files(cfg) == []


def test_without_thoroughness_a_sample_is_opened(coco):
    count = 4 * SAMPLE
    for number in range(4, count + 1):
        draw(coco.folder / f'train/{number}.jpg')
        entry = dict(id=number, file_name=f'{number}.jpg', width=WIDTH, height=HEIGHT)
        coco.train['images'].append(entry)
    coco.train['images'][0]['width'] = 41  # the first is in the sample
    coco.train['images'][1]['width'] = 41
    (thorough,) = check_files(coco.config())
    (quick,) = check_files(coco.config(), thorough=False)
    assert (thorough.count, quick.count) == (2, 1)


def test_a_dataset_that_two_splits_share_is_checked_once(coco):
    cfg = coco.config()
    cfg.test_dataloader = deepcopy(cfg.val_dataloader)
    with DefaultScope.overwrite_default_scope('mmdet'):
        sources, _ = build_sources(cfg, ('train', 'val', 'test'))
    assert [source.split for source in sources] == ['train', 'val']


def test_wrappers_are_looked_through(coco):
    cfg = coco.config()
    cfg.train_dataloader.dataset = ConfigDict(
        type='RepeatDataset',
        times=2,
        dataset=dict(
            type='ConcatDataset', datasets=[coco.dataset('train'), coco.dataset('val', typo=1)]
        ),
    )
    finding, *_ = check_files(cfg)
    assert finding.where == 'train_dataloader.dataset.dataset.datasets.1'
    assert finding.level == ERROR and "unexpected keyword argument 'typo'" in finding.what


def test_other_layouts_are_said_not_to_be_checked(coco):
    cfg = coco.config()
    dataset = dict(type='VOCDataset', data_root=str(coco.folder), ann_file='none.txt')
    cfg.train_dataloader.dataset = ConfigDict(dataset, data_prefix=dict(sub_data_root='VOC2007/'))
    (finding,) = check_files(cfg)
    assert finding.level == WARNING and 'VOCDataset' in finding.what
    cfg = coco.config(backend_args=dict(backend='petrel'))
    assert {finding.level for finding in check_files(cfg)} == {WARNING}


# --- segmentation -----------------------------------------------------------------------------


def test_a_label_that_is_no_class(maps):
    maps.label('train/2', 0, 1, 3, 255)
    (finding,) = check_files(maps.config())
    assert finding.level == ERROR and 'none of 2 classes' in finding.what
    assert finding.examples == (f'{maps.folder}/maps/train/2.png: 3',)
    assert 'reduce_zero_label=False' in finding.fix


def test_labels_without_reduce_zero_label(maps):
    cfg = maps.config(reduce_zero_label=False)
    found = check_files(cfg)
    assert [finding.level for finding in found] == [ERROR, ERROR]
    assert found[0].count == 3 and found[0].examples[0].endswith('1.png: 2')
    assert 'reduce_zero_label=True' in found[0].fix
    for split in SPLITS:
        for number in range(1, 4):
            maps.label(f'{split}/{number}', 0, 1)
    assert check_files(cfg) == []


def test_a_class_without_a_pixel(maps):
    for number in range(1, 4):
        maps.label(f'train/{number}', 0, 1, 255)
    (finding,) = check_files(maps.config())
    assert finding.level == WARNING and 'without a pixel' in finding.what
    assert finding.examples == ('dog',)
    assert check_files(maps.config(), thorough=False) == []  # a sample does not tell


def test_the_ignored_label_is_that_of_the_losses(maps):
    cfg = maps.config(reduce_zero_label=False, metainfo=dict(classes=('a', 'b', 'c')))
    maps.label('train/1', 0, 1, 2, 7)
    with DefaultScope.overwrite_default_scope('mmseg'):
        sources, _ = build_sources(cfg, SPLITS)
        assert [*check_data(cfg, sources, frozenset({7}), True)] == []
        assert len([*check_data(cfg, sources, frozenset({255}), True)]) == 1


def test_classes_chosen_from_those_of_a_dataset(maps):
    """mmseg maps the labels of classes that are not wanted to the ignored one."""
    metainfo = dict(classes=('wall', 'sky'))  # 0 and 2 of ADE20K
    cfg = maps.config(type='ADE20KDataset', metainfo=metainfo)
    for split in SPLITS:
        for number in range(1, 4):
            maps.label(f'{split}/{number}', 1, 2, 3, 150)
    assert check_files(cfg) == []


def test_a_label_map_of_another_size(maps):
    maps.label('val/3', 0, 1, 2, size=(WIDTH, HEIGHT))
    (finding,) = check_files(maps.config())
    assert finding.level == ERROR and 'another size' in finding.what
    assert finding.where == f'{maps.folder}/images/val'
    assert finding.examples == (f'{maps.folder}/maps/val/3.png: 30 x 40, the image 40 x 30',)


def test_label_maps_in_color_and_with_a_palette(maps):
    path = maps.folder / 'maps/train/1.png'
    with Image.open(path) as labels:
        indexed = labels.convert('P')
    indexed.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    indexed.save(path)
    assert check_files(maps.config()) == []  # of a palette the indices count
    indexed.convert('RGB').save(path)
    (finding,) = check_files(maps.config())
    assert finding.level == ERROR and finding.examples == (f'{path}: 3 channels',)


def test_files_that_are_not_there(maps):
    (maps.folder / 'maps/train/1.png').unlink()
    (maps.folder / 'maps/train/2.png').write_bytes(b'')
    draw(maps.folder / 'images/train/4.png')
    found = check_files(maps.config())
    assert [finding.level for finding in found] == [WARNING, ERROR, ERROR]
    assert found[0].examples == ('4.png',) and "'.jpg'" in found[0].what
    assert found[1].examples == (str(maps.folder / 'maps/train/1.png'),)
    assert '2.png' in found[2].examples[0] and 'cannot be read' in found[2].what


@pytest.mark.parametrize(
    ('overrides', 'what'),
    [
        (dict(img_suffix='.tif'), "no image whose name ends in '.tif'"),
        (dict(data_root='nowhere'), 'images that cannot be listed'),
        (dict(ann_file='none.txt'), 'images that cannot be listed'),
    ],
)
def test_no_image_at_all(maps, overrides, what):
    found = check_files(maps.config(**overrides))
    assert len(found) == 2
    assert all(finding.level == ERROR and what in finding.what for finding in found)


def test_a_list_of_images_that_leads_out(maps):
    (maps.folder / 'list.txt').write_text('1\n../../../secret\n')
    draw(maps.folder.parent / 'secret.jpg')
    (finding, *_) = check_files(maps.config(ann_file='list.txt'))
    assert finding.level == ERROR and 'lead out of the data root' in finding.what
    assert finding.where == str(maps.folder / 'list.txt')


def test_a_pipeline_against_its_dataset(maps):
    cfg = maps.config()
    cfg.val_dataloader.dataset.pipeline[1].reduce_zero_label = False
    (finding,) = check_files(cfg)
    assert (finding.level, finding.where) == (ERROR, 'val_dataloader.dataset.pipeline')


# --- configs ----------------------------------------------------------------------------------


def on_healthy_data(task: str, data, work_dir: Path, length: int) -> Config:
    """A miniature detector or segmentor whose datasets are those of ``data``."""
    cfg = miniature(task, work_dir, length=length)
    healthy = data.config()
    for split in SPLITS:
        cfg[f'{split}_dataloader'].dataset = healthy[f'{split}_dataloader'].dataset
    cfg.pop('test_dataloader')
    cfg.auto_scale_lr.base_batch_size = 2
    return cfg


@pytest.fixture
def det(coco, tmp_path) -> Config:
    cfg = on_healthy_data('det', coco, tmp_path / 'work', length=1)
    cfg.val_evaluator.ann_file = str(coco.folder / 'val.json')
    for name in ('bbox_head', 'mask_head'):
        cfg.model.roi_head[name].num_classes = len(CLASSES)
    return cfg


@pytest.fixture
def seg(maps, tmp_path) -> Config:
    cfg = on_healthy_data('seg', maps, tmp_path / 'work', length=2)
    for name in ('decode_head', 'auxiliary_head'):
        cfg.model[name].num_classes = len(CLASSES)
    return cfg


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_a_healthy_config_has_no_finding_and_stays_as_it_was(task, request, capfd):
    cfg = request.getfixturevalue(task)
    before = deepcopy(cfg.to_dict())
    assert find_problems(cfg) == []
    assert cfg.to_dict() == before
    assert not Path(cfg.work_dir).exists()
    assert capfd.readouterr().out == ''


def test_heads_for_other_classes(det):
    det.model.roi_head.bbox_head.num_classes = 80
    (finding,) = find_problems(det, thorough=False)  # of both splits, once each
    assert finding.level == ERROR and finding.where == 'model'
    assert finding.examples == ('roi_head.bbox_head: 80',)
    assert 'num_classes=2' in finding.fix


def test_every_head_of_a_list(det, seg):
    from convnext_backbones.engine.build import build_on_meta

    roi_head = det.model.roi_head
    roi_head.update(type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1, 0.5])
    roi_head.bbox_head = [roi_head.bbox_head, dict(roi_head.bbox_head, num_classes=3)]
    det.model.type = 'CascadeRCNN'
    det.model.train_cfg.rcnn = [det.model.train_cfg.rcnn] * 2
    heads = dict(checks_model._classifying_heads(build_on_meta(det)))
    assert heads == {
        'roi_head.bbox_head.0': 2,
        'roi_head.bbox_head.1': 3,
        'roi_head.mask_head.0': 2,
        'roi_head.mask_head.1': 2,
    }
    seg.model.auxiliary_head = [dict(seg.model.auxiliary_head, num_classes=5)]
    heads = dict(checks_model._classifying_heads(build_on_meta(seg)))
    assert heads == {'decode_head': 2, 'auxiliary_head.0': 5}


@pytest.mark.parametrize('classes', ['cat', None])
def test_classes_that_are_no_list(det, classes):
    det.val_dataloader.dataset.metainfo = dict(classes=classes)
    finding = find_problems(det, thorough=False)[0]
    assert (finding.level, finding.where) == (ERROR, 'val_dataloader.dataset.metainfo')
    assert f'got {classes!r}' in finding.what and 'comma' in finding.fix


def test_classes_that_differ_between_splits(det, coco):
    for category, name in zip(coco.content['val']['categories'], ('cow', 'dog'), strict=True):
        category['name'] = name
    coco.config()
    det.val_dataloader.dataset.metainfo = dict(classes=('cow', 'dog'))
    (finding,) = find_problems(det, thorough=False)
    assert (finding.level, finding.where) == (ERROR, 'val_dataloader.dataset.metainfo')
    assert "'cow', 'dog' other than those of train_dataloader.dataset" in finding.what


def test_a_model_that_cannot_be_built(det):
    det.model.neck.type = 'NoSuchNeck'
    (finding,) = find_problems(det, thorough=False)
    assert (finding.level, finding.where) == (ERROR, 'model') and 'NoSuchNeck' in finding.what


def test_forgotten_imports(det):
    assert [*check_imports(det)] == []
    det.pop('custom_imports')
    (finding,) = check_imports(det)
    assert finding.level == WARNING and finding.examples == ("model.backbone.type='ConvNeXt'",)
    assert "custom_imports = dict(imports=['convnext_backbones']" in finding.fix
    det.model.backbone.type = 'mmpretrain.ConvNeXt'
    assert [*check_imports(det)] == []


def test_images_per_step(det):
    det.auto_scale_lr.base_batch_size = 16
    det.optim_wrapper.accumulative_counts = 2
    assert [*check_batch_size(det, processes=4)] == []
    (finding,) = check_batch_size(det, processes=2)
    assert finding.level == WARNING and finding.where == 'auto_scale_lr'
    assert '8 images per step' in finding.what and '0.001 for 16' in finding.what
    assert '0.0005' in finding.fix
    det.auto_scale_lr.enable = True
    assert [*check_batch_size(det, processes=2)] == []


@pytest.fixture
def model(det) -> torch.nn.Module:
    return engine_build.build_on_meta(det)


def test_rules_for_no_parameter(det, model):
    keys = {'backbone': dict(lr_mult=0.1), 'bakbone.stages': dict(lr_mult=0.1)}
    det.optim_wrapper.paramwise_cfg = dict(custom_keys=keys)
    (finding,) = check_optimizer(det, model)
    assert finding.level == WARNING and "'bakbone.stages'" in finding.what
    det.optim_wrapper.constructor = 'ConvNeXtLayerDecayConstructor'
    det.optim_wrapper.paramwise_cfg.decay_rate = 0.9
    (finding,) = check_optimizer(det, model)
    assert finding.level == ERROR and 'bakbone.stages, which match none' in finding.what
    det.optim_wrapper.type = 'AmpOptimWrapper'  # needs no GPU to be checked
    del det.optim_wrapper.paramwise_cfg.custom_keys['bakbone.stages']
    assert [*check_optimizer(det, model)] == []


def test_a_work_dir_that_cannot_be(det, model, tmp_path):
    (tmp_path / 'file').touch()
    det.work_dir = str(tmp_path / 'file/work')
    (finding,) = check_disk(det, model)
    assert finding.level == ERROR and finding.where == det.work_dir


@pytest.mark.parametrize(('checkpoints', 'level'), [(0.9, ERROR), (2.5, WARNING), (3.5, None)])
def test_room_for_the_checkpoints(det, model, monkeypatch, checkpoints, level):
    det.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=3)
    det.train_cfg.max_epochs = 5
    free = int(checkpoints * checkpoint_size(det, model))
    usage = type('Usage', (), dict(free=free))
    monkeypatch.setattr(preflight.shutil, 'disk_usage', lambda folder: usage)
    assert [finding.level for finding in check_disk(det, model)] == [level] * (level is not None)


@pytest.mark.parametrize('optimizer', ['AdamW', 'SGD'])
def test_the_size_of_a_checkpoint_is_that_of_the_file(optimizer, tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.BatchNorm1d(300))
    options = dict(momentum=0.9) if optimizer == 'SGD' else {}
    built = getattr(torch.optim, optimizer)(net.parameters(), lr=0.1, **options)
    net(torch.ones(2, 300)).sum().backward()
    built.step()
    state = dict(state_dict=net.state_dict(), optimizer=built.state_dict())
    torch.save(state, tmp_path / 'checkpoint.pth')
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type=optimizer))))
    size = (tmp_path / 'checkpoint.pth').stat().st_size
    assert checkpoint_size(cfg, net) == pytest.approx(size, rel=0.03)
    cfg.custom_hooks = [dict(type='EMAHook')]
    weights = sum(tensor.nbytes for tensor in net.state_dict().values())
    assert checkpoint_size(cfg, net) == pytest.approx(size + weights, rel=0.03)


@pytest.mark.parametrize(
    ('hook', 'number'),
    [
        (dict(interval=4), 3),
        (dict(interval=4, max_keep_ckpts=2), 2),
        (dict(interval=4, max_keep_ckpts=2, save_best=['a', 'b']), 4),
        (dict(interval=-1, save_best='auto'), 2),
        (dict(interval=50, by_epoch=False), 2),
    ],
)
def test_the_number_of_checkpoints(hook, number):
    settings = dict(train_cfg=dict(max_epochs=10, max_iters=100))
    cfg = Config(dict(settings, default_hooks=dict(checkpoint=hook)))
    assert count_checkpoints(cfg) == number


# --- weights to start from --------------------------------------------------------------------


@pytest.fixture
def no_weights_here(tmp_path, monkeypatch):
    monkeypatch.setenv('CONVNEXT_BACKBONES_CACHE', str(tmp_path / 'cache'))
    monkeypatch.delenv('CONVNEXT_BACKBONES_WEIGHTS', raising=False)
    monkeypatch.delenv('CONVNEXT_BACKBONES_OFFLINE', raising=False)


def test_weights_to_be_downloaded_are_left_alone(no_weights_here, monkeypatch, tmp_path):
    url = 'https://example.org/model.pth'
    assert local_file('convnext_tiny_1k_224') is local_file(url) is None
    assert local_file('torchvision://resnet50') is None
    assert not (tmp_path / 'cache').exists()
    monkeypatch.setenv('CONVNEXT_BACKBONES_OFFLINE', '1')
    with pytest.raises(FileNotFoundError, match='CONVNEXT_BACKBONES_OFFLINE is set'):
        local_file('convnext_tiny_1k_224')
    monkeypatch.setenv('CONVNEXT_BACKBONES_WEIGHTS', str(tmp_path))
    (tmp_path / 'convnext_tiny_1k_224.pth').touch()
    assert local_file('convnext_tiny_1k_224') == tmp_path / 'convnext_tiny_1k_224.pth'


def test_pretrained_weights_that_do_not_fit(det, model, tmp_path, no_weights_here):
    arch = dict(det.model.backbone.arch, dims=[8, 16, 24, 40])
    torch.save(ConvNeXt(**arch).state_dict(), tmp_path / 'other.pth')
    torch.save(ConvNeXt(**det.model.backbone.arch).state_dict(), tmp_path / 'same.pth')

    def start(name: str, thorough: bool = True, **options) -> list:
        det.model.backbone.init_cfg = dict(
            type='PretrainedConvNeXt', checkpoint=str(tmp_path / name), **options
        )
        with DefaultScope.overwrite_default_scope('mmdet'):
            return [*check_weights(det, model, thorough)]

    assert start('same.pth') == start('other.pth', thorough=False) == []
    (finding,) = start('other.pth')
    assert (finding.level, finding.where) == (ERROR, 'model.backbone.init_cfg')
    assert 'dims (8, 16, 24, 40)' in finding.what
    (finding,) = start('other.pth', strict=False)
    assert finding.level == WARNING and 'of another shape' in finding.what
    (finding,) = start('gone.pth', thorough=False)
    assert finding.level == ERROR and 'gone.pth' in finding.what


def test_weights_that_mmengine_would_leave_out(det, model, tmp_path):
    shapes = {name: place.shape for name, place in model.state_dict().items()}
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items()}

    def start(tensors: dict) -> list:
        torch.save(dict(state_dict=tensors), tmp_path / 'start.pth')
        det.load_from = str(tmp_path / 'start.pth')
        return [*check_weights(det, model, thorough=False)]

    assert start({f'module.{name}': tensor for name, tensor in zeros.items()}) == []
    (finding,) = start({f'model.{name}': tensor for name, tensor in zeros.items()})
    assert (finding.level, finding.where) == (ERROR, 'load_from')
    assert 'start from scratch' in finding.what
    head = 'roi_head.bbox_head.fc_cls.weight'
    (finding,) = start(dict(zeros, **{head: torch.zeros(81, 32)}))
    assert finding.level == WARNING and finding.examples == (head,)
    det.load_from = str(tmp_path / 'gone.pth')
    (finding,) = check_weights(det, model, thorough=False)
    assert (finding.level, finding.where) == (ERROR, 'load_from')
    # The same through an init_cfg of mmengine, and a prefix.
    det.load_from = None
    torch.save({f'net.backbone.{n}': t for n, t in zeros.items()}, tmp_path / 'start.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'start.pth'), prefix='net')
    det.model.neck.init_cfg = init
    (finding,) = check_weights(det, model, thorough=False)
    assert (finding.level, finding.where) == (ERROR, 'model.neck.init_cfg')
    init['prefix'] = 'net.backbone.neck.'
    det.model.neck.init_cfg = init
    assert [*check_weights(det, model, thorough=False)] == []


# --- the commands -----------------------------------------------------------------------------


@pytest.fixture
def saved(det, tmp_path, monkeypatch) -> Path:
    """The detector's config as a file."""
    leave_configs_unformatted(monkeypatch)
    monkeypatch.chdir(tmp_path)
    det.dump('config.py')
    return tmp_path / 'config.py'


def test_the_tool_prints_a_table_and_its_status_tells(saved, capsys, coco):
    check = tool('check')
    with pytest.raises(SystemExit) as exit_:
        check.main([str(saved), '--cfg-options', 'auto_scale_lr.base_batch_size=16'])
    assert exit_.value.code == 0  # a warning is no error
    out = capsys.readouterr().out
    assert 'auto_scale_lr' in out and '0 errors and 1 warnings' in out
    annotation(image_id=7)(coco.train)
    coco.config()
    with pytest.raises(SystemExit) as exit_:
        check.main([str(saved)])
    assert exit_.value.code == 1
    assert '1 errors and 0 warnings' in capsys.readouterr().out


def test_the_tool_prints_json_and_nothing_else(saved, capfd, coco):
    annotation(image_id=7)(coco.train)
    coco.config()
    with pytest.raises(SystemExit) as exit_:
        tool('check').main([str(saved), '--json', '--processes', '3', '--accumulate', '2'])
    assert exit_.value.code == 1
    report = json.loads(capfd.readouterr().out)
    assert report['errors'] == report['warnings'] == 1
    first, second = report['findings']
    assert first['level'] == ERROR and first['where'] == str(coco.folder / 'train.json')
    assert first['examples'] == ['annotation 20: image 7'] and first['count'] == 1
    assert second['what'].startswith('12 images per step of the optimizer (3 processes x 2')


def test_imports_that_fail_are_one_finding(saved, capsys):
    text = saved.read_text().replace("'convnext_backbones'", "'no_such_package'")
    saved.write_text(text)
    with pytest.raises(SystemExit) as exit_:
        tool('check').main([str(saved), '--json'])
    assert exit_.value.code == 1
    (finding,) = json.loads(capsys.readouterr().out)['findings']
    assert 'no_such_package' in finding['what'] and '\n' not in finding['what']


@pytest.fixture
def train(monkeypatch):
    """tools/train.py up to the Runner, which it reaches or not."""
    module = tool('train')

    def build_runner(cfg):
        raise ValueError('the runner is reached')

    monkeypatch.setattr(module, 'build_runner', build_runner)
    return module


def test_training_stops_at_an_error(train, saved, coco):
    wrong = [str(saved), '--cfg-options', 'model.roi_head.bbox_head.num_classes=80']
    with pytest.raises(SystemExit) as exit_:
        train.main(wrong)
    text = str(exit_.value)
    assert text.startswith('train: the check before the training found 1 errors')
    assert '--no-check' in text and 'roi_head.bbox_head: 80' in text
    for flags in ([*wrong, '--no-check'], [str(saved)]):
        with pytest.raises(SystemExit) as exit_:
            train.main(flags)
        assert str(exit_.value) == 'train: the runner is reached'


def test_only_the_first_process_tells(det, monkeypatch):
    det.model.roi_head.bbox_head.num_classes = 80
    det.launcher = 'pytorch'
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank, told in ((0, True), (1, False)):
        monkeypatch.setenv('RANK', str(rank))
        with pytest.raises(ValueError, match='--no-check') as error:
            preflight.refuse_problems(det)
        assert ('roi_head.bbox_head' in str(error.value)) == told


def test_warnings_reach_the_log(train, saved, monkeypatch):
    class Reached(BaseException):  # which the tool takes for none of the config's problems
        pass

    class Runner:
        logger = property(lambda self: self)

        def register_hook(self, hook):
            pass

        def warning(self, line):
            if '2 images per step of the optimizer' in line:
                raise Reached

    monkeypatch.setattr(train, 'build_runner', lambda cfg: Runner())
    with pytest.raises(Reached):
        train.main([str(saved), '--cfg-options', 'auto_scale_lr.base_batch_size=16'])


# One of each method, and the largest.
QUICK = ('mask_rcnn_convnext_t', 'cascade_mask_rcnn_convnext_xl_in22k', 'upernet_convnext_t')


@pytest.mark.parametrize(
    'name',
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in EXPERIMENTS],
)
def test_the_published_configs_lack_nothing_but_data(name, tmp_path, monkeypatch, no_weights_here):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    cfg.work_dir = str(tmp_path)
    usage = type('Usage', (), dict(free=1 << 50))
    monkeypatch.setattr(preflight.shutil, 'disk_usage', lambda folder: usage)
    findings = find_problems(cfg, thorough=False, processes=8)
    assert findings and all(finding.where.startswith('data/') for finding in findings)
