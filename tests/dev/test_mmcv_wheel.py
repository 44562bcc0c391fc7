"""dev/mmcv_wheel.py without network and compiler: the cache of wheels, and progress."""

import io
import os
import threading
import time
from pathlib import Path

import pytest

from dev import mmcv_wheel
from dev.environment import SetupError, Venv


def test_the_folder_depends_on_everything_a_wheel_depends_on(monkeypatch):
    monkeypatch.setenv('CONVNEXT_BACKBONES_CACHE', '/cache')
    folder = mmcv_wheel.wheel_folder('2.13.0+cpu', 'mmcv==2.1.0', 'cp311')
    assert folder.parent == Path('/cache/wheels')
    others = [
        mmcv_wheel.wheel_folder('2.13.0+cu130', 'mmcv==2.1.0', 'cp311'),
        mmcv_wheel.wheel_folder('2.13.0+cpu', 'mmcv==2.2.0', 'cp311'),
        mmcv_wheel.wheel_folder('2.13.0+cpu', 'onedl-mmcv==2.1.0', 'cp311'),
        mmcv_wheel.wheel_folder('2.13.0+cpu', 'mmcv==2.1.0', 'cp312'),
    ]
    monkeypatch.setattr(mmcv_wheel.platform, 'machine', lambda: 'riscv')
    others.append(mmcv_wheel.wheel_folder('2.13.0+cpu', 'mmcv==2.1.0', 'cp311'))
    assert len({folder, *others}) == 6


def test_the_folder_follows_the_xdg_convention(monkeypatch):
    monkeypatch.delenv('CONVNEXT_BACKBONES_CACHE', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', '/xdg')
    folder = mmcv_wheel.wheel_folder('2.13.0', 'mmcv==2.1.0', 'cp311')
    assert folder.is_relative_to('/xdg/convnext_backbones/wheels')
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', '/home/someone')
    folder = mmcv_wheel.wheel_folder('2.13.0', 'mmcv==2.1.0', 'cp311')
    assert folder.is_relative_to('/home/someone/.cache/convnext_backbones')


class WheelVenv:
    """An environment in which a wheel works if its file says so."""

    def __init__(self) -> None:
        self.content = 'nothing'
        self.builds = 0

    def ops_error(self, mmcv):
        return '' if self.content == 'good' else f'{self.content} is installed'

    def wheel_error(self, wheel, mmcv):
        self.content = wheel.read_text()
        return self.ops_error(mmcv)


def build(venv, mmcv, folder, log, content='good'):
    venv.builds += 1
    wheel = folder / f'{mmcv.replace("==", "-")}-cp311.whl'
    wheel.write_text(content)
    return wheel


def test_a_wheel_is_built_once(tmp_path):
    first, second = WheelVenv(), WheelVenv()
    assert 'compiled' in mmcv_wheel.provide_mmcv(first, 'mmcv==2.1.0', tmp_path, build)
    assert 'from ' in mmcv_wheel.provide_mmcv(second, 'mmcv==2.1.0', tmp_path, build)
    assert (first.builds, second.builds) == (1, 0)
    again = mmcv_wheel.provide_mmcv(second, 'mmcv==2.1.0', tmp_path / 'x', build)
    assert again == 'already installed'


def test_a_cached_wheel_that_fails_is_deleted_and_built_again(tmp_path, capsys):
    (tmp_path / 'mmcv-2.1.0-old.whl').write_text('bad')
    venv = WheelVenv()
    mmcv_wheel.provide_mmcv(venv, 'mmcv==2.1.0', tmp_path, build)
    assert (venv.content, venv.builds) == ('good', 1)
    assert [wheel.read_text() for wheel in tmp_path.glob('*.whl')] == ['good']
    assert 'deleted and built again, because it fails: bad is installed' in capsys.readouterr().out


def test_a_built_wheel_whose_ops_fail_does_not_enter_the_cache(tmp_path):
    def build_bad(*arguments):
        return build(*arguments, content='bad')

    with pytest.raises(SetupError, match='its ops fail: bad is installed'):
        mmcv_wheel.provide_mmcv(WheelVenv(), 'mmcv==2.1.0', tmp_path, build_bad)
    assert [path.name for path in tmp_path.iterdir()] == ['lock']


def test_an_interrupted_build_leaves_nothing_in_the_cache(tmp_path):
    def build_half(*arguments):
        build(*arguments, content='half')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mmcv_wheel.provide_mmcv(WheelVenv(), 'mmcv==2.1.0', tmp_path, build_half)
    assert [path.name for path in tmp_path.iterdir()] == ['lock']


def test_two_set_ups_at_once_build_one_wheel(tmp_path):
    started, venvs = threading.Event(), [WheelVenv(), WheelVenv()]

    def build_slowly(*arguments):
        started.set()
        time.sleep(0.3)  # the other one has every chance to start a build of its own
        return build(*arguments)

    threads = [
        threading.Thread(
            target=mmcv_wheel.provide_mmcv, args=(venv, 'mmcv==2.1.0', tmp_path, build_slowly)
        )
        for venv in venvs
    ]
    threads[0].start()
    assert started.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join(10)
    assert [venv.builds for venv in venvs] == [1, 0]
    assert [venv.content for venv in venvs] == ['good', 'good']


def test_a_failed_build_shows_the_end_of_its_log(tmp_path):
    venv = Venv(tmp_path)
    program = tmp_path / 'bin' / 'python'
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "  [1/77] c++ a.cpp"\necho "$MAX_JOBS $*"\nexit 1\n')
    program.chmod(0o755)
    log = tmp_path / 'build.log'
    with pytest.raises(SetupError, match='does not compile') as failure:
        mmcv_wheel.build_mmcv(venv, 'mmcv==2.1.0', tmp_path, log)
    assert str(log) in str(failure.value)
    assert 'c++ a.cpp' in log.read_text()
    jobs, *options = log.read_text().splitlines()[1].split()
    assert jobs == os.environ.get('MAX_JOBS', str(os.cpu_count()))
    assert {'--no-build-isolation', '--no-deps', '--no-cache-dir', 'mmcv==2.1.0'} <= set(options)
    assert ' '.join(options) in str(failure.value)


# --- which mmcv stays -----------------------------------------------------------------------


class MmcvVenv:
    """An environment with these distributions, and perhaps a compiled module of mmcv.

    Args:
        runs: The version whose compiled ops run; None if there are no compiled ops.
        versions: Installed versions by distribution.
    """

    root = Path('/venv')

    def __init__(self, runs: str | None, **versions: str) -> None:
        self.runs, self.uninstalled = runs, set()
        self.versions = {name.replace('_', '-'): version for name, version in versions.items()}

    def has_compiled_ops(self):
        return self.runs is not None

    def ops_error(self, mmcv):
        wanted = mmcv.partition('==')[2]
        return '' if self.runs and wanted in ('', self.runs) else 'they do not run'

    def installed(self, name):
        return self.versions.get(name, '')

    def pip(self, command, *arguments):
        assert command == 'uninstall'
        self.uninstalled.update(word for word in arguments if word[0] != '-')


TESTED = dict(mmcv='2.1.0')
LITE = dict(mmcv_lite='2.1.0')


@pytest.mark.parametrize(
    ('runs', 'installed', 'compiled', 'replace', 'stays', 'gone'),
    [
        pytest.param(None, {}, False, False, False, '', id='empty'),
        pytest.param(None, LITE, False, False, False, '', id='lite is there'),
        pytest.param('2.1.0', TESTED, False, False, True, '', id="a user's compiled mmcv"),
        pytest.param('2.1.0', TESTED, False, True, False, 'mmcv', id='ours'),
        pytest.param('', TESTED, False, False, False, 'mmcv', id='compiled for another torch'),
        pytest.param(None, TESTED, False, False, False, 'mmcv', id='mmcv without its ops'),
        pytest.param(
            None, {**TESTED, **LITE}, False, False, False, 'mmcv mmcv-lite', id='shared files'
        ),
        pytest.param(None, LITE, True, True, False, 'mmcv-lite', id='lite, to be compiled'),
        pytest.param('2.1.0', {**TESTED, **LITE}, True, True, True, '', id='both, compiled'),
        pytest.param('', TESTED, True, False, False, 'mmcv', id='broken, to be compiled'),
    ],
)
def test_which_mmcv_stays(runs, installed, compiled, replace, stays, gone):
    target = MmcvVenv(runs, **installed)
    choice = dict(compiled=compiled, replace=replace)
    assert mmcv_wheel.clear_way(target, 'mmcv==2.1.0', 'mmcv-lite', **choice) is stays
    assert target.uninstalled == set(gone.split())


def test_a_compiled_mmcv_of_another_version_is_not_thrown_away():
    target = MmcvVenv('2.0.1', mmcv='2.0.1')
    choice = dict(compiled=False, replace=False)
    with pytest.raises(SetupError, match=r'/venv has mmcv 2\.0\.1 with compiled.*OPS=mmcv'):
        mmcv_wheel.clear_way(target, 'mmcv==2.1.0', 'mmcv-lite', **choice)
    assert not target.uninstalled


@pytest.mark.parametrize('runs', ['2.3.6', None])
def test_a_fork_has_one_name_for_both(runs):
    target = MmcvVenv(runs, onedl_mmcv='2.3.6')
    wanted = ('onedl-mmcv==2.3.6', 'onedl-mmcv')
    assert not mmcv_wheel.clear_way(target, *wanted, compiled=False, replace=True)
    assert target.uninstalled == ({'onedl-mmcv'} if runs else set())


# --- progress -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('line', 'step'),
    [
        ('  [12/77] c++ -MMD -MF build/x.o.d -pthread\n', (12, 77)),
        ('[1/77] c++\n', (1, 77)),
        ('  Running command python setup.py bdist_wheel\n', None),
        ('     16 |   array[12/77] = 1\n', None),
    ],
)
def test_ninja_lines(line, step):
    assert mmcv_wheel.parse_step(line) == step


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def feed(stream: Stream, steps: int) -> str:
    now = iter(range(0, 10_000, 10))
    progress = mmcv_wheel.Progress(stream, clock=lambda: next(now))
    for step in range(1, steps + 1):
        progress.feed('  a warning of the compiler\n')
        progress.feed(f'  [{step}/77] c++ file.cpp\n')
    return stream.getvalue()


def test_progress_on_a_terminal_rewrites_one_line():
    text = feed(Stream(terminal=True), 77)
    assert text.count('\r') == 77
    assert text.count('\n') == 1
    assert '\r      compiling 7/77, 1:10 elapsed, about 11:40 to go\x1b[K' in text


def test_progress_elsewhere_is_a_line_per_tenth():
    lines = feed(Stream(terminal=False), 77).splitlines()
    assert len(lines) == 10
    assert lines[0] == '      compiling 8/77, 1:20 elapsed, about 11:30 to go'
    assert lines[-1] == '      compiling 77/77, 12:50 elapsed, about 0:00 to go'
