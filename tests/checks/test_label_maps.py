"""The check of label maps: healthy ones, then each broken in one way."""

import pytest
from mmengine.registry import DefaultScope
from PIL import Image
from support.datasets import (
    HEIGHT,
    SPLITS,
    WIDTH,
    check_files,
    draw,
)

from convnext_backbones.checks.data import check_data
from convnext_backbones.checks.findings import ERROR, WARNING
from convnext_backbones.checks.sources import build_sources


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
    assert finding.level == ERROR and 'size is not that of their image' in finding.what
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
