"""The check of COCO files and their images: healthy ones, then each broken in one way."""

import json
import os

import pytest
from mmengine.registry import DefaultScope
from PIL import Image
from support.datasets import (
    HEIGHT,
    WIDTH,
    check_files,
    draw,
    image,
)

from convnext_backbones.checks import coco as checks_coco
from convnext_backbones.checks import sources as checks_sources
from convnext_backbones.checks.data import check_data
from convnext_backbones.checks.findings import ERROR, WARNING
from convnext_backbones.checks.sources import SAMPLE, build_sources


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
    assert "none of the categories ('cat', 'dog') is among the classes ('Cat', 'Dog')" in texts[0]
    assert 'The testing results of the whole dataset is empty' in texts[0]
    assert 'none of 3 annotations remains for the train data' in texts[1]


@pytest.mark.parametrize(
    ('classes', 'level', 'what'),
    [
        (('cat', 'dog', 'emu'), WARNING, 'classes that are no categories'),
        (('dog', 'cat'), ERROR, "label 0 is 'cat' in the order of this file"),
        (('ant', 'cat', 'dog'), ERROR, "but 'ant' in that of the classes"),
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
    assert 'none of 3 annotations remains for the train data' in finding.what


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


def test_a_file_of_crowd_regions_trains_nothing(coco):
    for entry in coco.train['annotations']:
        entry['iscrowd'] = 1
    (finding,) = check_files(coco.config())
    assert finding.level == ERROR and finding.where == str(coco.folder / 'train.json')
    assert 'none of 3 annotations remains for the train data (3 crowd regions' in finding.what


def test_nearly_nothing_that_remains_is_a_finding(coco):
    first, *_ = coco.train['annotations']
    crowd = [dict(first, id=100 + i, iscrowd=1) for i in range(30)]
    coco.train['annotations'] += crowd
    (finding,) = check_files(coco.config())
    assert finding.level == WARNING
    assert 'only 3 of 33 annotations remain for the train data (30 crowd' in finding.what
    del crowd[20:]
    coco.train['annotations'] = coco.train['annotations'][:3] + crowd
    assert check_files(coco.config()) == []


def test_classes_without_an_object(coco):
    coco.content['val']['annotations'] = [
        entry for entry in coco.content['val']['annotations'] if entry['category_id'] != 1
    ]
    (finding,) = check_files(coco.config())
    assert finding.level == WARNING and finding.where == str(coco.folder / 'val.json')
    assert 'classes without a single object in the val data' in finding.what
    assert finding.examples == ('cat',)
