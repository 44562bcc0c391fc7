"""Facts of a training are those of its own records, or none."""

import json
import math

import pytest

from convnext_backbones.engine.training_facts import (
    StartingWeights,
    config_in,
    environment_of,
    starting_weights,
    training_facts,
    validation_of,
)
from convnext_backbones.reports.results_table import ResultsTable

CONFIG = "model = dict(backbone=dict(type='ConvNeXt'))\nwork_dir = 'runs/a'\n"
STARTED, LATER = '2026-01-02T03:04:05+00:00', '2026-01-03T03:04:05+00:00'
META = dict(cfg=CONFIG, time='20260102_030500', iter=20)


def init(checkpoint) -> dict:
    return dict(backbone=dict(init_cfg=dict(type='PretrainedConvNeXt', checkpoint=checkpoint)))


@pytest.fixture
def run(tmp_path):
    """The work dir of a training that validated at the iterations 10 and 20."""
    (tmp_path / 'config.py').write_text(CONFIG)
    write_environment(tmp_path, started=STARTED)
    table = ResultsTable(tmp_path / 'results.csv')
    for step in (10, 20):
        table.add(dict(split='train', step=step, iter=step, loss=1.0, mIoU=99.0))
        table.add({'split': 'val', 'step': step, 'mIoU': step, 'val/loss': 1, 'time': 2})
    return tmp_path


def write_environment(folder, **entries) -> None:
    contents = dict(hardware=dict(gpus=[], cpu='x', processes=1), versions={}, **entries)
    (folder / 'environment.json').write_text(json.dumps(contents))


def test_the_validation_at_the_iteration_of_the_checkpoint(run):
    assert validation_of(run / 'iter_20.pth', META) == {'mIoU': 20}
    assert validation_of(run / 'iter_10.pth', META | dict(iter=10)) == {'mIoU': 10}


def test_a_metric_that_is_no_number_is_none(run):
    ResultsTable(run / 'results.csv', 20).add(dict(split='val', step=30, mIoU=math.nan))
    assert validation_of(run / 'iter_30.pth', META | dict(iter=30)) == {'mIoU': None}


@pytest.mark.parametrize(
    'change',
    [
        dict(iter=15),
        dict(cfg=CONFIG + 'seed = 1\n'),
        dict(time='20260102_030400'),
        dict(time='yesterday'),
        dict(time=None),
    ],
    ids=['no validation', 'another config', 'saved before', 'no time', 'no text'],
)
def test_records_of_another_training_say_nothing(run, change):
    assert validation_of(run / 'iter_20.pth', META | change) == {}


@pytest.mark.parametrize('file', ['config.py', 'environment.json', 'results.csv'])
def test_without_a_record_nothing_is_said(run, file):
    (run / file).unlink()
    assert validation_of(run / 'iter_20.pth', META) == {}


def test_a_checkpoint_of_an_earlier_start_belongs_to_the_training(run):
    write_environment(run, started=LATER)
    assert environment_of(run / 'iter_20.pth', META) is None
    write_environment(run, started=LATER, earlier_starts=[dict(started=STARTED)])
    assert environment_of(run / 'iter_20.pth', META) is not None


@pytest.mark.parametrize(
    ('cfg', 'wanted'),
    [
        (dict(model=init(None)), StartingWeights()),
        (
            dict(model=init('convnext_tiny_1k_224')),
            StartingWeights('convnext_tiny_1k_224', 'MIT', 'ImageNet-1K'),
        ),
        (
            dict(model=init('hf-hub:timm/convnext_tiny.in12k')),
            StartingWeights(
                'timm/convnext_tiny.in12k', 'Apache-2.0', 'ImageNet-12K', 'timm/convnext_tiny.in12k'
            ),
        ),
        (dict(model=init('/home/me/secret/own.pth')), StartingWeights('own.pth')),
        (dict(model=init('C:\\me\\own.pth')), StartingWeights('own.pth')),
        (dict(model=init('https://me:key@host/a/own.pth?key=1')), StartingWeights('own.pth')),
        (dict(model={}, load_from='file:///home/me/own.pth'), StartingWeights('own.pth')),
        (dict(model={}, load_from='s3://bucket/me/own.pth'), StartingWeights('own.pth')),
        (dict(model=init('hf-hub:me/own')), StartingWeights('own', repo='me/own')),
        (dict(model=init('torchvision://resnet50')), StartingWeights('torchvision://resnet50')),
        (dict(model=dict(pretrained='open-mmlab://a')), StartingWeights('open-mmlab://a')),
        (
            dict(model=init('convnext_tiny_1k_224'), load_from='a/whole.pth'),
            StartingWeights('whole.pth'),
        ),
        (dict(model=init(None), load_from='a/last.pth', resume=True), StartingWeights()),
    ],
)
def test_what_a_training_started_from(cfg, wanted):
    assert starting_weights(cfg) == wanted


@pytest.mark.parametrize('cfg', [None, 3, '', 'a = (', 'model = 3', 'optim_wrapper = [1]'])
def test_a_checkpoint_without_a_readable_config(cfg):
    assert config_in(dict(cfg=cfg)) is None


def test_a_config_is_read_and_not_executed(tmp_path):
    text = f"a = dict(b=(1, 2))\nc = open({str(tmp_path / 'executed')!r}, 'w')\n"
    assert config_in(dict(cfg=text))['a'] == dict(b=(1, 2))
    assert not (tmp_path / 'executed').exists()


def test_the_recipe():
    cfg = dict(
        train_cfg=dict(max_epochs=36),
        train_dataloader=dict(
            batch_size=2,
            dataset=dict(
                type='RepeatDataset',
                dataset=dict(type='CocoDataset', pipeline=[dict(type='mmdet.LoadImageFromFile')]),
            ),
        ),
        optim_wrapper=dict(
            type='AmpOptimWrapper',
            accumulative_counts=4,
            optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), file='/home/me/a'),
            paramwise_cfg=dict(decay_rate=0.7),
        ),
        param_scheduler=dict(type='LinearLR', end=50),
        custom_hooks=[dict(type='EMAHook', momentum=0.1), dict(type='Other')],
    )
    environment = dict(
        hardware=dict(gpus=['A', 'B'], cpu='C', processes=2),
        versions=dict(torch='2.13', mmseg=None),
    )
    assert training_facts(cfg, dict(epoch=12, seed=0), environment) == {
        'length': '12 of 36 epochs',
        'batch size': '4 images (2 processes with 2), 4 batches per step',
        'optimizer': 'AdamW (lr=0.0001, betas=(0.9, 0.999))',
        'schedule of rates': 'LinearLR (end=50)',
        'rates by layer': 'decay_rate=0.7',
        'precision': 'mixed',
        'averaged weights': 'EMAHook (momentum=0.1)',
        'transforms': 'LoadImageFromFile',
        'seed': '0',
        'machine': 'A, B',
        'versions': 'torch 2.13',
    }
    assert training_facts(cfg, {}, None)['batch size'] == '2 images per process, 4 batches per step'
    assert training_facts(cfg, {}, None)['length'] == '36 epochs planned'
    assert training_facts({}, {}, None) == {}
