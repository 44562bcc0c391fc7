"""The check of boxes, polygons and RLE: a healthy file, broken in one way."""

import numpy as np
import pytest
from support.datasets import (
    HEIGHT,
    WIDTH,
    again,
    annotation,
    check_files,
    image,
    rle,
    without,
)

from convnext_backbones.checks.findings import ERROR, WARNING


def another_category(content):
    again('categories', id=3, name='cow')(content)
    annotation(category_id=3)(content)


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
    'area of NaN': (annotation(area=float('nan')), ERROR, 'a number as area', 'annotation 20'),
    'area of a crowd': (annotation(area=8000), WARNING, 'areas that are far', 'annotation 20'),
    'elsewhere': (annotation(bbox=[25, 16, 10, 8]), WARNING, 'far from their mask', '20'),
    'name twice': (again('categories', id=3), ERROR, 'names of several categories', 'dog'),
    'no mask': (without('segmentation'), ERROR, 'without a segmentation', 'annotation 20'),
    'flat list': (annotation(segmentation=[5, 6, 7]), ERROR, 'neither lists', 'annotation 20'),
    'words': (annotation(segmentation=[['a'] * 6]), ERROR, 'neither lists', 'annotation 20'),
    'half a point': (annotation(segmentation=[[5, 6, 15, 6, 15, 14, 5]]), WARNING, 'half', '20'),
    'a line': (annotation(segmentation=[[5, 6, 15, 6, 9, 6]]), WARNING, 'without area', '20'),
    'far': (annotation(segmentation=[[5, 6, 44, 6, 44, 14]]), WARNING, 'polygons that reach', '20'),
    'RLE size': (rle(size=(WIDTH, HEIGHT)), ERROR, 'RLE whose size', 'annotation 20'),
    'RLE counts': (rle(counts=[600, 100]), ERROR, 'RLE whose counts', 'annotation 20'),
    'RLE text': (rle(counts='0'), ERROR, 'RLE whose counts', 'annotation 20'),
    'RLE cut off': (rle(counts='k45i0000000000'), ERROR, 'RLE whose counts', 'annotation 20'),
    'RLE of other letters': (rle(counts='ÿ0'), ERROR, 'RLE whose counts', 'annotation 20'),
    'RLE of nothing': (rle(counts=None), ERROR, 'RLE whose counts', 'annotation 20'),
    'id twice': (again('annotations'), ERROR, 'with the id of another', 'annotation 20'),
    'unknown image': (annotation(image_id=7), ERROR, 'images that are not listed', '20: image 7'),
    'unknown category': (annotation(category_id=7), ERROR, 'categories that are', '20: category 7'),
    'category twice': (again('categories', id=1), ERROR, 'categories with the id', None),
    'more categories': (another_category, WARNING, 'are no classes', 'cow'),
    'missing image': (image(file_name='none.jpg'), ERROR, 'do not exist', 'train/none.jpg'),
    'name of half a letter': (image(file_name='\ud800/2.jpg'), ERROR, 'do not exist', r'\ud800'),
    'name of two lines': (image(file_name='a\n2.jpg'), ERROR, 'do not exist', r'a\n2.jpg'),
    'name with a zero': (image(file_name='\0/2.jpg'), ERROR, 'do not exist', r'\x00/2.jpg'),
    'no width': (image(width=None), ERROR, 'images without an id', 'image 2'),
    'image twice': (again('images', file_name='2.jpg', id=9), WARNING, 'the file of', 'image 9'),
    'other size': (image(width=50), ERROR, 'not the listed one', '40 x 30, listed as 50 x 30'),
}


# Of the three healthy annotations the broken one is the only cat.
EMPTY_CLASS = 'classes without a single object'
MORE_THAN_ONE = {'no width'}  # its annotation is that of an unknown image


@pytest.mark.parametrize('name', BROKEN_FILES)
def test_a_broken_annotation_file(coco, name):
    change, level, what, place = BROKEN_FILES[name]
    change(coco.train)
    finding, *others = [one for one in check_files(coco.config()) if EMPTY_CLASS not in one.what]
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


def test_masks_are_not_checked_where_none_is_trained(coco):
    without('segmentation')(coco.train)
    assert check_files(coco.config(pipeline=[dict(type='LoadAnnotations', with_bbox=True)])) == []


def test_corners_in_place_of_sizes_are_an_error(coco):
    for entry in coco.train['annotations']:
        entry['bbox'] = [25, 16, 35, 24]
    (finding,) = check_files(coco.config())
    assert finding.level == ERROR and 'reach beyond' in finding.what and finding.count == 3
    assert 'not two corners' in finding.fix


def test_the_order_of_findings_does_not_depend_on_the_hash_seed(run_python, tmp_path, monkeypatch):
    """Of one annotation with problems of four kinds."""
    code = """
        from convnext_backbones.checks.coco_annotations import ListedImage, annotation_problems
        from convnext_backbones.checks.findings import group

        polygons = [[1, 1], [5, 6, 15, 6, 9, 6], [5, 6, 44, 6, 44, 14], 'abc']
        annotation = dict(
            id=1, image_id=1, category_id=1, area=9, bbox=[5, 6, 9, 9], segmentation=polygons
        )
        images = {1: ListedImage('1.jpg', 40, 30, True)}
        problems = annotation_problems([annotation], images, {1: 'cat'}, masks=True)
        print(*group(problems, 'train.json', 'train_dataloader.dataset'), sep='\\n')
    """
    texts = []
    for seed in range(4):
        monkeypatch.setenv('PYTHONHASHSEED', str(seed))
        texts.append(run_python(code, tmp_path))
    assert len(texts[0].splitlines()) == 4
    assert len(set(texts)) == 1
