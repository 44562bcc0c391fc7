"""Small healthy datasets for detection and segmentation, and ways to break them."""

import json
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope

from convnext_backbones.checks.data import check_data
from convnext_backbones.checks.sources import build_sources

WIDTH, HEIGHT = 40, 30
CLASSES = ('cat', 'dog')
SPLITS = ('train', 'val')


def draw(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    """Write an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), noise)


def check_files(cfg: Config, thorough: bool = True) -> list:
    """Return the findings about the datasets of a config and their files."""
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
                        iscrowd=0,
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


# Ways to break the content of an annotation file: the second image or annotation.


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
