"""Trainings that are killed, told to end, or cannot write, and what is left of them."""

import csv
import errno
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from support.interrupting import PLAIN, SLOW_DISK, leave_ornament_out
from support.miniatures import NUMBERS, gloo_only, miniature

from convnext_backbones.io.checkpoint import read_checkpoint
from convnext_backbones.training.resume import (
    INTERRUPTED,
    newest_checkpoint,
)
from tools import train
from tools.make_sample_data import Options, make_sample_data

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'
LIMIT = 600  # seconds for one command

EPOCH = 4  # batches
LENGTHS = {'det': 2, 'seg': 6}  # epochs, iterations
INTERVALS = {'det': EPOCH, 'seg': 2}  # iterations between checkpoints, each with a validation


@pytest.fixture(scope='module', autouse=True)
def without_ornament():
    with pytest.MonkeyPatch.context() as patch:
        leave_ornament_out(patch)
        yield


@pytest.fixture(autouse=True)
def heed_sigint():
    """Which a shell ignores for what it runs in the background, such as these tests."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('sample') / 'data'
    make_sample_data(path, Options(train=2 * EPOCH, val=2, size=64, seed=0))
    return path


def config(task: str, data: Path, workers: int = 0) -> Config:
    """A miniature in which everything is random that a resumed run has to repeat.

    The detector has schedules by epochs and by iterations; the segmentor averages its weights and
    keeps its best ones.
    """
    cfg = miniature(task, data.parent, LENGTHS[task])
    cfg.train_dataloader.update(num_workers=workers, persistent_workers=workers > 0)
    for split in ('train', 'val'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.data_root = str(data / {'det': 'coco', 'seg': 'ade20k'}[task])
    load, label, *_, pack = cfg.train_dataloader.dataset.pipeline
    flip = dict(type='RandomFlip', prob=0.5)
    cfg.train_dataloader.dataset.pipeline = [load, label, flip, pack]
    cfg.model.backbone.drop_path_rate = 0.5
    cfg.default_hooks.checkpoint.max_keep_ckpts = 1
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=8)]
    cfg.custom_imports = dict(imports=['convnext_backbones', 'support.interrupting'])
    if task == 'det':
        cfg.val_evaluator.ann_file = f'{data}/coco/annotations/instances_val.json'
        cfg.param_scheduler.append(dict(type='MultiStepLR', milestones=[1], gamma=0.5))
    else:
        cfg.model.data_preprocessor.size = (64, 64)
        cfg.default_hooks.checkpoint.save_best = 'mIoU'
        cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)]
    return cfg


def arguments(cfg: Config, work_dir: Path, *hooks: dict) -> list[str]:
    """Those of ``tools/train.py`` for a training with further hooks."""
    cfg = deepcopy(cfg)
    cfg.experiment_name = cfg.visualizer.name = f'run{next(NUMBERS)}'
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), *hooks]
    work_dir.mkdir(exist_ok=True)
    path = work_dir / 'input.py'
    cfg.dump(path)
    return [str(path), '--work-dir', str(work_dir), '--no-check']


def result(work_dir: Path) -> tuple[dict, list[dict]]:
    """What a training ends with: its state, and its records without what is measured in time."""
    checkpoint = read_checkpoint(newest_checkpoint(work_dir))
    state = {key: checkpoint[key] for key in checkpoint if key not in ('meta', 'message_hub')}
    with (work_dir / 'results.csv').open() as file:
        rows = [{k: row[k] for k in row if 'time' not in k} for row in csv.DictReader(file)]
    return state, rows


def assert_equal(a, b, tolerance: float = 0) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b) or (a - b).abs().max() <= tolerance
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key], tolerance)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y, tolerance)
    elif tolerance and re.fullmatch(r'-?[\d.]+(e-?\d+)?', str(a)):
        # Records have seven digits.
        assert float(a) == pytest.approx(float(b), abs=tolerance, rel=tolerance)
    else:
        assert a == b


def expect_exit(arguments: list[str], status: int | str) -> None:
    """Train in this process, which is told to end."""
    with pytest.raises(SystemExit) as end:
        train.main(arguments)
    if isinstance(status, str):
        assert re.search(status, end.value.code)
    else:
        assert end.value.code == status


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    """Results of trainings of either task that were never stopped."""
    found = {}

    def get(task: str) -> tuple[dict, list[dict]]:
        if task not in found:
            work_dir = tmp_path_factory.mktemp('whole') / task
            train.main(arguments(config(task, data), work_dir))
            found[task] = result(work_dir)
        return found[task]

    return get


# --- told to end ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('task', 'stage', 'at', 'workers'),
    [
        ('det', 'train', 5, 1),  # in the middle of an epoch
        ('seg', 'train', 2, 0),  # between two checkpoints
        ('seg', 'val', 2, 0),
        pytest.param('det', 'train', 3, 0, marks=pytest.mark.slow),  # the last batch of an epoch
        pytest.param('det', 'val', 4, 0, marks=pytest.mark.slow),
        pytest.param('seg', 'val', 6, 0, marks=pytest.mark.slow),  # nothing left but the metrics
        pytest.param('seg', 'train', 2, 2, marks=pytest.mark.slow),
    ],
)
def test_sigterm_and_resume_change_nothing(task, stage, at, workers, whole, data, tmp_path):
    cfg = config(task, data, workers)
    expected = whole(task) if not workers else None
    if workers:  # which draw random numbers of their own
        train.main(arguments(cfg, tmp_path / 'whole'))
        expected = result(tmp_path / 'whole')
    work_dir = tmp_path / 'stopped'
    stop = dict(type='SignalHook', names=['SIGTERM'], at=at, stage=stage)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    expect_exit(arguments(cfg, work_dir, stop), 0)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    meta = read_checkpoint(work_dir / INTERRUPTED)['meta']
    assert meta['iter'] == at + (stage == 'train')
    train.main([*arguments(cfg, work_dir), '--resume'])
    assert_equal(result(work_dir), expected)
    # Once there is a newer checkpoint it is in the way.
    assert (work_dir / INTERRUPTED).exists() == (meta['iter'] == LENGTHS['seg'] and task == 'seg')
    assert not list(work_dir.glob('*.tmp'))


def test_sigint_ends_with_a_checkpoint_and_twice_without(data, tmp_path):
    for names in (['SIGINT'], ['SIGINT', 'SIGINT']):
        work_dir = tmp_path / str(len(names))
        stop = dict(type='SignalHook', names=names, at=1)
        command = arguments(config('seg', data), work_dir, stop)
        if len(names) == 1:
            expect_exit(command, 130)
        else:
            with pytest.raises(KeyboardInterrupt):
                train.main(command)
        assert (work_dir / INTERRUPTED).is_file() == (len(names) == 1)


def test_resuming_never_starts_anew_in_silence(data, tmp_path):
    command = arguments(config('seg', data), tmp_path / 'work')
    (tmp_path / 'work/iter_2.pth').write_bytes(b'PK')
    expect_exit(
        [*command, '--resume'], r'^train: expected an undamaged checkpoint .* --resume PATH'
    )


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(data, tmp_path, monkeypatch):
    fsync = os.fsync

    def full_at_the_second(file: int) -> None:
        if 'iter_4.pth' in os.readlink(f'/proc/self/fd/{file}'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    monkeypatch.setattr(os, 'fsync', full_at_the_second)
    work_dir = tmp_path / 'work'
    kept = work_dir / 'iter_2.pth'
    expect_exit(
        arguments(config('seg', data), work_dir),
        f'^train: cannot write {work_dir}/iter_4.pth: No space left on device; the last '
        f'undamaged checkpoint is {kept}; free some space .* with --resume$',
    )
    assert sorted(p.name for p in work_dir.glob('iter*')) == ['iter_2.pth']


# --- killed ---------------------------------------------------------------------------------


def environment(**variables: str) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')]
    path = os.pathsep.join(filter(None, paths))
    threads = str(torch.get_num_threads())  # on which sums depend
    own = {'PYTHON': sys.executable, 'PYTHONPATH': path, 'OMP_NUM_THREADS': threads, PLAIN: '1'}
    return os.environ | own | variables


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_while_writing(whole, data, tmp_path):
    work_dir = tmp_path / 'killed'
    kill = dict(type='DieWritingHook', name='iter_4.pth')
    command = arguments(config('seg', data), work_dir, kill)
    done = subprocess.run(
        [sys.executable, TOOLS / 'train.py', *command], env=environment(), capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-5000:]
    left = sorted(path.name for path in work_dir.glob('iter*'))
    assert left == ['iter_2.pth', 'iter_4.pth.tmp']
    train.main([*arguments(config('seg', data), work_dir), '--resume'])
    assert_equal(result(work_dir), whole('seg'))
    assert not list(work_dir.glob('*.tmp'))


@pytest.mark.parametrize(
    ('task', 'stage', 'at'),
    [
        ('seg', 'val', 2),
        pytest.param('det', 'val', 4, marks=pytest.mark.slow),
        # The validation is done: its best score is in the checkpoint, or it is repeated.
        pytest.param('seg', 'train', 3, marks=pytest.mark.slow),
        pytest.param('det', 'train', 5, marks=pytest.mark.slow),
    ],
)
def test_killed_around_a_validation(task, stage, at, whole, data, tmp_path):
    work_dir = tmp_path / 'killed'
    cfg = config(task, data)
    with pytest.raises(RuntimeError, match='a crash'):
        train.main(arguments(cfg, work_dir, dict(type='FailHook', stage=stage, at=at)))
    train.main([*arguments(cfg, work_dir), '--resume'])
    assert_equal(result(work_dir), whole(task))


KILLS = 24


@pytest.mark.slow
@pytest.mark.parametrize('task', ['seg', 'det'])
def test_killed_at_random_moments(task, data, tmp_path):
    cfg = config(task, data)
    if task == 'det':
        cfg.train_cfg.update(max_epochs=48, val_interval=2)
    else:
        cfg.train_cfg.update(max_iters=120, val_interval=4)
    work_dir, steps = tmp_path / 'killed', tmp_path / 'steps'
    count = dict(type='CountHook', path=str(steps))
    rng = random.Random(0)
    lost, writing = [], 0
    with (
        (tmp_path / 'log').open('w') as log,
        subprocess.Popen(
            [sys.executable, '-c', 'from support import interrupting; interrupting.serve()'],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as server,
    ):

        def answer() -> int:
            return int(server.stdout.readline() or (tmp_path / 'log').read_text()[-5000:])

        def start(*command: str) -> int:
            server.stdin.write(json.dumps(command) + '\n')
            server.stdin.flush()
            return answer()

        start(*arguments(cfg, tmp_path / 'whole'))
        assert answer() == 0
        command = [*arguments(cfg, work_dir, count), '--resume']
        for _ in range(KILLS):
            steps.write_text('')
            process = start(*command)
            # Iterations from here, none for a kill before training.
            more = rng.randint(0, 2 * INTERVALS[task])
            wait_until(lambda more=more: len(steps.read_text().split()) >= more)
            time.sleep(rng.uniform(0, 0.3))
            os.kill(process, signal.SIGKILL)
            assert answer() == signal.SIGKILL
            writing += bool(list(work_dir.glob('*.pth.tmp')))
            newest = newest_checkpoint(work_dir)
            saved = read_checkpoint(newest)['meta']['iter'] if newest else 0
            done = steps.read_text().split()
            lost.append(int(done[-1]) - saved if done else 0)
        start(*command)
        assert answer() == 0
        server.stdin.close()
    print(f'\n{task}: {KILLS} kills, {writing} while writing for {SLOW_DISK} s; lost {lost}')
    assert writing
    assert max(lost) <= INTERVALS[task]
    assert_equal(result(work_dir), result(tmp_path / 'whole'))


# --- several processes ----------------------------------------------------------------------


def start_two(command: list[str], log: Path, **variables: str) -> subprocess.Popen:
    """Start ``tools/dist_train.sh`` with two processes."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    config, *flags = command
    with log.open('w') as file:
        return subprocess.Popen(
            [TOOLS / 'dist_train.sh', config, '2', *flags],
            env=environment(PORT=port, **variables),
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def train_by_two(command: list[str], log: Path, status: int = 0, **variables: str) -> str:
    """Its output, when it has ended with the status."""
    process = start_two(command, log, **variables)
    assert process.wait(LIMIT) == status, log.read_text()[-5000:]
    return log.read_text()


def by_two(task: str, data: Path) -> Config:
    """A longer training, without what mmengine does not do in several processes."""
    cfg = config(task, data)
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
    if task == 'det':
        cfg.train_cfg.max_epochs = 8  # each process has half of an epoch
    else:
        cfg.train_cfg.max_iters = 16
        cfg.custom_hooks = []  # FlexibleRunner does not resume averages
        cfg.default_hooks.checkpoint.save_best = None
        for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
            head.update(norm_cfg=dict(type='GN', num_groups=4), sampler=None)
    return cfg


@pytest.fixture(scope='module')
def whole_by_two(data, tmp_path_factory):
    found = {}

    def get(task: str, *flags: str) -> tuple[dict, list[dict]]:
        if (task, *flags) not in found:
            folder = tmp_path_factory.mktemp('by_two')
            train_by_two([*arguments(by_two(task, data), folder / task), *flags], folder / 'log')
            found[(task, *flags)] = result(folder / task)
        return found[(task, *flags)]

    return get


@gloo_only
@pytest.mark.slow
def test_a_dead_worker_ends_the_job_or_is_started_again(whole_by_two, data, tmp_path):
    mark = tmp_path / 'mark'
    die = dict(type='SignalHook', names=['SIGKILL'], at=3, rank=1, mark=str(mark))
    work_dir = tmp_path / 'dead'
    command = arguments(by_two('seg', data), work_dir, die)
    log = train_by_two(command, tmp_path / 'log', status=1)
    seconds = time.time() - mark.stat().st_mtime
    assert seconds < 60
    assert re.search(r'rank +: 1 .*\n.*exitcode +: -9 .*\n.*\n.*SIGKILL', log[-1000:])
    work_dir = tmp_path / 'again'
    command = [*arguments(by_two('seg', data), work_dir, die), '--resume']
    log = train_by_two(command, tmp_path / 'log', MAX_RESTARTS='1')
    assert 'resumed epoch: 0, iter: 2' in log
    assert_equal(result(work_dir), whole_by_two('seg'), tolerance=1e-6)
    print(f'\na dead worker: the job ended after {seconds:.1f} s')


@gloo_only
@pytest.mark.slow
@pytest.mark.parametrize(
    ('task', 'number', 'flags'),
    [
        ('seg', signal.SIGTERM, ('--strategy', 'fsdp')),
        ('det', signal.SIGTERM, ()),
        ('seg', signal.SIGINT, ()),
    ],
    ids=['fsdp', 'det', 'sigint'],
)
def test_two_processes_end_together(task, number, flags, whole_by_two, data, tmp_path):
    work_dir, steps = tmp_path / 'stopped', tmp_path / 'steps'
    steps.touch()
    count = dict(type='CountHook', path=str(steps))
    command = [*arguments(by_two(task, data), work_dir, count), *flags]
    process = start_two(command, tmp_path / 'log')
    wait_until(lambda: len(steps.read_text().split()) >= 3 or process.poll() is not None)
    process.send_signal(number)
    status = process.wait(LIMIT)
    log = (tmp_path / 'log').read_text()
    assert status == (0 if number == signal.SIGTERM else 130), log[-5000:]
    assert f'{number.name}: saved {work_dir / INTERRUPTED} and ended' in log
    train_by_two([*command, '--resume'], tmp_path / 'log')
    assert_equal(result(work_dir), whole_by_two(task, *flags), tolerance=1e-6)


TORCHRUN = """#!/usr/bin/env bash
echo "$@" > "$FOLDER/arguments"
bash -c 'trap "echo TERM; exit 0" TERM; trap "echo INT; exit 0" INT; touch "$FOLDER/started"
    while :; do sleep 0.05; done' > "$FOLDER/worker"
exit $?
"""


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_go_to_the_processes_and_not_to_torchrun(number, status, tmp_path):
    python = tmp_path / 'python'
    python.write_text(TORCHRUN)
    python.chmod(0o755)
    process = subprocess.Popen(
        [TOOLS / 'dist_train.sh', 'CONFIG', '2', '--resume'],
        env=os.environ | dict(PYTHON=str(python), FOLDER=str(tmp_path), MAX_RESTARTS='3'),
    )
    wait_until((tmp_path / 'started').exists)
    process.send_signal(number)
    assert process.wait(30) == status
    assert (tmp_path / 'worker').read_text().strip() == number.name[3:]
    assert '--max_restarts=3' in (tmp_path / 'arguments').read_text()
