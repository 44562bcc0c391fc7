"""Heads are found by name, and tell what their training needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from convnext_backbones.config import describe_head, head_settings, heads
from convnext_backbones.config.heads import OWN, SHORT
from convnext_backbones.experiments import settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ('name', 'task', 'masks', 'maps'),
    [
        ('mask_rcnn', 'detection', True, False),
        ('upernet', 'segmentation', False, False),
        ('dino', 'detection', False, False),
        ('rtmdet_ins', 'detection', True, False),
        ('mask2former_panoptic', 'detection', True, True),
        ('mask2former_semantic', 'segmentation', False, False),
        ('mmdet::htc/htc_r50_fpn_1x_coco.py', 'detection', True, True),
        (str(ROOT / 'configs/heads/htc_convnext_t.py'), 'detection', True, False),
    ],
)
def test_a_head_says_what_its_training_needs(name, task, masks, maps):
    head = describe_head(name)
    assert (head.task, head.needs_masks, head.needs_semantic_maps) == (task, masks, maps)
    assert head.scope == dict(detection='mmdet', segmentation='mmseg')[task]
    assert head.name == name and 'model' in head.config


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('retina_net', "got 'retina_net'; did you mean 'retinanet'"),
        ('yolov3_d53', "did you mean 'mmdet::yolo/yolov3_d53"),
        ('mmdet::dino/dino-4scale_r50', "did you mean 'mmdet::dino/dino-4scale_r50_8xb2-"),
        ('mmpretrain::resnet/resnet50', 'of mmdet:: or mmseg::'),
        ('qqqqqq', 'known are mask_rcnn, .*retinanet, '),
    ],
)
def test_unknown_heads_are_answered_with_names_that_exist(name, words):
    with pytest.raises(ValueError, match=words):
        describe_head(name)


def test_a_missing_file_and_a_config_without_a_model_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='found none at'):
        describe_head(str(tmp_path / 'no.py'))
    (tmp_path / 'data.py').write_text("default_scope = 'mmdet'\n")
    with pytest.raises(ValueError, match='with a model'):
        describe_head(str(tmp_path / 'data.py'))


@pytest.mark.parametrize('text', ['model = (', '1 / 0', "_base_ = 'no.py'"])
def test_a_file_that_is_no_config_is_refused_in_a_sentence(tmp_path, text):
    path = tmp_path / 'own.py'
    path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError)):
        describe_head(str(path))


def test_no_name_leads_out_of_the_configs_that_are_shipped():
    with pytest.raises(ValueError, match='expected a config that mmdet ships'):
        describe_head('mmdet::../../__init__')


@pytest.mark.parametrize('name', ['mask_rcnn', 'cascade_mask_rcnn'])
def test_a_model_alone_says_by_its_heads_that_it_needs_masks(tmp_path, name):
    base = ROOT / f'configs/_base_/models/{name}.py'
    path = tmp_path / 'own.py'
    path.write_text(f"_base_ = {str(base)!r}\ndefault_scope = 'mmdet'\n")
    assert describe_head(str(path)).needs_masks
    path.write_text(f'{path.read_text()}model = dict(roi_head=dict(mask_head=None))\n')
    assert not describe_head(str(path)).needs_masks


@pytest.mark.parametrize('name', [*OWN, *SHORT])
def test_every_name_takes_a_convnext(name):
    model, optim_wrapper = head_settings(name, weights='convnext_tiny_1k_224', lr=7e-5)
    assert type(model) is dict and type(optim_wrapper) is dict
    assert model['backbone']['arch'] == 'tiny'
    assert optim_wrapper['optimizer']['lr'] == 7e-5


def test_our_own_heads_are_the_published_recipes():
    for name, experiment in (
        ('mask_rcnn', 'mask_rcnn_convnext_t'),
        ('cascade_mask_rcnn', 'cascade_mask_rcnn_convnext_t'),
        ('upernet', 'upernet_convnext_t'),
    ):
        model, optim_wrapper = head_settings(name, weights='convnext_tiny_1k_224')
        expected_model, expected = settings(experiment)
        published = expected_model['backbone']
        assert {key: model['backbone'][key] for key in published} == published
        assert optim_wrapper['type'] == expected['type']
        assert optim_wrapper['optimizer']['lr'] == expected['optimizer']['lr']
        rate = optim_wrapper['paramwise_cfg']['decay_rate']
        assert rate == expected['paramwise_cfg']['decay_rate']


def test_configs_are_found_in_a_wheel(tmp_path, monkeypatch):
    folder = tmp_path / '.mim/configs/_base_/models'
    folder.mkdir(parents=True)
    (folder / 'upernet.py').write_text("model = dict(type='FromTheWheel')\n")
    monkeypatch.setattr(heads.resources, 'files', lambda package: tmp_path)
    assert describe_head('upernet').config.model.type == 'FromTheWheel'


def test_a_written_config_reads_a_head_over_bases_without_a_model(tmp_path):
    bases = [
        f'{ROOT}/configs/_base_/{name}.py' for name in ('datasets/ade20k', 'schedules/ade20k_160k')
    ]
    file = tmp_path / 'mine.py'
    file.write_text(
        f'_base_ = {bases!r}\n'
        'from convnext_backbones.config import head_settings\n'
        "model, optim_wrapper = head_settings('pspnet', weights='convnext_tiny_1k_224', lr=1e-4)\n"
    )
    cfg = Config.fromfile(file)
    assert cfg.model.decode_head.type == 'PSPHead' and '_delete_' not in cfg.model


def test_the_room_is_imported_without_the_toolboxes():
    code = (
        'import sys, convnext_backbones.config; print({"mmdet", "mmseg", "mmcv"} & {*sys.modules})'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )
    assert done.stdout.strip() == 'set()', done.stderr
