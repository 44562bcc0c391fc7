"""The description of a run's software and hardware."""

import subprocess
from pathlib import Path

from convnext_backbones.reports import environment
from convnext_backbones.reports.environment import cpu_name, git_state

ROOT = Path(__file__).parents[2]


def test_git_state(tmp_path):
    def git(*args):
        identity = ['-c', 'user.name=a', '-c', 'user.email=a@b']
        command = ['git', '-C', tmp_path, *identity, *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    config = tmp_path / 'config.py'
    config.write_text('')
    assert git_state(config) is None
    git('init')
    assert git_state(config) is None  # no commit
    (tmp_path / '.gitignore').write_text('venv/\n')
    git('add', '.')
    git('commit', '-m', 'first')
    commit = git('rev-parse', 'HEAD')
    assert git_state(config) == dict(commit=commit, dirty=False)
    config.write_text('changed = True')
    assert git_state(config) == dict(commit=commit, dirty=True)
    (tmp_path / 'venv').mkdir()
    assert git_state(tmp_path / 'venv' / 'package.py') is None


def test_git_that_is_not_there_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert git_state(ROOT / 'setup.py') is None


def test_the_name_of_the_cpu_is_that_of_the_kernel_where_there_is_one(tmp_path, monkeypatch):
    table = tmp_path / 'cpuinfo'
    table.write_text('processor\t: 0\nmodel name\t: Some CPU 8480C\nmodel name\t: another\n')
    monkeypatch.setattr(environment, 'CPU_TABLE', table)
    assert cpu_name() == 'Some CPU 8480C'
    table.write_text('Hardware\t: an ARM board\n')
    assert cpu_name() in (environment.platform.processor(), environment.platform.machine())
