"""The loss on the validation set: its value, and that the training does not notice."""

import csv
import json
import random
import socket
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.hooks import IterTimerHook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed
from support.miniatures import SCALE, leave_configs_unformatted, make_data, miniature
from torch import nn

from convnext_backbones.config.walk import annotated_dataset, transform_name
from convnext_backbones.engine.runner import build_runner
from convnext_backbones.io.checkpoint import read_checkpoint
from convnext_backbones.training.records import set_records
from convnext_backbones.training.validation_loss import (
    SEED,
    ValidationLossHook,
    mean_losses,
    undisturbed,
)

# The samples of a validation as they should reach the loss: annotations are resized.
PIPELINES = dict(
    det=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='Resize', scale=SCALE, keep_ratio=True),
        dict(type='PackDetInputs'),
    ],
    seg=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', reduce_zero_label=True),
        dict(type='Resize', scale=SCALE, keep_ratio=True),
        dict(type='PackSegInputs'),
    ],
)
BATCHES = dict(det=[[0, 1], [2]], seg=[[0], [1], [2]])


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('data')
    make_data(folder)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    leave_configs_unformatted(monkeypatch)
    monkeypatch.setattr('convnext_backbones.training.records.draw_results', lambda rows, path: None)


def train(task: str, length: int, work_dir: Path, val_loss: bool) -> Runner:
    """A miniature's training that is quick to learn: each validation has another loss."""
    cfg = miniature(task, work_dir, length)
    cfg.param_scheduler = []
    if val_loss:
        cfg.default_hooks.checkpoint.update(save_best='val/loss', rule='less')
    set_records(cfg, val_loss)
    runner = build_runner(cfg)
    runner.train()
    return runner


def recorded(work_dir: Path) -> list[dict[str, float]]:
    """The losses of each validation."""
    with (work_dir / 'results.csv').open() as file:
        rows = [row for row in csv.DictReader(file) if row['split'] == 'val']
    return [
        {k.removeprefix('val/'): float(v) for k, v in row.items() if k.startswith('val/')}
        for row in rows
    ]


def expected_losses(cfg: Config, task: str, checkpoint: Path) -> dict[str, float]:
    """The same by hand: other code loads the samples, batches them and averages."""
    dataset = DATASETS.build(dict(cfg.val_dataloader.dataset, pipeline=PIPELINES[task]))
    model = MODELS.build(cfg.model)
    model.load_state_dict(read_checkpoint(checkpoint)['state_dict'])
    model.eval()
    totals = {}
    for indices in BATCHES[task]:
        batch = model.data_preprocessor(pseudo_collate([dataset[i] for i in indices]), True)
        set_random_seed(SEED)
        with torch.no_grad():
            for name, loss in model.parse_losses(model(**batch, mode='loss'))[1].items():
                totals[name] = totals.get(name, 0) + len(indices) * float(loss)
    return {name: total / len(dataset) for name, total in totals.items() if 'loss' in name}


def test_a_detector_gets_its_own_loss_on_the_validation_data(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data)
    runner = train('det', 1, tmp_path, val_loss=True)
    (losses,) = recorded(tmp_path)
    assert losses == pytest.approx(expected_losses(runner.cfg, 'det', tmp_path / 'epoch_1.pth'))
    assert {'loss', 'loss_rpn_cls', 'loss_bbox', 'loss_mask'} <= set(losses)


def test_a_segmentor_too_and_the_training_does_not_notice(data, tmp_path, monkeypatch):
    """It has BatchNorm and dropout, and goes on after the first validation."""
    monkeypatch.chdir(data)
    runner = train('seg', 4, tmp_path / 'with', val_loss=True)
    losses = recorded(tmp_path / 'with')
    for validation, step in zip(losses, (2, 4), strict=True):
        checkpoint = tmp_path / 'with' / f'iter_{step}.pth'
        assert validation == pytest.approx(expected_losses(runner.cfg, 'seg', checkpoint))
    totals = [validation['loss'] for validation in losses]
    assert totals[0] != totals[1]
    # The log has the value of each validation; mmengine would give a mean over both.
    (log,) = (tmp_path / 'with').rglob('scalars.json')
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    logged = [entry['val/loss'] for entry in entries if 'val/loss' in entry]
    assert logged == pytest.approx(totals)
    assert runner.message_hub.get_info('best_score') == pytest.approx(min(totals))

    without = train('seg', 4, tmp_path / 'without', val_loss=False)
    assert recorded(tmp_path / 'without') == [{}, {}]
    weights = without.model.state_dict()
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_the_time_it_takes_is_not_that_of_an_iteration(monkeypatch):
    monkeypatch.setattr(
        'convnext_backbones.training.validation_loss.mean_losses', lambda *args: {'loss': 1}
    )
    timer = IterTimerHook()
    timer.t = 0.0  # the end of the last iteration of the validation
    metrics = dict(mIoU=0.5)
    runner = SimpleNamespace(model=None, hooks=[timer])
    hook = ValidationLossHook()
    hook.dataloader = []
    hook.after_val_epoch(runner, metrics)
    assert timer.t == pytest.approx(time.time(), abs=60)
    assert metrics == {'mIoU': 0.5, 'val/loss': 1}


class Disturbed(nn.Module):
    """A model that everything may happen to."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.BatchNorm2d(2)
        self.norm = nn.BatchNorm2d(2)
        self.data_preprocessor = nn.Module()
        self.data_preprocessor.batch_augments = nn.Identity()
        self.register_buffer('seen', torch.zeros(()))


def test_everything_is_put_back():
    model = Disturbed()
    model.frozen.training = False
    model.norm.running_mean.fill_(3)
    augments = model.data_preprocessor.batch_augments

    def draw() -> tuple:
        return torch.rand(()).item(), np.random.rand(), random.random()

    set_random_seed(7)
    expected = draw()
    set_random_seed(7)
    with pytest.raises(RuntimeError, match='out of memory'), undisturbed(model):
        draw()
        assert not model.training and not model.norm.training
        assert model.data_preprocessor.batch_augments is None
        model.seen += 1
        model.norm.running_mean.zero_()
        raise RuntimeError('out of memory')
    assert draw() == expected
    assert model.training and model.norm.training and not model.frozen.training
    assert model.seen == 0 and (model.norm.running_mean == 3).all()
    assert model.data_preprocessor.batch_augments is augments


def names(pipeline: list) -> list[str]:
    return [transform_name(transform) for transform in pipeline]


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_annotations_are_loaded_before_they_are_transformed(task):
    cfg = miniature(task, Path('work'), 1)
    before = cfg.to_dict()
    dataset = annotated_dataset(cfg)
    assert names(dataset.pipeline) == names(PIPELINES[task])
    assert cfg.to_dict() == before
    wrapped = dict(type='ConcatDataset', datasets=[cfg.val_dataloader.dataset] * 2)
    cfg.test_dataloader = dict(dataset=dict(type='RepeatDataset', times=2, dataset=wrapped))
    for part in annotated_dataset(cfg, 'test').dataset.datasets:
        assert names(part.pipeline) == names(PIPELINES[task])


def test_transforms_may_be_classes_and_have_scopes():
    class LoadAnnotations:
        pass

    assert transform_name(dict(type=LoadAnnotations)) == 'LoadAnnotations'
    assert transform_name(dict(type='mmdet.LoadAnnotations')) == 'LoadAnnotations'
    pipeline = [dict(type='Resize'), dict(type=LoadAnnotations)]
    cfg = ConfigDict(val_dataloader=dict(dataset=dict(pipeline=pipeline)))
    assert names(annotated_dataset(cfg).pipeline) == ['LoadAnnotations', 'Resize']


def test_missing_annotations_are_said_before_the_training():
    cfg = miniature('det', Path('work'), 1)
    del cfg.val_dataloader.dataset.pipeline[2]
    with pytest.raises(ValueError, match='val_dataloader to load annotations, found no'):
        set_records(cfg, val_loss=True)
    cfg.val_dataloader = None
    with pytest.raises(ValueError, match='expected val_dataloader in the config, found none'):
        set_records(cfg, val_loss=True)


@pytest.mark.parametrize(('task', 'missing'), [('det', 'masks'), ('seg', 'gt_sem_seg')])
def test_annotations_that_the_loss_lacks_are_named(data, monkeypatch, task, missing):
    monkeypatch.chdir(data)
    cfg = miniature(task, Path('work'), 1)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    loader = Runner.build_dataloader(dict(cfg.val_dataloader, dataset=annotated_dataset(cfg)))
    batch = next(iter(loader))
    for sample in batch['data_samples']:
        del (sample.gt_instances if task == 'det' else sample)[missing]
    with pytest.raises(ValueError, match=f'got one without {missing}; load in val_dataloader'):
        mean_losses(model, [batch])


class Values(BaseModel):
    """Its losses are its inputs."""

    def forward(self, inputs, data_samples, mode):
        values = torch.stack(inputs)
        return dict(loss_a=values.mean(), loss_b=2 * values.mean(), acc=values.mean())


def test_the_mean_is_over_the_samples_of_all_processes(monkeypatch):
    def add_other_process(sums):
        sums += torch.tensor([3.0, 1.0, 2.0, 1])  # one sample, whose losses are 1 and 2

    monkeypatch.setattr('convnext_backbones.training.validation_loss.all_reduce', add_other_process)
    batches = [dict(inputs=list(torch.tensor(b)), data_samples=b) for b in ([5.0], [6.0, 10.0])]
    assert mean_losses(Values(), batches) == dict(loss=16.5, loss_a=5.5, loss_b=11.0)


@pytest.mark.slow
def test_two_processes_agree_on_the_mean(tmp_path, run_python):
    """They have one and three samples."""
    (tmp_path / 'worker.py').write_text(
        textwrap.dedent(
            """
            import sys

            import torch
            from mmengine.model import BaseModel, MMDistributedDataParallel
            from convnext_backbones.engine.processes import leave_process_group
            from convnext_backbones.training.validation_loss import mean_losses

            class Model(BaseModel):
                def __init__(self):
                    super().__init__()
                    self.weight = torch.nn.Parameter(torch.ones(()))

                def forward(self, inputs, data_samples, mode):
                    values = self.weight * torch.stack(inputs)
                    return dict(loss_a=values.mean(), loss_b=2 * values.mean(), acc=values.mean())

            rank = int(sys.argv[1])
            torch.distributed.init_process_group('gloo', rank=rank, world_size=2)
            batches = [[[1.0]], [[5.0], [6.0, 10.0]]][rank]
            batches = [dict(inputs=list(torch.tensor(b)), data_samples=b) for b in batches]
            model = MMDistributedDataParallel(module=Model())
            print(mean_losses(model, batches))
            leave_process_group()
            """
        )
    )
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    out = run_python(
        f"""
        import os, subprocess, sys

        os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT='{port}')
        command = [sys.executable, 'worker.py']
        pipe = dict(stdout=subprocess.PIPE, text=True)
        workers = [subprocess.Popen([*command, str(rank)], **pipe) for rank in range(2)]
        for worker in workers:
            print(worker.communicate()[0].strip())
        """,
        tmp_path,
    )
    expected = str(dict(loss=16.5, loss_a=5.5, loss_b=11.0))
    assert out.splitlines() == [expected] * 2
