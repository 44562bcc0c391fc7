"""The files that a training writes, their numbers, and that nothing else changes."""

import csv
import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from support.miniatures import leave_configs_unformatted, make_data, miniature
from torch import nn
from torch.utils.data import Dataset

from convnext_backbones.ops.providers import serving
from convnext_backbones.reports import curves
from convnext_backbones.reports.curves import draw_results
from convnext_backbones.reports.results_table import ResultsTable
from convnext_backbones.reports.training_page import write_training_page
from convnext_backbones.training import records
from convnext_backbones.training.records import RecordsHook, set_records
from tools import train as train_tool

BATCHES = 3  # in an epoch of the toy


@DATASETS.register_module()
class ToyDataset(Dataset):
    """Numbers."""

    def __len__(self):
        return BATCHES

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([float(index)]))


@MODELS.register_module()
class ToyModel(BaseModel):
    """Two parameters, two losses."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(1, 1)
        self.head = nn.Linear(1, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        outputs = self.head(self.body(torch.stack(inputs)))
        if mode == 'loss':
            return dict(loss_a=outputs.square().mean(), loss_b=outputs.abs().mean())
        return list(outputs)


@METRICS.register_module()
class ToyMetric(BaseMetric):
    """A number, and something that is none."""

    def process(self, data_batch, data_samples):
        self.results += [float(sample) for sample in data_samples]

    def compute_metrics(self, results):
        return dict(score=np.float32(sum(results)), table='0.1 0.2')


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    leave_configs_unformatted(monkeypatch)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Builds toy configs with records, all of one work dir; pictures and pages are left out."""
    monkeypatch.setattr(records, 'draw_results', lambda rows, path: None)
    monkeypatch.setattr(records, 'write_training_page', lambda path, folders: None)

    def build(length: int, by_epoch: bool = True, **changes) -> Config:
        loader = dict(
            dataset=dict(type='ToyDataset'),
            batch_size=1,
            sampler=dict(type='DefaultSampler', shuffle=False),
        )
        lengths = dict(max_epochs=length) if by_epoch else dict(max_iters=length)
        cfg = Config(
            dict(
                default_scope='mmengine',
                experiment_name=f'{tmp_path.name}_{len(list(tmp_path.rglob("*")))}',
                work_dir=str(tmp_path / 'work'),
                model=dict(type='ToyModel'),
                train_dataloader=loader,
                val_dataloader=loader,
                train_cfg=dict(by_epoch=by_epoch, val_interval=1 if by_epoch else 2, **lengths),
                val_cfg=dict(),
                val_evaluator=dict(type='ToyMetric'),
                optim_wrapper=dict(
                    optimizer=dict(type='SGD', lr=0.01),
                    # No group has the base rate itself, which mmengine lists among theirs.
                    paramwise_cfg=dict(
                        custom_keys=dict(body=dict(lr_mult=0.1), head=dict(lr_mult=0.5))
                    ),
                ),
                param_scheduler=[dict(type='ExponentialLR', gamma=0.5, by_epoch=False)],
                default_hooks=dict(
                    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=by_epoch),
                    checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=by_epoch),
                ),
                log_processor=dict(by_epoch=by_epoch, window_size=2),
                randomness=dict(seed=3),
                **changes,
            )
        )
        set_records(cfg)
        return cfg

    return build


def train(cfg: Config) -> Runner:
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def read(work_dir: Path) -> list[dict[str, str]]:
    with (work_dir / 'results.csv').open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize('by_epoch', [True, False])
def test_rows_are_what_mmengine_logs(toy, tmp_path, by_epoch):
    runner = train(toy(2 if by_epoch else 5, by_epoch))
    rows = read(tmp_path / 'work')
    (log,) = (tmp_path / 'work').rglob('scalars.json')
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    # In the same order: training and validation alike.
    assert [row['split'] for row in rows] == ['train' if 'loss' in e else 'val' for e in logged]
    for row, entry in zip(rows, logged, strict=True):
        names = ['loss', 'loss_a', 'loss_b', 'time'] if 'loss' in entry else ['score']
        assert [float(row[n]) for n in names] == pytest.approx([entry[n] for n in names], rel=1e-6)
        assert (row['score'] == '') == ('loss' in entry)
    training = [row for row in rows if row['split'] == 'train']
    assert [int(row['step']) for row in training] == list(range(1, runner.iter + 1))
    if by_epoch:
        assert [row['epoch'] for row in rows] == ['1'] * (BATCHES + 1) + ['2'] * (BATCHES + 1)
        assert [row['iter'] for row in training] == ['1', '2', '3'] * 2
    else:
        assert 'epoch' not in rows[0]
        assert [row['step'] for row in rows if row['split'] == 'val'] == ['2', '4', '5']
    for step, row in enumerate(training):
        assert float(row['highest_lr']) == pytest.approx(0.005 * 0.5**step)
        assert float(row['lowest_lr']) == pytest.approx(0.001 * 0.5**step)
    assert list(rows[0])[:2] == ['split', 'step']
    assert not {'lr', 'base_lr', 'table'} & set(rows[0])
    assert ('memory' in rows[0]) == torch.cuda.is_available()


def test_rows_follow_the_interval_of_the_log_and_the_end_of_the_epoch(toy, tmp_path):
    cfg = toy(1)
    cfg.default_hooks.logger.interval = 2
    train(cfg)
    assert [row['step'] for row in read(tmp_path / 'work')] == ['2', '3', '3']
    # A training by iterations has no epochs to end, whatever the length of its data loader.
    cfg = toy(4, by_epoch=False)
    cfg.default_hooks.logger.interval = 2
    train(cfg)
    rows = read(tmp_path / 'work')
    assert [row['step'] for row in rows if row['split'] == 'train'] == ['2', '4']


def test_config_environment_picture_and_page(toy, tmp_path, monkeypatch):
    monkeypatch.setattr('sys.argv', ['train.py', 'toy.py'])
    monkeypatch.setattr(records, 'draw_results', draw_results)
    monkeypatch.setattr(records, 'write_training_page', write_training_page)
    runner = train(toy(1))
    work_dir = tmp_path / 'work'
    assert Config.fromfile(work_dir / 'config.py').to_dict() == runner.cfg.to_dict()
    dumped = work_dir / f'{runner.timestamp}.py'  # mmengine's
    assert (work_dir / 'config.py').read_text() == dumped.read_text()
    environment = json.loads((work_dir / 'environment.json').read_text())
    assert environment['seed'] == 3 and environment['first_step'] == 0
    assert environment['versions']['torch'] == torch.__version__
    assert environment['operators'] == serving()
    assert environment['hardware']['threads'] == torch.get_num_threads()
    assert environment['hardware']['processes'] == 1
    assert environment['command'] == 'train.py toy.py'
    assert environment['started'][:2] == '20' and 'earlier_starts' not in environment
    picture = cv2.imread(str(work_dir / 'results.png'))
    assert picture.shape[0] == 4 * int(curves.PANEL_HEIGHT * curves.DPI)
    page = (work_dir / 'report.html').read_text()
    assert f'finished at iteration {BATCHES} of {BATCHES}, epoch 1 of 1' in page
    assert 'train.py toy.py' in page and 'the config file has no _base_' in page
    assert page.count('<svg') == 6  # loss, its terms, rates, validation, speed, waiting
    assert not list(work_dir.glob('*.tmp'))


def test_the_end_is_noted_only_if_it_is_reached(toy, tmp_path):
    class Stop(Hook):
        def after_train_iter(self, runner, **unused):
            runner.train_loop.stop_training = True

    def environment() -> dict:
        return json.loads((tmp_path / 'work' / 'environment.json').read_text())

    runner = Runner.from_cfg(toy(2))
    runner.register_hook(Stop())
    runner.train()
    assert environment()['last_step'] == 2 * BATCHES and 'finished' not in environment()
    train(toy(2))
    assert environment()['finished'] >= environment()['started']


def test_resuming_goes_on_and_starting_again_starts_anew(toy, tmp_path):
    work_dir = tmp_path / 'work'
    train(toy(3))
    whole = [(row['split'], row['step'], row['loss']) for row in read(work_dir)]
    # A process that dies leaves half a line.
    with (work_dir / 'results.csv').open('a') as file:
        file.write('train,1')
    train(toy(3, resume=True, load_from=str(work_dir / 'epoch_1.pth')))
    rows = read(work_dir)
    assert [(row['split'], row['step']) for row in rows] == [row[:2] for row in whole]
    # The first epoch is the old one to the digit; its validation came after the checkpoint.
    assert [(r['split'], r['step'], r['loss']) for r in rows[:4]] == whole[:4]
    environment = json.loads((work_dir / 'environment.json').read_text())
    assert environment['first_step'] == BATCHES
    assert 'base' not in environment['earlier_starts'][0]
    assert [start['first_step'] for start in environment['earlier_starts']] == [0]
    train(toy(1))
    assert len(read(work_dir)) == BATCHES + 1
    assert 'earlier_starts' not in json.loads((work_dir / 'environment.json').read_text())


@pytest.mark.parametrize('hierarchy', [False, True])
def test_rows_do_not_depend_on_how_the_log_is_shown(toy, tmp_path, hierarchy):
    cfg = toy(1)
    cfg.log_processor.log_with_hierarchy = hierarchy
    train(cfg)
    rows = read(tmp_path / 'work')
    names = ['split', 'step', 'epoch', 'iter', 'loss', 'loss_a', 'loss_b']
    names += ['highest_lr', 'lowest_lr', 'time', 'data_time']
    assert [name for name in rows[0] if name != 'memory'] == [*names, 'score']
    assert len(rows) == BATCHES + 1 and rows[0]['loss'] and rows[-1]['score']


def test_without_the_backend_there_is_a_warning(toy, tmp_path):
    cfg = toy(1)
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    train(cfg)
    log = next((tmp_path / 'work').rglob('*.log')).read_text()
    assert "expected dict(type='LoggedScalarsBackend') in visualizer.vis_backends" in log
    assert [row['split'] for row in read(tmp_path / 'work')] == ['val']


@pytest.mark.parametrize(
    ('function', 'name'),
    [('draw_results', 'results.png'), ('write_training_page', 'report.html')],
)
def test_a_failure_to_draw_is_one_warning(toy, tmp_path, monkeypatch, function, name):
    def fail(*arguments):
        raise RuntimeError('no fonts')

    cfg = toy(2)
    monkeypatch.setattr(records, 'DRAWING_SHARE', 0)
    monkeypatch.setattr(records, function, fail)
    runner = train(cfg)
    assert runner.iter == 2 * BATCHES
    log = next((tmp_path / 'work').rglob('*.log')).read_text()
    assert log.count(f'{name} could not be drawn (RuntimeError: no fonts)') == 1
    assert len(read(tmp_path / 'work')) == 2 * BATCHES + 2


@pytest.mark.parametrize(('share', 'drawings'), [(0, 2 * 2 + 1), (10**9, 2)])
def test_drawing_takes_its_share_of_the_time_and_no_more(toy, monkeypatch, share, drawings):
    """After each validation, before each checkpoint and at the end; or first and last only."""
    calls, pages = [], []
    cfg = toy(2)
    monkeypatch.setattr(records, 'DRAWING_SHARE', share)
    monkeypatch.setattr(records, 'draw_results', lambda rows, path: calls.append(len(rows)))
    monkeypatch.setattr(records, 'write_training_page', lambda *arguments: pages.append(arguments))
    train(cfg)
    assert len(calls) == len(pages) == drawings and calls[-1] == 2 * BATCHES + 2


def test_other_processes_write_nothing(toy, tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.dist.utils.is_main_process', lambda group=None: False)
    train(toy(1))
    names = {path.name for path in (tmp_path / 'work').iterdir()}
    assert not names & {'config.py', 'environment.json', 'results.csv'}
    assert not names & {'results.png', 'report.html'}


def test_tensorboard_is_used_where_it_is_installed(toy, tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def add_text(self, *args):
            pass

        def close(self):
            pass

    name = 'torch.utils.tensorboard'
    monkeypatch.setitem(sys.modules, name, None)
    names = [backend.type for backend in toy(1).visualizer.vis_backends]
    assert names == ['LocalVisBackend', 'LoggedScalarsBackend']
    fake = types.ModuleType(name)
    fake.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(torch.utils, 'tensorboard', fake, raising=False)
    cfg = toy(1)
    set_records(cfg)
    backends = [backend.type for backend in cfg.visualizer.vis_backends]
    assert backends == ['LocalVisBackend', 'LoggedScalarsBackend', 'TensorboardVisBackend']
    train(cfg)
    assert [step for name, step in written if name == 'loss_a'] == [1, 2, 3]
    assert {'score', 'highest_lr', 'lowest_lr'} <= set(dict(written))


@pytest.mark.parametrize('imports', [None, 'json', ['json']])
def test_the_hook_is_added_once_and_found_again(imports):
    others = [dict(type='EMAHook')]
    cfg = Config(dict(custom_hooks=others, visualizer=dict(type='DetLocalVisualizer')))
    if imports:
        cfg.custom_imports = dict(imports=imports, allow_failed_imports=False)
    set_records(cfg)
    once = cfg.to_dict()
    set_records(cfg)
    assert cfg.to_dict() == once
    hooks = [hook.type for hook in cfg.custom_hooks]
    assert hooks == ['EMAHook', 'LearningRateRangeHook', 'RecordsHook']
    assert len(others) == 1
    names = ['json'] if imports else []
    # Saved configs name this package: it is no detail of ours that may move.
    assert cfg.custom_imports.imports == [*names, 'convnext_backbones.training']


def test_a_hook_among_the_default_ones_is_not_added_again():
    rates = dict(type='LearningRateRangeHook')
    cfg = Config(dict(default_hooks=dict(checkpoint=None, rates=rates)))
    set_records(cfg)
    assert [hook.type for hook in cfg.custom_hooks] == ['RecordsHook']


def test_a_repeated_validation_has_one_row(tmp_path):
    hook = RecordsHook()
    hook.table = ResultsTable(tmp_path / 'results.csv')
    runner = SimpleNamespace(iter=8, epoch=2, train_loop=None)
    for _ in range(2):
        hook.after_val_epoch(runner, dict(mAP=0.5))
        hook.table = ResultsTable(hook.table.path, until_step=8)
    assert len(hook.table.rows) == 1


def test_the_tool_leaves_records_without_being_asked(tmp_path, monkeypatch):
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    miniature('seg', tmp_path / 'unused', length=2).dump('mine.py')
    train_tool.main(
        ['mine.py', '--work-dir', 'work', '--cfg-options', 'model.decode_head.channels=8']
    )
    cfg = Config.fromfile('work/config.py')
    assert cfg.model.decode_head.channels == 8
    if not torch.cuda.is_available():
        assert cfg.model.decode_head.norm_cfg.type == 'BN'
    assert cfg.work_dir == 'work'
    rows = read(Path('work'))
    assert [(row['split'], row['step']) for row in rows] == [
        ('train', '1'),
        ('train', '2'),
        ('val', '2'),
    ]
    assert {'decode.loss_ce', 'aux.loss_ce', 'mIoU'} <= set(rows[0])
    assert not any(name.startswith('val/') for name in rows[0])
    environment = json.loads(Path('work/environment.json').read_text())
    assert environment['versions']['mmseg'] and environment['git']['config'] is None
    assert Path('work/results.png').is_file()
    page = Path('work/report.html').read_text()
    assert 'finished at iteration 2 of 2' in page and 'the config file has no _base_' in page
