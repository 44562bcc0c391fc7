"""Data as they are found in a folder, and a machine to train on, without either."""

from pathlib import Path

from convnext_backbones.authoring.machine import GIB, Machine
from convnext_backbones.data.found import Found, Split, Statistics

GPU = Machine(True, 24 * GIB)
CPU = Machine(False, 24 * GIB)


def detection(**changes):
    root = Path('data/mine')
    settings = dict(
        task='detection',
        layout='COCO',
        root=root,
        splits=dict(
            train=Split(root / 'train', root / 'train.json', 1000),
            val=Split(root / 'val', root / 'val.json', 100),
        ),
        classes=('cat', 'dog'),
        statistics=Statistics(640, 480, 640, 480, 50.0, 20.0),
        has_masks=True,
    )
    return Found(**settings | changes)


def label_maps(**changes):
    root = Path('data/fields')
    settings = dict(
        task='segmentation',
        layout='pairs',
        root=root,
        splits=dict(
            train=Split(root / 'images/train', root / 'labels/train', 1000),
            val=Split(root / 'images/val', root / 'labels/val', 100),
        ),
        classes=('soil', 'crop', "farmer's weed"),
        statistics=Statistics(640, 480, 640, 480),
        image_suffix='.jpg',
        label_suffix='.png',
        ignore_labels=(7,),
    )
    return Found(**settings | changes)
