"""One line names the classes: in every dataset, in every head, and in what is evaluated."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, init_default_scope
from support.miniatures import leave_configs_unformatted, make_data, miniature

from convnext_backbones.config import classes
from convnext_backbones.config.classes import read_classes, set_classes
from convnext_backbones.config.flags import config_parser
from convnext_backbones.config.loading import load_config
from convnext_backbones.config.walk import list_datasets, list_heads
from convnext_backbones.engine.runner import build_runner
from convnext_backbones.experiments import EXPERIMENTS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
NAMES = ('cat', 'dog', 'owl')


def load(path: Path, *options: str) -> Config:
    """A config as the tools read it, and its scope for what is built of it."""
    flags = ['--cfg-options', *options] if options else []
    args = config_parser('').parse_args([str(path), *flags])
    cfg = load_config(args.config, args.cfg_options)
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_one_option_reaches_every_dataset_and_every_head(name):
    path = CONFIGS / f'{name}.py'
    before = [dataset.to_dict() for dataset in list_datasets(Config.fromfile(path))]
    cfg = load(path, 'classes=cat,dog,owl')
    heads = list(list_heads(cfg.model))
    assert len(heads) == {'mask': 2, 'cascade': 4, 'upernet': 2}[name.split('_')[0]]
    assert {head.num_classes for head in heads} == {3}
    datasets = list(list_datasets(cfg))
    assert [dataset.metainfo.classes for dataset in datasets] == [NAMES] * 3
    for dataset, old in zip(datasets, before, strict=True):
        assert dataset.data_prefix == old['data_prefix']
        if old['type'] == 'ADE20KDataset':  # which refuses classes that are not its own
            assert dataset.type == 'mmseg.BaseSegDataset' and dataset.reduce_zero_label
            built = DATASETS.build(dict(dataset, lazy_init=True))
            assert built.metainfo['classes'] == NAMES and len(built.metainfo['palette']) == 3
            assert (built.img_suffix, built.seg_map_suffix) == ('.jpg', '.png')


def test_a_line_in_a_config_does_the_same(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = ['{CONFIGS}/mask_rcnn_convnext_t.py']\nclasses = ('nucleus',)\n")
    cfg = load(path)
    assert {head.num_classes for head in list_heads(cfg.model)} == {1}
    assert cfg.train_dataloader.dataset.metainfo.classes == ('nucleus',)


def test_classes_of_the_dataset_are_chosen_from():
    cfg = load(CONFIGS / 'upernet_convnext_t.py', 'classes=sky,wall')
    assert cfg.model.decode_head.num_classes == 2
    dataset = DATASETS.build(dict(cfg.train_dataloader.dataset, lazy_init=True))
    assert type(dataset).__name__ == 'ADE20KDataset'
    assert (dataset.label_map[0], dataset.label_map[1], dataset.label_map[2]) == (1, 255, 0)


def test_wrapped_datasets_are_found():
    cfg = miniature('det', Path(), length=1)
    inner = cfg.train_dataloader.dataset
    repeated = dict(type='RepeatDataset', times=2, dataset=inner)
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[repeated, inner])
    cfg.classes = NAMES
    set_classes(cfg)
    joined = cfg.train_dataloader.dataset
    assert [d.metainfo.classes for d in list_datasets(cfg)] == [NAMES] * 4
    assert 'metainfo' not in joined and 'metainfo' not in joined.datasets[0]


def test_more_classes_than_colors_get_colors():
    cfg = load(CONFIGS / 'mask_rcnn_convnext_t.py', f'classes={",".join(map(str, range(90)))}')
    metainfo = cfg.test_dataloader.dataset.metainfo
    assert metainfo.classes[:2] == ('0', '1') and len(metainfo.palette) == 90


@pytest.mark.parametrize('palette', [[[1, 2, 3]], None])
def test_a_palette_of_other_classes_goes(palette):
    cfg = miniature('seg', Path(), length=1)
    cfg.train_dataloader.dataset.metainfo = dict(classes=('a',), palette=palette)
    cfg.classes = NAMES
    set_classes(cfg)
    assert cfg.train_dataloader.dataset.metainfo == dict(classes=NAMES)


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ([], 'got none'),
        (['cat', ''], "got ''"),
        (['cat', None], 'got None'),
        ([True], 'got True'),
        (['cat', 'dog', 'cat'], "'cat' more than once"),
    ],
)
def test_what_is_no_list_of_names_is_an_error(setting, message):
    with pytest.raises(ValueError, match=message):
        read_classes(setting)


def test_names_come_from_a_file_too(tmp_path):
    (tmp_path / 'names.txt').write_text('cat\ndog\nowl\n')
    assert read_classes(str(tmp_path / 'names.txt')) == NAMES
    assert read_classes('cat') == ('cat',)


def test_models_that_cannot_follow_are_named(monkeypatch):
    said = []
    monkeypatch.setattr(classes, 'print_log', lambda text, **_: said.append(text))
    cfg = miniature('seg', Path(), length=1)
    cfg.classes = NAMES
    loss = dict(type='CrossEntropyLoss', class_weight=[1.0] * 10 + [2.0])
    cfg.model.decode_head.loss_decode = [loss]
    with pytest.raises(ValueError, match='each of 3 classes, got 11 in UPerHead'):
        set_classes(cfg)
    cfg.model = ConfigDict(type='Headless', rpn_head=dict(num_classes=1))
    set_classes(cfg)
    assert cfg.model.rpn_head.num_classes == 1
    assert 'no head of the model has num_classes' in said[0]


def test_equal_weights_follow_the_number_of_classes():
    cfg = Config(
        dict(
            default_scope='mmseg',
            classes=NAMES,
            model=dict(
                type='EncoderDecoder',
                decode_head=dict(
                    type='Mask2FormerHead',
                    num_classes=150,
                    loss_cls=dict(type='CrossEntropyLoss', class_weight=[1.0] * 150 + [0.1]),
                ),
            ),
        )
    )
    set_classes(cfg)
    assert cfg.model.decode_head.loss_cls.class_weight == [1.0] * len(NAMES) + [0.1]


def panoptic(**settings) -> Config:
    counts = dict(num_things_classes=80, num_stuff_classes=53)
    loss = dict(type='CrossEntropyLoss', class_weight=[1.0] * 133 + [0.1])
    model = dict(
        type='Mask2Former',
        panoptic_head=dict(type='Mask2FormerHead', **counts, loss_cls=loss),
        panoptic_fusion_head=dict(type='MaskFormerFusionHead', **counts),
        semantic_head=dict(type='FusedSemanticHead', num_classes=183),
    )
    dataset = dict(type='CocoPanopticDataset', pipeline=[])
    return Config(
        dict(
            default_scope='mmdet',
            model=model,
            train_dataloader=dict(dataset=dataset),
            classes=NAMES,
            **settings,
        )
    )


def test_panoptic_heads_tell_things_from_stuff():
    cfg = panoptic(stuff_classes=NAMES[-1:])
    set_classes(cfg)
    things = len(NAMES) - 1
    for head in (cfg.model.panoptic_head, cfg.model.panoptic_fusion_head):
        assert (head.num_things_classes, head.num_stuff_classes) == (things, 1)
    assert cfg.model.panoptic_head.loss_cls.class_weight == [1.0] * len(NAMES) + [0.1]
    assert cfg.model.semantic_head.num_classes == 183  # of another data set
    metainfo = cfg.train_dataloader.dataset.metainfo
    assert metainfo['thing_classes'] == NAMES[:-1] and metainfo['stuff_classes'] == NAMES[-1:]
    cfg = panoptic(stuff_classes=())
    set_classes(cfg)
    assert cfg.model.panoptic_head.num_things_classes == len(NAMES)


def test_stuff_has_to_be_named_and_last():
    with pytest.raises(ValueError, match='expected stuff_classes beside classes'):
        set_classes(panoptic())
    with pytest.raises(ValueError, match='expected stuff_classes to be the last names in classes'):
        set_classes(panoptic(stuff_classes=NAMES[:1]))


def test_a_detector_trains_and_is_evaluated_on_the_classes(tmp_path, monkeypatch):
    leave_configs_unformatted(monkeypatch)
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path)
    cfg = miniature('det', tmp_path / 'work', length=1)
    data = json.loads(Path('data/sample/coco/annotations/instances_train.json').read_text())
    wanted = data['annotations'][0]['category_id']
    (name,) = (c['name'] for c in data['categories'] if c['id'] == wanted)
    cfg.classes = (name,)
    cfg.val_evaluator.classwise = True
    set_classes(cfg)
    runner = build_runner(cfg)
    runner.train()
    assert runner.model.roi_head.bbox_head.fc_cls.out_features == 2  # and the background
    assert runner.val_evaluator.dataset_meta['classes'] == (name,)
    metrics = runner.message_hub.log_scalars
    assert f'val/coco/{name}_precision' in metrics
