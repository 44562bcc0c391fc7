"""The text of a config: short, complete, and read back as it was meant."""

from pathlib import Path

import pytest
from mmengine.config import Config
from support.found import GPU, detection, label_maps

from convnext_backbones.authoring.plan import Wishes, choose_head, make_plan
from convnext_backbones.authoring.text import (
    MOST_NAME_LINES,
    WIDTH,
    class_lines,
    config_text,
    data_root,
    needs_classes_file,
)
from convnext_backbones.data.found import Split

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
MOST_LINES = 30


def write(found, folder, wishes=Wishes(), machine=GPU, classes_file=''):  # noqa: B008
    name, head = choose_head(found, wishes)
    plan = make_plan(found, name, head, wishes, machine)
    out = folder / 'mine.py'
    out.write_text(config_text(plan, 'tools/new_config.py data/mine', CONFIGS, out, classes_file))
    lines = out.read_text().splitlines()
    assert len(lines) <= MOST_LINES
    return Config.fromfile(out), plan, lines


def test_a_detector(tmp_path):
    cfg, plan, lines = write(detection(), tmp_path)
    assert lines[0] == '# Written by tools/new_config.py data/mine'
    assert lines[1] == '# COCO: 1,000 images to train on, 100 images to validate on, 2 classes'
    assert max(map(len, lines)) <= WIDTH + 20  # reasons may be longer than code
    assert cfg.classes == ('cat', 'dog')
    train, val = cfg.train_dataloader, cfg.val_dataloader
    assert train.batch_size == plan.batch
    assert (train.dataset.data_root, train.dataset.ann_file) == ('data/mine/', 'train.json')
    assert train.dataset.data_prefix.img == 'train'
    assert train.dataset.pipeline[1].with_mask
    assert train.dataset.pipeline[2].scale == val.dataset.pipeline[1].scale == (640, 480)
    assert train.dataset.pipeline[3].crop_size == plan.sizes.crop
    assert cfg.test_dataloader == val
    assert cfg.val_evaluator == cfg.test_evaluator
    assert cfg.val_evaluator.ann_file == 'data/mine/val.json'
    assert cfg.val_evaluator.metric == ['bbox', 'segm']
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == plan.epochs
    assert cfg.optim_wrapper.optimizer.lr == plan.lr
    assert cfg.auto_scale_lr.base_batch_size == plan.batch
    assert cfg.model.backbone.type == 'ConvNeXt'
    assert cfg.model.backbone.init_cfg.checkpoint == 'convnext_tiny_1k_224'


def test_a_detector_of_boxes_with_test_data(tmp_path):
    root = Path('data/mine')
    splits = dict(detection().splits, test=Split(root / 'test', root / 'test.json', 10))
    cfg, _, _ = write(detection(has_masks=False, splits=splits), tmp_path)
    assert cfg.val_evaluator.metric == ['bbox']
    assert not cfg.train_dataloader.dataset.pipeline[1].get('with_mask')
    assert cfg.test_dataloader.dataset.ann_file == 'test.json'
    assert cfg.test_dataloader.dataset.pipeline == cfg.val_dataloader.dataset.pipeline
    assert cfg.test_evaluator.ann_file == 'data/mine/test.json'


def test_a_segmentor(tmp_path):
    cfg, plan, _ = write(label_maps(), tmp_path)
    assert (cfg.reduce_zero_label, cfg.ignore_labels) == (False, [7])
    dataset = cfg.train_dataloader.dataset
    assert dataset.data_prefix == dict(img_path='images/train', seg_map_path='labels/train')
    assert (dataset.img_suffix, dataset.seg_map_suffix) == ('.jpg', '.png')
    assert cfg.model.data_preprocessor.size == plan.sizes.crop
    assert cfg.model.test_cfg == dict(mode='whole')
    assert cfg.tta_pipeline[1].scale == cfg.val_dataloader.dataset.pipeline[1].scale == (640, 480)
    assert cfg.test_dataloader == cfg.val_dataloader


def test_a_segmentor_with_lists_and_colors(tmp_path):
    root = Path('data/voc')
    folders = (root / 'JPEGImages', root / 'SegmentationClass')
    splits = {
        name: Split(*folders, 9, root / f'ImageSets/Segmentation/{name}.txt')
        for name in ('train', 'val')
    }
    palette = ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    cfg, _, _ = write(label_maps(root=root, splits=splits, palette=palette), tmp_path)
    dataset = cfg.val_dataloader.dataset
    assert dataset.ann_file == 'ImageSets/Segmentation/val.txt'
    assert dataset.metainfo.palette == [list(color) for color in palette]


def test_wishes_are_kept(tmp_path):
    wishes = Wishes('cascade_mask_rcnn', 'none', 'base', (900, 600), 7, 5)
    cfg, plan, _ = write(detection(), tmp_path, wishes)
    assert cfg.model.type == 'CascadeRCNN'
    assert cfg.model.backbone.arch == 'base'
    assert not cfg.model.backbone.get('init_cfg')
    assert cfg.val_dataloader.dataset.pipeline[1].scale == (900, 600)
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (7, 5)


def test_many_classes_go_to_a_file(tmp_path):
    many = detection(classes=tuple(f'a rather long name {i}' for i in range(80)))
    name, head = choose_head(many, Wishes())
    assert needs_classes_file(make_plan(many, name, head, Wishes(), GPU))
    assert len(class_lines(many.classes)) > MOST_NAME_LINES
    cfg, _, _ = write(many, tmp_path, classes_file='mine_classes.txt')
    assert cfg.classes == 'mine_classes.txt'


def test_names_with_line_breaks_stay_in_the_config():
    names = tuple(f'a rather long name\nof two lines {i}' for i in range(80))
    many = detection(classes=names)
    name, head = choose_head(many, Wishes())
    assert not needs_classes_file(make_plan(many, name, head, Wishes(), GPU))


@pytest.mark.parametrize(
    'text',
    ['{{ fileDirname }}', '{{$HOME:x}}', '{{$NOT_SET: }}', '{{_base_.scale}}', '{{{"\'{{\\{{'],
)
def test_names_are_no_templates_of_mmengine(tmp_path, text):
    root = Path(f'data/{text}')
    split = Split(root / text, root / 'all.json', 9)
    data = detection(classes=(text, 'b'), root=root, splits=dict(train=split, val=split))
    cfg, _, _ = write(data, tmp_path)
    assert cfg.classes == (text, 'b')
    assert cfg.train_dataloader.dataset.data_prefix.img == text
    assert cfg.data_root == f'data/{text}/'


@pytest.mark.parametrize('number', [1, 2, 30])
@pytest.mark.parametrize('name', ['class, "{}"', 'traffic light {}', 'a-b  c-{}', "it's\\\n{}'"])
def test_class_lines_are_a_tuple(number, name):
    names = tuple(name.format(i) for i in range(number))
    scope = {}
    exec('\n'.join(class_lines(names)), scope)
    assert scope['classes'] == names


def test_the_root_holds_all_files(tmp_path):
    root = tmp_path / 'data'
    splits = dict(
        train=Split(root / 'mine/images', tmp_path / 'data/split/train.json', 1),
        val=Split(root / 'mine/images', tmp_path / 'data/split/val.json', 1),
    )
    assert data_root(detection(root=root / 'split', splits=splits)) == f'{root}/'
