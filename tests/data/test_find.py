"""Folders as tools write them are recognized, and become datasets of mmdet and mmseg."""

from pathlib import Path

import pytest
from support import folders
from support.datasets import check_files

import convnext_backbones.engine.label_transforms  # noqa: F401, registers a transform
from convnext_backbones.data.find import find_data
from convnext_backbones.data.prepare import prepare

ANIMALS = ('cat', 'dog')
CAMVID = (
    *('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car'),
    *('pedestrian', 'bicyclist'),
)
# How the folder is made; the layout; the number of images by part; the first classes.
DETECTION = {
    'official_coco': ('COCO', dict(train=4, val=4), ANIMALS),
    'roboflow_coco': ('Roboflow', dict(train=4, val=4, test=4), ANIMALS),
    'cvat_coco': ('CVAT', dict(train=6), ANIMALS),
    'label_studio_coco': ('Label Studio', dict(train=6), ANIMALS),
    'fiftyone_coco': ('FiftyOne', dict(train=6), ANIMALS),
    'json_per_split': ('COCO', dict(train=4, val=4, test=4), ANIMALS),
    'json_in_annotations': ('COCO', dict(train=4, val=4), ANIMALS),
    'one_json': ('COCO', dict(train=6), ANIMALS),
    'json_beside_images': ('COCO', dict(train=6), ANIMALS),
    'yolo': ('YOLO', dict(train=3, val=3), ANIMALS),
    'yolo_polygons': ('YOLO', dict(train=3, val=3), ANIMALS),
    'roboflow_yolo': ('YOLO', dict(train=3, val=3, test=3), ANIMALS),
    'yolo_lists': ('YOLO', dict(train=4, val=1), ANIMALS),
    'cvat_yolo': ('YOLO', dict(train=4), ANIMALS),
    'label_studio_yolo': ('YOLO', dict(train=4), ANIMALS),
    'voc_xml': ('VOC XML', dict(train=4, val=2), ANIMALS),
    'roboflow_xml': ('VOC XML', dict(train=3, val=3), ANIMALS),
    'voc2012': ('VOC XML', dict(train=4, val=2), ANIMALS),
}
SEGMENTATION = {
    'ade20k': ('ADE20K', dict(train=3, val=3), ('wall', 'building', 'sky')),
    'like_ade20k': ('ADE20K', dict(train=3, val=3), ('class 1', 'class 2', 'class 3')),
    'cityscapes': ('Cityscapes', dict(train=4, val=2), ('road', 'sidewalk', 'building')),
    'voc_maps': ('VOC', dict(train=4, val=2), ('background', 'aeroplane', 'bicycle', 'bird')),
    'cvat_masks': ('VOC', dict(train=4), ('background', 'cat', 'dog')),
    'camvid': ('pairs', dict(train=3, val=3, test=3), CAMVID),
    'camvid_colors': ('pairs', dict(train=3, val=3), ('Building', 'Tree', 'Sky')),
    'fastai_camvid': ('pairs', dict(train=4, val=2), ('Animal', 'Archway', 'Bicyclist')),
    'split_below': ('pairs', dict(train=3, val=3), ('class 0', 'class 1', 'class 2')),
    'roboflow_masks': ('pairs', dict(train=3, val=3), ('background', 'cat', 'dog')),
    'black_and_white': ('pairs', dict(train=6), ('background', 'foreground')),
}
LAYOUTS = DETECTION | SEGMENTATION
# Layouts that are read as they are, validation and all.
READABLE = {
    *('official_coco', 'roboflow_coco', 'json_per_split', 'json_in_annotations', 'ade20k'),
    *('like_ade20k', 'voc_maps', 'camvid', 'split_below', 'roboflow_masks'),
}
WITH_MASKS = {name for name in DETECTION if 'coco' in name or 'json' in name} | {'yolo_polygons'}


def contents(folder: Path) -> dict:
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('name', LAYOUTS)
def test_a_layout_is_recognized_and_read(name, tmp_path):
    layout, numbers, classes = LAYOUTS[name]
    folder = getattr(folders, name)(tmp_path / 'data')
    before = contents(folder)
    found = find_data(folder)
    assert found.layout == layout
    assert found.task == ('detection' if name in DETECTION else 'segmentation')
    assert {split: part.number for split, part in found.splits.items()} == numbers
    assert found.classes[: len(classes)] == classes
    assert found.has_masks == (name in WITH_MASKS)
    size = found.statistics.width, found.statistics.height
    assert size == (folders.WIDTH, folders.HEIGHT)
    assert (found.statistics.object_size > 0) == (name in DETECTION)

    ready = prepare(found, tmp_path / 'ready')
    assert contents(folder) == before
    assert (ready is found) == (name in READABLE) == (not (tmp_path / 'ready').exists())
    assert not ready.convert and {'train', 'val'} <= ready.splits.keys()
    assert ready.classes == found.classes
    datasets = folders.build(ready)
    listed = sum(map(len, datasets.values()))
    unannotated = listed - sum(part.number for part in ready.splits.values())
    missing = {'yolo': 2, 'yolo_polygons': 2, 'roboflow_yolo': 3, 'yolo_lists': 1, 'cvat_yolo': 1}
    assert unannotated == missing.get(name, 0)
    if name in SEGMENTATION:
        found_labels = folders.labels(datasets['train'])
        assert found_labels - {255} <= set(range(len(classes))) | set(range(len(ready.classes)))
    else:
        assert datasets['train'][0]['gt_bboxes_labels'].size or name in missing


@pytest.mark.parametrize('name', LAYOUTS)
def test_the_check_says_nothing_about_clean_data(name, tmp_path):
    found = prepare(find_data(getattr(folders, name)(tmp_path / 'data')), tmp_path / 'ready')
    findings = [finding.what for finding in check_files(folders.config(found))]
    # Six images do not have every class of Cityscapes.
    assert [what for what in findings if not what.startswith('classes without a ')] == []
    assert found.layout in ('ADE20K', 'Cityscapes', 'VOC') or name in DETECTION or findings == []
