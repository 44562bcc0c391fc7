"""The trainings of the road: what each overrides, and that finished ones are not repeated."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from convnext_backbones.config.loading import load_config
from dev import roadmap_runs as runs

RESULTS = 'split,step,loss,time,mIoU\ntrain,1,2.0,0.5,\ntrain,2,1.0,0.7,\nval,2,,,{metric}\n'


@pytest.mark.parametrize('name', runs.TASKS)
def test_all_trainings_of_a_task_differ_in_the_step_only(name):
    task = runs.TASKS[name]
    plain = load_config(runs.ROOT / task.config)
    options = runs.options_of(task, 'gelu', 'B', None)
    cfg = load_config(runs.ROOT / task.config, options)
    assert (cfg.model.backbone.step, cfg.model.backbone.regime) == ('gelu', 'B')
    assert cfg.train_cfg == plain.train_cfg and cfg.param_scheduler == plain.param_scheduler
    short = load_config(runs.ROOT / task.config, runs.options_of(task, 'gelu', 'T', 7))
    assert short.train_cfg[task.length] == short.train_cfg.val_interval == 7
    assert short.param_scheduler[1].T_max == short.default_hooks.checkpoint.interval == 7
    assert plain.param_scheduler[1].T_max == plain.train_cfg[task.length]
    assert runs.count_macs(task, options) > 4 * runs.count_macs(
        task, runs.options_of(task, 'depthwise_conv', 'T', None)
    )


@pytest.fixture
def trainings(monkeypatch):
    """Replace trainings by files that they would leave; the list has their command lines."""
    found = []

    def run(command, cwd, stdout, stderr):
        words = list(map(str, command))
        folder = Path(words[words.index('--work-dir') + 1])
        found.append(words)
        (folder / 'a.pth').write_text('')
        (folder / 'results.csv').write_text(RESULTS.format(metric=10 * len(found)))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(runs.subprocess, 'run', run)
    return found


def test_a_table_of_means_and_spreads_and_nothing_is_trained_twice(
    trainings, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(runs, 'DATA', Path())
    arguments = ['--steps', 'resnet', '16', '--length=2', f'--out={tmp_path}', '--seeds']
    runs.main([*arguments, '2'])
    folder = tmp_path / 'segmentation' / 'T'
    lines = (folder / 'roadmap.md').read_text().splitlines()
    assert lines[2] == '| ResNet-50 | 20.00 ± 14.14 | 2 | 0.600 | 0.14 |'
    assert lines[3].startswith('| separate downsampling conv (ConvNeXt-T) | 30.00 ± 14.14 | 2 |')
    assert len(lines) == 4 and capsys.readouterr().out.rstrip().endswith(lines[3])
    assert not list(tmp_path.rglob('*.pth'))
    outcome = json.loads((folder / 'resnet-1' / 'outcome.json').read_text())
    assert outcome['options']['randomness.seed'] == 1
    assert len(trainings) == 4
    assert 'model.backbone.step=convnext' in trainings[1] and 'randomness.seed=1' in trainings[2]
    runs.main([*arguments, '3'])
    assert len(trainings) == 6  # two new ones
    runs.main([*arguments[:2], '--length=3', f'--out={tmp_path}', '--seeds=1'])
    assert len(trainings) == 7  # another length


def test_a_training_that_fails_or_leaves_nothing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, 'DATA', Path())
    for status, message in ((3, 'ended with status 3; see .*train.log'), (0, 'results.csv')):
        monkeypatch.setattr(
            runs.subprocess,
            'run',
            lambda *a, status=status, **k: SimpleNamespace(returncode=status),
        )
        with pytest.raises(SystemExit, match=f'roadmap_runs: .*{message}'):
            runs.main(['--steps', 'gelu', '--length=2', f'--out={tmp_path}'])
    (tmp_path / 'results.csv').write_text(RESULTS.format(metric=''))
    with pytest.raises(ValueError, match='expected mIoU and times'):
        runs.read_outcome(runs.TASKS['segmentation'], tmp_path)
    with pytest.raises(SystemExit, match="did you mean 'gelu'"):
        runs.main(['--steps', 'gelus'])
