"""Training at every scale: more memory, more processes, more than one sitting; the same steps."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from support.miniatures import gloo_only, leave_configs_unformatted, miniature
from torch import nn

from convnext_backbones.io.checkpoint import read_checkpoint
from convnext_backbones.training import flags as training_flags
from tools import train
from tools.make_sample_data import Options, make_sample_data

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
LIMIT = 240  # seconds for one command

SAMPLES = 12


@pytest.fixture(scope='module', autouse=True)
def without_ornament():
    """Training leaves no pictures and no formatted configs, which take longer than its steps."""
    with pytest.MonkeyPatch.context() as patch:
        leave_configs_unformatted(patch)
        patch.setattr('convnext_backbones.training.records.draw_results', lambda rows, path: None)
        yield


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('sample') / 'data'
    make_sample_data(path, Options(train=SAMPLES, val=1, size=64, seed=0))
    return path


def config(task: str, data: Path, random: bool = False, **loader) -> Config:
    """A miniature config without BatchNorm, in which images have their own share of the loss.

    Args:
        task: ``det``, of two epochs, or ``seg``, of six iterations and with a ConvNeXt V2.
        data: The sample data.
        random: Whether training augments, drops out and validates in between; if not, every image
            is seen as it is, and by the whole network.
        loader: Entries of ``train_dataloader``.
    """
    cfg = miniature(task, data.parent, length={'det': 2, 'seg': 6}[task])
    cfg.train_dataloader.update(loader)
    for split in ('train', 'val'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.data_root = str(data / {'det': 'coco', 'seg': 'ade20k'}[task])
    load, label, *_, pack = cfg.train_dataloader.dataset.pipeline
    augmentation = [dict(type='RandomFlip', prob=0.5)]
    if task == 'det':
        cfg.val_evaluator.ann_file = f'{data}/coco/annotations/instances_val.json'
    else:
        cfg.model.backbone.update(use_grn=True, layer_scale_init_value=0.0)
        augmentation.append(dict(type='PhotoMetricDistortion'))
        for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
            head.update(norm_cfg=dict(type='GN', num_groups=4), sampler=None)
            head.dropout_ratio = 0.5 if random else 0
        cfg.model.data_preprocessor.size = (64, 64)
    cfg.train_dataloader.dataset.pipeline = [load, label, *(augmentation if random else []), pack]
    cfg.model.backbone.drop_path_rate = 0.5 if random else 0.0
    cfg.optim_wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.05),
        constructor='ConvNeXtLayerDecayConstructor',
        paramwise_cfg=dict(decay_rate=0.7, custom_keys={'stages.0.0.norm': dict(lr_mult=0.5)}),
    )
    cfg.param_scheduler = [dict(type='ConstantLR', factor=1.0, by_epoch=False)]
    if not random:
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg.pop(f'val_{part}')
    cfg.custom_imports = dict(imports=['convnext_backbones', 'support.recording'])
    return cfg


@dataclass
class Run:
    """A finished training.

    Attributes:
        work_dir: Where it left its checkpoints.
        records: What ``RecordStepsHook`` wrote, one per process.
    """

    work_dir: Path
    records: list[dict]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Of the last checkpoint."""
        return read_checkpoint((self.work_dir / 'last_checkpoint').read_text())['state_dict']


def prepare(cfg: Config, work_dir: Path, *hooks: str) -> Path:
    """Store ``cfg`` with hooks that leave their records in ``work_dir``; the path of the config."""
    names = ['RecordStepsHook', *hooks]
    cfg.custom_hooks = [dict(type=name, out=str(work_dir / 'records')) for name in names]
    path = work_dir / 'config.py'
    work_dir.mkdir()
    cfg.dump(path)
    return path


def read_run(work_dir: Path) -> Run:
    records = sorted((work_dir / 'records').glob('rank*.pth'))
    return Run(work_dir, [torch.load(path) for path in records])


def train_here(cfg: Config, work_dir: Path, *flags) -> Run:
    """Train in this process, as the command does."""
    path = prepare(cfg, work_dir)
    train.main([str(path), '--work-dir', str(work_dir), *map(str, flags)])
    return read_run(work_dir)


def train_by_two(*commands: list) -> None:
    """Run several commands of ``tools/train.py``, one after the other, in two processes."""
    paths = [str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')]
    process = subprocess.Popen(
        [
            *(sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2'),
            *(
                ROOT / 'tests' / 'support' / 'distributed_steps.py',
                json.dumps(commands, default=str),
            ),
        ],
        env=os.environ | dict(PYTHONPATH=os.pathsep.join(filter(None, paths)), OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT)
    finally:
        process.terminate()  # torchrun ends its processes, where they still run
    assert process.returncode == 0, output[-5000:]


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys() and a
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.fixture(scope='module')
def ten_steps(data, tmp_path_factory) -> Run:
    """A segmentor with nothing random: ten steps of four images in one process."""
    cfg = config('seg', data, batch_size=4)
    cfg.train_cfg.max_iters = 10
    return train_here(cfg, tmp_path_factory.mktemp('scale') / 'ten_steps', '--auto-scale-lr')


def test_accumulation_of_two_halves_is_the_whole_batch(ten_steps, data, tmp_path):
    cfg = config('seg', data)
    cfg.train_cfg.max_iters = 20
    halves = train_here(cfg, tmp_path / 'halves', '--accumulate', 2, '--auto-scale-lr')
    losses = torch.tensor(halves.records[0]['losses']).view(10, 2).mean(1)
    assert losses.tolist() == pytest.approx(ten_steps.records[0]['losses'], abs=1e-5)
    assert largest_difference(halves.weights, ten_steps.weights) < 1e-5
    # Four images per step where the rate is for eight, either way.
    for run in (halves, ten_steps):
        assert max(run.records[0]['rates'][0]) == pytest.approx(2e-4 * 4 / 8)


def test_scaling_the_learning_rate_twice_is_scaling_it_once():
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=16), optim_wrapper=dict()))
    for batches, base in ((2, 8), (2, 8), (4, 4), (1, 16)):
        training_flags.set_accumulation(cfg, batches)
        training_flags.set_lr_scaling(cfg)
        assert cfg.auto_scale_lr.base_batch_size == base


def test_checkpointing_runs_blocks_twice_and_changes_nothing(ten_steps, data, tmp_path):
    cfg = config('seg', data, batch_size=4)
    cfg.train_cfg.max_iters = 10
    again = train_here(cfg, tmp_path / 'checkpointing', '--checkpointing', '--auto-scale-lr')
    assert ten_steps.records[0]['block_calls'] == [4] * 10
    assert again.records[0]['block_calls'] == [8] * 10
    assert largest_difference(again.weights, ten_steps.weights) < 1e-6


@pytest.mark.parametrize(
    ('flag', 'dtype'), [('fp32', torch.float32), ('bf16', torch.bfloat16), ('fp16', torch.float16)]
)
def test_precision_is_that_of_the_operations(flag, dtype, monkeypatch):
    cfg = Config(dict(optim_wrapper=dict(type='AmpOptimWrapper', loss_scale='dynamic')))
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=1.0)
    training_flags.set_precision(cfg, flag)
    amp = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
    monkeypatch.setattr(f'{amp}.is_cuda_available', lambda: True)  # it refuses CPUs
    # mmengine's autocast would ask which GPU there is; torch's does the same on the CPU.
    monkeypatch.setattr(
        'mmengine.runner.amp.autocast', lambda dtype: torch.autocast('cpu', dtype=dtype)
    )
    layer = nn.Linear(4, 4)
    before = layer.weight.detach().clone()
    wrapper = build_optim_wrapper(layer, cfg.optim_wrapper)
    with wrapper.optim_context(layer):
        output = layer(torch.ones(2, 4))
    assert output.dtype == dtype
    wrapper.update_params(output.float().sum())
    assert layer.weight.dtype == torch.float32
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    ('task', 'workers'),
    [
        ('det', 2),
        ('seg', 0),
        pytest.param('det', 0, marks=pytest.mark.slow),
        pytest.param('seg', 2, marks=pytest.mark.slow),
    ],
)
def test_resumed_run_is_the_uninterrupted_one(task, workers, data, tmp_path):
    loader = dict(num_workers=workers, persistent_workers=workers > 0)
    cfg = config(task, data, random=True, **loader)
    cfg.randomness.seed = None  # drawn by the first run; its checkpoint tells the second
    whole = train_here(cfg, tmp_path / 'whole')
    checkpoint = tmp_path / 'whole' / {'det': 'epoch_1.pth', 'seg': 'iter_2.pth'}[task]
    resumed = train_here(cfg, tmp_path / 'resumed', '--resume', checkpoint)
    (whole_record,), (resumed_record,) = whole.records, resumed.records
    steps = len(resumed_record['losses'])
    assert 0 < steps < len(whole_record['losses'])
    for name in ('files', 'losses', 'rates'):
        assert resumed_record[name] == whole_record[name][-steps:]
    assert largest_difference(resumed.weights, whole.weights) == 0
    # The passes over the data differ, in order and in augmentation.
    assert whole_record['files'][:steps] != resumed_record['files']


@pytest.fixture(scope='module')
def two_processes(ten_steps, data, tmp_path_factory) -> Path:
    """The folders ``ddp``, ``fsdp`` and ``det``, each of a training by two processes.

    Starting processes takes longer than these trainings, so it is done once.
    """
    folder = tmp_path_factory.mktemp('two_processes')
    commands = []
    for name, flags in (('ddp', []), ('fsdp', ['--strategy', 'fsdp', '--checkpointing'])):
        cfg = config('seg', data)
        cfg.train_cfg.max_iters = 10
        # FlexibleRunner builds its model later, from other random numbers.
        cfg.load_from = str(ten_steps.work_dir / 'records' / 'start.pth')
        path = prepare(cfg, folder / name)
        commands.append([path, '--work-dir', folder / name, '--auto-scale-lr', *flags])
    cfg = config('det', data)
    cfg.train_cfg.max_epochs = 1
    path = prepare(cfg, folder / 'det', 'RecordGradientsHook')
    commands.append([path, '--work-dir', folder / 'det'])
    train_by_two(*commands)
    return folder


@gloo_only
@pytest.mark.parametrize('strategy', ['ddp', 'fsdp'])
def test_two_processes_take_the_steps_of_one(strategy, two_processes, ten_steps):
    shared = read_run(two_processes / strategy)
    first, second = shared.records
    (alone,) = ten_steps.records
    for a, b, both in zip(first['files'], second['files'], alone['files'], strict=True):
        assert sorted(a + b) == sorted(both)
    losses = [(a + b) / 2 for a, b in zip(first['losses'], second['losses'], strict=True)]
    assert losses == pytest.approx(alone['losses'], abs=1e-5)
    for name in ('rates', 'groups'):
        assert first[name] == second[name] == alone[name]
    assert largest_difference(shared.weights, ten_steps.weights) < 1e-5


@gloo_only
def test_shards_are_halves(two_processes):
    (whole, _), shards = (
        [record['parameters'] for record in read_run(two_processes / strategy).records]
        for strategy in ('ddp', 'fsdp')
    )
    assert sum(shards) == pytest.approx(whole, rel=0.01)
    assert max(shards) < 0.51 * whole


@gloo_only
def test_gradients_of_a_detector_are_averaged_over_processes(two_processes):
    """Its losses are divided by counts of each process's own: two are not one of twice the size."""
    records = two_processes / 'det' / 'records'
    first, second = (torch.load(records / f'gradients{rank}.pth') for rank in range(2))
    assert largest_difference(first['alone'], second['alone']) > 1e-3
    assert largest_difference(first['synchronised'], second['synchronised']) == 0
    average = {name: (first['alone'][name] + second['alone'][name]) / 2 for name in first['alone']}
    assert largest_difference(average, first['synchronised']) < 1e-6


@gloo_only
@pytest.mark.slow
def test_sharded_training_resumes(data, tmp_path):
    cfg = config('seg', data)
    flags = ['--strategy', 'fsdp']
    commands = []
    for name, resume in (('whole', []), ('resumed', ['--resume', tmp_path / 'whole/iter_2.pth'])):
        path = prepare(cfg, tmp_path / name)
        commands.append([path, '--work-dir', tmp_path / name, *flags, *resume])
    train_by_two(*commands)
    whole, resumed = (read_run(tmp_path / name) for name in ('whole', 'resumed'))
    for a, b in zip(resumed.records, whole.records, strict=True):
        assert a['losses'] == b['losses'][2:]
        assert a['rates'] == b['rates'][2:]
    assert largest_difference(resumed.weights, whole.weights) == 0
    # What mmengine's wrapper adds to the state of the optimizer is there too.
    assert 'base_param_settings' in read_checkpoint(tmp_path / 'whole/iter_2.pth')['optimizer']


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--accumulate', '0'], 'expected at least 1 batch for --accumulate, got 0'),
        (
            ['--strategy', 'fsdp'],
            "expected several processes for --strategy fsdp, got --launcher 'n",
        ),
        (
            ['--strategy', 'fsdp', '--launcher', 'pytorch', '--cfg-options']
            + ['optim_wrapper.clip_grad.max_norm=1'],
            'expected no clip_grad with --strategy fsdp',
        ),
        # Found out when the model is built and the first step is not taken yet.
        (
            ['--no-check', '--cfg-options', 'load_from=none.pth'],
            "expected a checkpoint file.*'none.pth'",
        ),
        (
            ['--no-check', '--cfg-options', 'model.backbone.init_cfg.type=PretrainedConvNeXt']
            + ['model.backbone.init_cfg.checkpoint=none.pth'],
            ".*'none.pth'",
        ),
    ],
)
def test_what_cannot_start_is_one_sentence(flags, message, data, tmp_path):
    path = prepare(config('seg', data), tmp_path / 'wrong')
    with pytest.raises(SystemExit, match=f'^train: {message}'):
        train.main([str(path), '--work-dir', str(tmp_path / 'wrong'), *flags])


def test_a_bug_in_training_keeps_its_traceback(data, tmp_path):
    cfg = config('seg', data)
    path = prepare(cfg, tmp_path / 'bug', 'FailingHook')
    with pytest.raises(ValueError, match='a bug in a hook'):
        train.main([str(path), '--work-dir', str(tmp_path / 'bug')])


SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$SRUN_LOG"
while [[ "$1" == -* ]]; do shift; done  # srun's own arguments; the rest is the task
exec "$@"
"""
SLURM = {
    'slurm_train.sh': ['part', 'job', 'CONFIG', '--resume'],
    'slurm_test.sh': ['part', 'job', 'CONFIG', 'CHECKPOINT', '--tta'],
}


@pytest.mark.parametrize('name', SLURM)
def test_slurm_starts_one_task_per_gpu(name, tmp_path):
    (tmp_path / 'srun').write_text(SRUN)
    (tmp_path / 'srun').chmod(0o755)
    (tmp_path / 'python').write_text('#!/usr/bin/env bash\necho "task: $*"\n')
    (tmp_path / 'python').chmod(0o755)
    log = tmp_path / 'srun.log'
    environment = dict(GPUS='16', CPUS_PER_TASK='4', SRUN_ARGS='--exclude=n1 --qos=low')
    task = subprocess.run(
        [TOOLS / name, *SLURM[name]],
        env=environment | dict(PATH=f'{tmp_path}:{os.environ["PATH"]}', SRUN_LOG=str(log)),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert log.read_text().split()[:9] == [
        *('--partition=part', '--job-name=job', '--gres=gpu:8', '--ntasks=16'),
        *('--ntasks-per-node=8', '--cpus-per-task=4', '--kill-on-bad-exit=1'),
        *('--exclude=n1', '--qos=low'),
    ]
    tool = TOOLS / name.replace('slurm_', '').replace('.sh', '.py')
    assert task.split() == ['task:', '-u', str(tool), '--launcher', 'slurm', *SLURM[name][2:]]


def test_slurm_scripts_say_how_they_are_called():
    for name in SLURM:
        done = subprocess.run([TOOLS / name, 'part'], capture_output=True, text=True)
        assert done.returncode == 2 and 'usage: ' in done.stderr
