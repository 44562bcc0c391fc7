"""A training says what it replaces in mmengine, and leaves it in place when asked to."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from support.miniatures import leave_configs_unformatted, make_data, miniature

from convnext_backbones.training.flags import StartMarker
from convnext_backbones.training.resume import PositionHook
from convnext_backbones.training.run import train

OURS = {'InterruptionHook', 'PositionHook', 'ResumableRandomnessHook', 'SafeCheckpointHook'}


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('data')
    make_data(folder)
    return folder


@pytest.fixture
def trained(data, tmp_path, monkeypatch):
    """``trained(task, **options)`` trains for one iteration or epoch: the Runner, and its log."""
    leave_configs_unformatted(monkeypatch)
    monkeypatch.chdir(data)
    runners = []
    monkeypatch.setattr(Runner, 'train', lambda runner: runners.append(runner))

    def run(task: str, **options) -> tuple[Runner, str]:
        train(miniature(task, tmp_path, length=1), StartMarker(), **options)
        runner = runners.pop()
        (log,) = tmp_path.glob('*/*.log')
        return runner, log.read_text()

    return run


def hook_names(runner: Runner) -> set[str]:
    return {type(hook).__name__ for hook in runner.hooks}


def test_a_detector_trains_with_our_loop_and_the_log_says_so(trained):
    runner, log = trained('det')
    assert hook_names(runner) >= OURS
    assert type(runner.train_loop).__name__ == 'ResumableEpochBasedTrainLoop'
    (line,) = (line for line in log.splitlines() if '--plain-runner' in line)
    assert 'ResumableEpochBasedTrainLoop replaces EpochBasedTrainLoop, ' in line
    assert 'SafeCheckpointHook replaces CheckpointHook, ' in line
    assert 'torch is reseeded before every iteration' in line


def test_the_log_names_no_loop_that_stays(trained):
    runner, log = trained('seg')
    assert hook_names(runner) >= OURS
    (line,) = (line for line in log.splitlines() if '--plain-runner' in line)
    assert 'Loop' not in line and 'SafeCheckpointHook replaces CheckpointHook, ' in line


def test_a_plain_runner_is_mmengines(trained):
    runner, log = trained('det', plain_runner=True, skip_bad_steps=2)
    assert not hook_names(runner) & OURS
    assert type(runner.train_loop) is EpochBasedTrainLoop
    assert any(type(hook) is CheckpointHook for hook in runner.hooks)
    assert {'FiniteNumbersHook', 'RecordsHook', 'StartMarker'} <= hook_names(runner)
    assert '--plain-runner' not in log


def test_findings_of_the_check_reach_the_log(trained):
    _, log = trained('seg', warnings=['the batch is small'])
    assert 'WARNING - the batch is small' in log
    assert 'The backbone starts from random weights' in log


def test_a_plain_runner_trains_and_resumes(data, tmp_path, monkeypatch):
    leave_configs_unformatted(monkeypatch)
    monkeypatch.chdir(data)
    seeds = []
    monkeypatch.setattr(PositionHook, 'before_train', lambda *_: pytest.fail('installed'))
    original = torch.manual_seed
    monkeypatch.setattr(torch, 'manual_seed', lambda seed: seeds.append(seed) or original(seed))
    train(miniature('seg', tmp_path, length=2), StartMarker(), plain_runner=True)
    assert len(seeds) <= 2  # mmengine's, before the first iteration
    cfg = miniature('seg', tmp_path, length=3)
    cfg.resume, cfg.load_from = True, str(tmp_path / 'iter_2.pth')
    start = StartMarker()
    train(cfg, start, plain_runner=True)
    assert start.passed and (tmp_path / 'iter_3.pth').is_file()
