"""Folders of data as tools write them: every layout that is recognized, with small images."""

import json
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from convnext_backbones.config.labels import set_labels

from .datasets import HEIGHT, WIDTH, draw

CLASSES = ('cat', 'dog')
# VOC's first colors, which CVAT gives to the first labels.
COLORS = ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))


# --- annotations of objects -----------------------------------------------------------------


def coco(names, categories=CLASSES, start=1, masks=True, **entry):
    """The content of a COCO JSON with one object in each image, of each class in turn."""
    images = [
        dict(id=number, file_name=name, width=WIDTH, height=HEIGHT)
        for number, name in enumerate(names, 1)
    ]
    annotations = [
        dict(
            id=number + start - 1,
            image_id=number,
            category_id=1 + number % len(categories),
            bbox=[5, 6, 10, 8],
            area=80,
            iscrowd=0,
            segmentation=[[5, 6, 15, 6, 15, 14, 5, 14]] if masks else [],
        )
        | entry
        for number in range(1, len(names) + 1)
    ]
    return dict(
        images=images,
        annotations=annotations,
        categories=[
            dict(id=number, name=name, supercategory='')
            for number, name in enumerate(categories, 1)
        ],
    )


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def images(folder: Path, *names: str) -> list[str]:
    for name in names:
        draw(folder / name)
    return list(names)


def numbered(number: int, suffix: str = '.jpg', start: int = 1) -> list[str]:
    return [f'{index:06}{suffix}' for index in range(start, start + number)]


def official_coco(folder: Path) -> Path:
    for split, start in (('train', 1), ('val', 7)):
        names = images(folder / f'{split}2017', *numbered(4, start=start))
        for kind in ('instances', 'person_keypoints'):
            write(folder / f'annotations/{kind}_{split}2017.json', coco(names))
        write(folder / f'annotations/captions_{split}2017.json', dict(images=[], annotations=[]))
    return folder


def roboflow_coco(folder: Path) -> Path:
    for split in ('train', 'valid', 'test'):
        names = images(folder / split, *(f'{split}{n}_jpg.rf.0a1b.jpg' for n in range(4)))
        content = coco(names)
        content['categories'] = [
            dict(id=0, name='animals', supercategory='none'),
            *(category | dict(supercategory='animals') for category in content['categories']),
        ]
        write(folder / split / '_annotations.coco.json', content)
    write(folder / 'README.roboflow.txt', 'animals\n')
    return folder


def cvat_coco(folder: Path) -> Path:
    names = images(folder / 'images/default', *(f'frame_{n:06}.PNG' for n in range(6)))
    write(folder / 'annotations/instances_default.json', coco(names))
    return folder


def label_studio_coco(folder: Path) -> Path:
    names = images(folder / 'images', *(f'0a1b2c3{n}-photo{n}.jpg' for n in range(6)))
    listed = [f'images\\{name}' for name in names[:3]] + [
        f'../../label-studio/data/media/upload/1/{name}' for name in names[3:]
    ]
    write(folder / 'result.json', coco(listed, start=0))
    return folder


def fiftyone_coco(folder: Path) -> Path:
    names = images(folder / 'data', *numbered(6))
    write(folder / 'labels.json', coco(names))
    return folder


def json_per_split(folder: Path) -> Path:
    for split in ('train', 'val', 'test'):
        write(folder / f'{split}.json', coco(images(folder / split, *numbered(4, '.png'))))
    return folder


def json_in_annotations(folder: Path) -> Path:
    for split in ('train', 'val'):
        names = images(folder / 'images' / split, *numbered(4))
        write(folder / f'annotations/{split}.json', coco(names))
    return folder


def one_json(folder: Path) -> Path:
    write(folder / 'annotations.json', coco(images(folder / 'images', *numbered(6))))
    return folder


def json_beside_images(folder: Path) -> Path:
    write(folder / 'coco.json', coco(images(folder, *numbered(6))))
    return folder


# --- label maps -----------------------------------------------------------------------------


def label_map(path: Path, *values: int, palette=None, size=(HEIGHT, WIDTH), dtype=np.uint8) -> None:
    """Write a map that has these values in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.resize(np.array(values, dtype), size))
    if palette is not None:
        image.putpalette([number for color in palette for number in color])
    image.save(path)


def color_map(path: Path, *colors: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.resize(np.array(colors, np.uint8), (HEIGHT, WIDTH, 3))
    Image.fromarray(rows).save(path)


def pairs(image_folder: Path, label_folder: Path, names, *values, ending='.png', **options) -> None:
    """Write an image and a label map for each name."""
    for name in names:
        draw(image_folder / name)
        label_map(label_folder / (Path(name).stem + ending), *values, **options)


def ade20k(folder: Path, number: int = 3) -> Path:
    for split, short in (('training', 'train'), ('validation', 'val')):
        names = [f'ADE_{short}_{n:08}.jpg' for n in range(number)]
        pairs(folder / 'images' / split, folder / 'annotations' / split, names, 0, 1, 2, 150)
    write(folder / 'objectInfo150.txt', 'Idx\tRatio\tTrain\tVal\tStuff\tName\n')
    return folder


def like_ade20k(folder: Path) -> Path:
    for split in ('training', 'validation'):
        names = numbered(3, start=1 if split == 'training' else 7)
        pairs(folder / 'images' / split, folder / 'annotations' / split, names, 0, 1, 2, 3)
    return folder


def cityscapes(folder: Path, kind: str = 'Ids') -> Path:
    for split, city in (('train', 'aachen'), ('train', 'bochum'), ('val', 'munster')):
        for number in range(2):
            name = f'{city}_{number:06}_000019'
            draw(folder / 'leftImg8bit' / split / city / f'{name}_leftImg8bit.png')
            base = folder / 'gtFine' / split / city / f'{name}_gtFine'
            label_map(Path(f'{base}_labelIds.png'), 0, 7, 8, 11, 33, 3)
            color_map(Path(f'{base}_color.png'), *COLORS)
            label_map(Path(f'{base}_instanceIds.png'), 7, 26001, dtype=np.uint16)
            if kind == 'TrainIds':
                label_map(Path(f'{base}_labelTrainIds.png'), 255, 0, 1, 2, 18)
    draw(folder / 'leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png')
    return folder


def voc_maps(folder: Path) -> Path:
    """VOC2012: more images than label maps, and lists of names."""
    names = [f'2007_{n:06}' for n in range(6)]
    colors = [*COLORS, *[(0, 0, 0)] * 251, (224, 224, 192)]
    for name in names:
        draw(folder / f'JPEGImages/{name}.jpg')
        label_map(folder / f'SegmentationClass/{name}.png', 0, 1, 3, 255, palette=colors)
        label_map(folder / f'SegmentationObject/{name}.png', 0, 1, 2, 255, palette=colors)
    draw(folder / 'JPEGImages/2008_000001.jpg')
    for split, own in (('train', names[:4]), ('val', names[4:]), ('trainval', names)):
        write(folder / f'ImageSets/Segmentation/{split}.txt', ''.join(f'{n}\n' for n in own))
    return folder


def cvat_masks(folder: Path) -> Path:
    """CVAT's "Segmentation mask 1.1", with the images."""
    names = [f'frame_{n:06}' for n in range(4)]
    for name in names:
        draw(folder / f'JPEGImages/{name}.jpg')
        color_map(folder / f'SegmentationClass/{name}.png', *COLORS[:3])
        color_map(folder / f'SegmentationObject/{name}.png', *COLORS[:3])
    write(folder / 'ImageSets/Segmentation/default.txt', '\n'.join(names))
    write(
        folder / 'labelmap.txt',
        '# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:0,128,0::\ndog:128,0,0::\n',
    )
    return folder


def camvid(folder: Path) -> Path:
    """CamVid as SegNet's tutorial has it: the label 11 is void."""
    for split in ('train', 'val', 'test'):
        names = [f'{split}_{n:04}.png' for n in range(3)]
        pairs(folder / split, folder / f'{split}annot', names, *range(12))
        lines = [f'/SegNet/CamVid/{split}/{n} /SegNet/CamVid/{split}annot/{n}\n' for n in names]
        write(folder / f'{split}.txt', ''.join(lines))
    names = 'sky building pole road pavement tree sign fence car pedestrian bicyclist void'
    write(folder / 'classes.txt', '\n'.join(names.split()))
    return folder


def camvid_colors(folder: Path) -> Path:
    """CamVid with colored maps in folders of their own, and class_dict.csv."""
    for split in ('train', 'val'):
        for name in (f'{split}_{n:04}' for n in range(3)):
            draw(folder / split / f'{name}.png')
            color_map(folder / f'{split}_labels' / f'{name}_L.png', *COLORS)
    write(
        folder / 'class_dict.csv',
        'name,r,g,b\nVoid,0,0,0\nBuilding,128,0,0\nTree,0,128,0\nSky,128,128,0\n',
    )
    return folder


def fastai_camvid(folder: Path) -> Path:
    """CamVid as fast.ai has it: one folder, names of the validation images, numbers in labels."""
    names = [f'0001TP_{n:06}.png' for n in range(6)]
    pairs(folder / 'images', folder / 'labels', names, 0, 1, 2, ending='_P.png')
    write(folder / 'codes.txt', 'Animal\nArchway\nBicyclist\n')
    write(folder / 'valid.txt', '\n'.join(names[4:]))
    return folder


def split_below(folder: Path) -> Path:
    """Images and masks in folders below those of the parts."""
    for split in ('train', 'val'):
        names = [f'{split}{n}.jpg' for n in range(3)]
        pairs(folder / split / 'images', folder / split / 'masks', names, 0, 1, 2)
    return folder


def roboflow_masks(folder: Path) -> Path:
    """Roboflow's semantic masks, which lie beside their images."""
    for split in ('train', 'valid'):
        names = [f'{split}{n}_jpg.rf.0a1b.jpg' for n in range(3)]
        pairs(folder / split, folder / split, names, 0, 1, 2, ending='_mask.png')
        write(
            folder / split / '_classes.csv',
            'Pixel Value, Class\n0, background\n1, cat\n2, dog\n',
        )
    return folder


def black_and_white(folder: Path) -> Path:
    pairs(folder / 'images', folder / 'masks', [f'{n}.jpg' for n in range(6)], 0, 255)
    return folder


# --- text files of YOLO, XML files of VOC ---------------------------------------------------

BOX, TRIANGLE = '{} 0.5 0.5 0.25 0.4', '{} 0.1 0.1 0.6 0.1 0.1 0.8'


def yolo_labels(folder: Path, names, row: str = BOX) -> None:
    """Write a text file for each image but the last."""
    for number, name in enumerate(names[:-1]):
        write(folder / f'{Path(name).stem}.txt', row.format(number % 2) + '\n')


def yolo(folder: Path, row: str = BOX) -> Path:
    """Ultralytics: ``images`` and ``labels`` beside each other."""
    for split in ('train', 'val'):
        names = images(folder / 'images' / split, *(f'{split}{n}.jpg' for n in range(4)))
        yolo_labels(folder / 'labels' / split, names, row)
    write(
        folder / 'data.yaml',
        'path: ../datasets/mine\ntrain: images/train\nval: images/val\n'
        'names:\n  0: cat\n  1: dog\n',
    )
    return folder


def yolo_polygons(folder: Path) -> Path:
    return yolo(folder, TRIANGLE)


def roboflow_yolo(folder: Path) -> Path:
    """Roboflow's paths lead out of the folder."""
    for split in ('train', 'valid', 'test'):
        names = images(folder / split / 'images', *(f'{split}{n}.jpg' for n in range(4)))
        yolo_labels(folder / split / 'labels', names)
    write(
        folder / 'data.yaml',
        'train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n'
        "nc: 2\nnames: ['cat', 'dog']\n",
    )
    return folder


def yolo_lists(folder: Path) -> Path:
    """Text files that list the images of each part."""
    names = images(folder / 'images', *(f'{n}.jpg' for n in range(6)))
    yolo_labels(folder / 'labels', names)
    write(folder / 'train.txt', ''.join(f'./images/{name}\n' for name in names[:4]))
    write(folder / 'val.txt', ''.join(f'/home/me/mine/images/{name}\n' for name in names[4:]))
    write(folder / 'mine.yaml', 'train: train.txt\nval: [val.txt]\nnames: [cat, dog]\n')
    return folder


def cvat_yolo(folder: Path) -> Path:
    """CVAT's "YOLO 1.1": labels beside the images, names in obj.names."""
    names = images(folder / 'obj_train_data', *(f'frame_{n:06}.jpg' for n in range(5)))
    yolo_labels(folder / 'obj_train_data', names)
    write(folder / 'obj.names', 'cat\ndog\n')
    write(folder / 'obj.data', 'classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n')
    write(folder / 'train.txt', ''.join(f'data/obj_train_data/{name}\n' for name in names))
    return folder


def label_studio_yolo(folder: Path) -> Path:
    names = images(folder / 'images', *(f'0a1b2c3{n}-photo.jpg' for n in range(5)))
    yolo_labels(folder / 'labels', names)
    write(folder / 'classes.txt', 'cat\ndog\n')
    write(folder / 'notes.json', dict(categories=[dict(id=0, name='cat')], info={}))
    return folder


XML_OBJECT = """
  <object><name>{name}</name><pose>Unspecified</pose><truncated>1</truncated>
    <difficult>{difficult}</difficult>
    <bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
  </object>"""


def xml(name: str, *objects: str) -> str:
    return (
        f'<annotation><folder>VOC</folder><filename>{name}</filename><size><width>{WIDTH}</width>'
        f'<height>{HEIGHT}</height><depth>3</depth></size>{"".join(objects)}</annotation>'
    )


def xml_object(name: str, box=(1, 1, 10, 20), difficult: int = 0) -> str:
    return XML_OBJECT.format(name=name, box=box, difficult=difficult)


def voc_xml(folder: Path) -> Path:
    names = [f'2007_{n:06}' for n in range(6)]
    for number, name in enumerate(names):
        draw(folder / f'JPEGImages/{name}.jpg')
        objects = xml_object(('cat', 'dog')[number % 2]), xml_object('cat', (5, 5, 30, 30), 1)
        write(folder / f'Annotations/{name}.xml', xml(f'{name}.jpg', *objects))
    for split, own in (('train', names[:4]), ('val', names[4:]), ('trainval', names)):
        write(folder / f'ImageSets/Main/{split}.txt', ''.join(f'{n}\n' for n in own))
        write(folder / f'ImageSets/Main/cat_{split}.txt', ''.join(f'{n}  1\n' for n in own))
    return folder


def roboflow_xml(folder: Path) -> Path:
    """XML files beside the images, with boxes that begin at 0."""
    for split in ('train', 'valid'):
        for name in (f'{split}{n}_jpg.rf.0a1b' for n in range(3)):
            draw(folder / split / f'{name}.jpg')
            boxes = xml_object('cat', (0, 0, 10, 20)), xml_object('dog')
            write(folder / split / f'{name}.xml', xml(f'{name}.jpg', *boxes))
    return folder


def voc2012(folder: Path) -> Path:
    """VOC as it is published: boxes and label maps of the same images."""
    return voc_xml(voc_maps(folder))


# --- what the project makes of them -----------------------------------------------------------


def config(found) -> Config:
    """A config with a dataset for each part of the data that were found."""
    loaders = {}
    for name, split in found.splits.items():
        if found.task == 'detection':
            dataset = dict(
                type='CocoDataset',
                ann_file=str(split.annotations),
                data_prefix=dict(img=str(split.images)),
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='LoadAnnotations', with_bbox=True, with_mask=found.has_masks),
                ],
            )
        else:
            dataset = dict(
                type='BaseSegDataset',
                ann_file=str(split.list_file or ''),
                data_prefix=dict(img_path=str(split.images), seg_map_path=str(split.annotations)),
                img_suffix=found.image_suffix,
                seg_map_suffix=found.label_suffix,
                pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
            )
        metainfo = dict(classes=found.classes)
        if found.palette:
            metainfo['palette'] = [list(color) for color in found.palette]
        dataset |= dict(serialize_data=False)  # which would collect garbage each time
        dataset |= dict(data_root='', metainfo=metainfo, test_mode=name != 'train')
        loaders[f'{name}_dataloader'] = dict(dataset=dataset)
    scope = 'mmdet' if found.task == 'detection' else 'mmseg'
    cfg = Config(dict(default_scope=scope, **loaders))
    if found.task == 'segmentation':
        cfg.reduce_zero_label = found.reduce_zero_label
        cfg.ignore_labels = list(found.ignore_labels)
        set_labels(cfg)
    return cfg


def build(found) -> dict:
    """The datasets of mmdet or mmseg, by part of the data."""
    cfg = config(found)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return {name: DATASETS.build(cfg[f'{name}_dataloader'].dataset) for name in found.splits}


def labels(dataset) -> set[int]:
    """The values of the label maps as the model gets them."""
    return {int(v) for item in dataset for v in np.unique(item['gt_seg_map'])}
