"""Annotation files as labelling tools write them: a healthy one, changed in one way.

A variant changes the content of a file with three images of 40 x 30 pixels and one object each, a
square of polygon [5, 6, 15, 6, 15, 14, 5, 14]; most change the second image or annotation only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from pycocotools import mask

from .datasets import HEIGHT, WIDTH, again, annotation, image, rle, without

SQUARE = [5, 6, 15, 6, 15, 14, 5, 14]
PIXELS = np.zeros((HEIGHT, WIDTH), np.uint8, order='F')
PIXELS[6:14, 5:15] = 1
RUNS = [5 * HEIGHT + 6, 8] + [HEIGHT - 8, 8] * 9 + [HEIGHT * (WIDTH - 14) - 14]
TEXT_RLE = mask.encode(PIXELS)['counts'].decode()
Change = Callable[[dict], object]


def every(key: str, **values) -> Change:
    """Change all images, annotations or categories."""
    return lambda content: [entry.update(values) for entry in content[key]]


def drop(key: str, name: str) -> Change:
    return lambda content: [entry.pop(name) for entry in content[key]]


def ids_of(convert: Callable) -> dict[str, Change]:
    """Convert ids, and what refers to them."""

    def images(content):
        for entry in content['images']:
            entry['id'] = convert(entry['id'])
        for entry in content['annotations']:
            entry['image_id'] = convert(entry['image_id'])

    def categories(content):
        for entry in content['categories']:
            entry['id'] = convert(entry['id'])
        for entry in content['annotations']:
            entry['category_id'] = convert(entry['category_id'])

    def annotations(content):
        for entry in content['annotations']:
            entry['id'] = convert(entry['id'] // 10)

    return dict(image=images, category=categories, annotation=annotations)


def corners(content: dict) -> None:
    """Move the objects to the right, and give their boxes as two corners."""
    for entry in content['annotations']:
        entry['bbox'] = [25, 16, 35, 24]
        entry['segmentation'] = [[25, 16, 35, 16, 35, 24, 25, 24]]


def names(convert: Callable[[str], str]) -> Change:
    def change(content):
        for entry in content['images']:
            entry['file_name'] = convert(entry['file_name'])

    return change


def _references_of_text(content: dict) -> None:
    for entry in content['annotations']:
        entry['image_id'], entry['category_id'] = (
            str(entry['image_id']),
            str(entry['category_id']),
        )


def _same_name_twice(content: dict) -> None:
    content['categories'].append(dict(id=3, name='cat'))
    content['annotations'][1]['category_id'] = 3


def _image_twice_with_its_object(content: dict) -> None:
    content['images'].append(dict(content['images'][1], id=9))
    content['annotations'].append(dict(content['annotations'][1], id=99, image_id=9))


TEXT, ZERO = ids_of(str), ids_of(lambda number: number - 1)
WORDS = ids_of(lambda number: f'item-{number}')
NAN = float('nan')
VARIANTS: dict[str, Change] = {
    'healthy': lambda content: None,
    # Crowds.
    'no iscrowd': drop('annotations', 'iscrowd'),
    'iscrowd of null': every('annotations', iscrowd=None),
    'iscrowd of text': every('annotations', iscrowd='0'),
    'iscrowd of true and false': every('annotations', iscrowd=False),
    'all crowd': every('annotations', iscrowd=1),
    # Boxes and areas.
    'no area': drop('annotations', 'area'),
    'area of null': annotation(area=None),
    'area of 0': annotation(area=0),
    'area below 0': annotation(area=-80),
    'area of NaN': annotation(area=NAN),
    'area of text': annotation(area='80'),
    'area of another scale': annotation(area=8000),
    'no box': drop('annotations', 'bbox'),
    'empty box': annotation(bbox=[]),
    'box of text': annotation(bbox=['5', '6', '10', '8']),
    'box of NaN': annotation(bbox=[5, NAN, 10, 8]),
    'box elsewhere': annotation(bbox=[25, 16, 10, 8]),
    'box beyond': annotation(bbox=[5, 6, 60, 8]),
    'box outside': annotation(bbox=[50, 6, 10, 8]),
    'box of negative size': annotation(bbox=[15, 14, -10, -8]),
    'boxes of two corners': corners,
    # Polygons.
    'no segmentation': without('segmentation'),
    'segmentation of null': annotation(segmentation=None),
    'segmentation of text': annotation(segmentation='abc'),
    'no polygon': annotation(segmentation=[]),
    'empty polygon': annotation(segmentation=[[]]),
    'empty polygon first': annotation(segmentation=[[], SQUARE]),
    'one point': annotation(segmentation=[[5, 6]]),
    'two points': annotation(segmentation=[[5, 6, 15, 14]]),
    'two points first': annotation(segmentation=[[1, 2, 3, 4], SQUARE]),
    'two points later': annotation(segmentation=[SQUARE, [1, 2, 3, 4]]),
    'half a point': annotation(segmentation=[[*SQUARE, 5]]),
    'half a point first': annotation(segmentation=[[*SQUARE, 5], SQUARE]),
    'flat list': annotation(segmentation=SQUARE),
    'pairs': annotation(segmentation=[[[5, 6], [15, 6], [15, 14], [5, 14]]]),
    'points as polygons': annotation(segmentation=[[5, 6], [15, 6], [15, 14], [5, 14]]),
    'a line': annotation(segmentation=[[5, 6, 15, 6, 9, 6]]),
    'a line first': annotation(segmentation=[[5, 6, 15, 6, 9, 6], SQUARE]),
    'repeated last point': annotation(segmentation=[[*SQUARE, 5, 6]]),
    'polygon beyond': annotation(
        segmentation=[[25, 6, 60, 6, 60, 14, 25, 14]], bbox=[25, 6, 35, 8], area=280
    ),
    'polygon of text': annotation(segmentation=[[str(number) for number in SQUARE]]),
    'polygon of NaN': annotation(segmentation=[[*SQUARE, NAN, 9]]),
    'polygon of null': annotation(segmentation=[[*SQUARE, None, None]]),
    # Run-length encodings.
    'runs': rle(counts=RUNS),
    'runs of floats': rle(counts=[float(run) for run in RUNS]),
    'runs of another sum': rle(counts=RUNS[:-1]),
    'runs of a turned image': rle(size=(WIDTH, HEIGHT), counts=RUNS),
    'runs of another size': rle(size=(2 * HEIGHT, WIDTH), counts=RUNS),
    'runs without a size': annotation(segmentation=dict(counts=RUNS)),
    'runs in a list': annotation(segmentation=[dict(size=[HEIGHT, WIDTH], counts=RUNS)]),
    'encoded text': rle(counts=TEXT_RLE),
    'encoded text with b': rle(counts=f"b'{TEXT_RLE}'"),
    'encoded text cut off': rle(counts=TEXT_RLE[:-2]),
    # Ids.
    'image ids of digits': TEXT['image'],
    'image ids of words': WORDS['image'],
    'image ids from 0': ZERO['image'],
    'image id twice': again('images'),
    'image of no id': lambda content: content['images'].append(
        dict(file_name='2.jpg', width=WIDTH, height=HEIGHT)
    ),
    'annotation ids of digits': TEXT['annotation'],
    'annotation ids of words': WORDS['annotation'],
    'annotation ids from 0': ZERO['annotation'],
    'annotation ids of floats': ids_of(float)['annotation'],
    'annotation id twice': again('annotations'),
    'no annotation ids': drop('annotations', 'id'),
    'huge annotation id': annotation(id=10**30),
    'negative annotation id': annotation(id=-1),
    'category ids of digits': TEXT['category'],
    'category ids from 0': ZERO['category'],
    'references of text': _references_of_text,
    'unknown image': annotation(image_id=7),
    'unknown category': annotation(category_id=7),
    'category twice': again('categories'),
    'category name twice': _same_name_twice,
    'categories in another order': lambda content: content['categories'].reverse(),
    'missing category': lambda content: (content['categories'].pop(0), without('id')(content)),
    'image without objects': lambda content: content['annotations'].pop(1),
    # Sizes and file names.
    'sizes of -1': every('images', width=-1, height=-1),
    'no sizes': lambda content: [drop('images', side)(content) for side in ('width', 'height')],
    'sizes of 0': every('images', width=0, height=0),
    'sizes of floats': every('images', width=float(WIDTH), height=float(HEIGHT)),
    'sizes of text': every('images', width=str(WIDTH), height=str(HEIGHT)),
    'sizes of NaN': every('images', width=NAN, height=NAN),
    'a wrong size': image(width=50),
    'a size twice as large': image(width=2 * WIDTH, height=2 * HEIGHT),
    'sizes exchanged': image(width=HEIGHT, height=WIDTH),
    'Windows path': names(lambda name: f'C:\\data\\images\\{name}'),
    'Windows subfolder': names(lambda name: f'.\\{name}'),
    'path of another machine': names(lambda name: f'/home/me/data/{name}'),
    'upload path': names(lambda name: f'/data/upload/1/0a1b2c3d-{name}'),
    'encoded path': names(lambda name: name.replace('.', '%2E')),
    'upper case': names(str.upper),
    'file twice': again('images', id=9),
    'file twice with its object': _image_twice_with_its_object,
    'no file name': lambda content: content['images'][1].pop('file_name'),
    'missing file': image(file_name='none.jpg'),
}
# What is done to the text of a file.
TEXTS: dict[str, Callable[[str], bytes]] = {
    'BOM': lambda text: text.encode('utf-8-sig'),
    'UTF-16': lambda text: text.encode('utf-16'),
    'NaN in other keys': lambda text: text.replace('"area"', '"score": NaN, "area"', 1).encode(),
    'Infinity': lambda text: text.replace('"area": 80', '"area": Infinity', 1).encode(),
    'number too large': lambda text: text.replace('"area": 80', '"area": 1e999', 1).encode(),
}


def turn(path: Path) -> None:
    """Store the orientation in an image with which its sides are exchanged when it is loaded."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as picture:
        picture.save(path, exif=exif)


def write_variant(name: str, content: dict, path: Path) -> None:
    """Write the file of a variant; ``content`` is the healthy one, which is changed."""
    VARIANTS.get(name, VARIANTS['healthy'])(content)
    text = json.dumps(content)
    path.write_bytes(TEXTS.get(name, str.encode)(text))


# --- what training and evaluation make of a file ----------------------------------------------


def count_trained(cfg) -> int:
    """Number of objects that the training data of a config have, loaded as they are trained."""
    dataset = _dataset(cfg, 'train')
    loaded = map(dataset.prepare_data, range(len(dataset)))
    return sum(int((~one['gt_ignore_flags']).sum()) for one in loaded if one is not None)


def evaluate(cfg, kind: type) -> list[float]:
    """Mean AP of boxes and masks, of predictions that are the objects of the healthy file."""
    dataset = _dataset(cfg, 'val', pipeline=[])
    with TemporaryDirectory() as folder:
        metric = kind(
            ann_file=cfg.val_evaluator.ann_file,
            metric=['bbox', 'segm'],
            outfile_prefix=f'{folder}/results',
        )
        metric.dataset_meta = dataset.metainfo
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            number = re.search(r'\d(?=.{4,6}$)', info['img_path'])
            found = dict(
                img_id=info['img_id'],
                bboxes=np.array([[5, 6, 15, 14]]),
                scores=np.array([0.9]),
                labels=np.array([int(number[0]) % 2 if number else 0]),
                masks=[mask.encode(PIXELS)],
            )
            truth = dict(img_id=info['img_id'], width=info['width'], height=info['height'])
            metric.results.append((truth, found))
        results = metric.compute_metrics(metric.results)
    return [results['bbox_mAP'], results['segm_mAP']]


def _dataset(cfg, split: str, **overrides):
    from mmdet.datasets import CocoDataset

    settings = {**cfg[f'{split}_dataloader'].dataset, **overrides}
    settings.pop('type')
    return CocoDataset(**settings)
