"""dev/setup_env.py without network: decisions on environments, and the cache of wheels."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from dev import setup_env

ROOT = Path(__file__).resolve().parents[1]
doctor = setup_env.doctor

TABLE = """\
# comment
# python==3.11
torch==2.13.0
numpy==2.4.6

# what they pull in
sympy==1.14.0
typing_extensions==4.16.0
"""


# --- versions -------------------------------------------------------------------------------


def test_constraints_pin_the_torch_in_use():
    lines = setup_env.constraints(TABLE, '2.13.0+cpu', ['sympy']).splitlines()
    assert 'torch==2.13.0+cpu' in lines
    assert 'torch==2.13.0' not in lines
    assert {'numpy==2.4.6', 'sympy==1.14.0'} <= set(lines), 'the rest stays as tested'


def test_another_torch_decides_about_its_own_dependencies():
    lines = setup_env.constraints(TABLE, '2.5.1', ['sympy', 'typing-extensions']).splitlines()
    assert [line for line in lines if '==' in line and line[0] != '#'] == [
        'torch==2.5.1',
        'numpy==2.4.6',
    ]


@pytest.mark.parametrize(
    ('installed', 'wanted', 'expected'),
    [
        ('2.13.0', '2.13.0', True),
        ('2.13.0+cpu', '2.13.0', True),
        ('2.13.0+cpu', '2.13.0+cpu', True),
        ('2.13.0+cu130', '2.13.0+cpu', False),
        ('2.13.0', '2.1', False),
    ],
)
def test_versions_with_a_local_tag(installed, wanted, expected):
    assert setup_env.is_version(installed, wanted) is expected


@pytest.mark.parametrize('stack', doctor.read_stacks())
def test_the_real_tables_are_complete(stack):
    tested = doctor.read_table(doctor.stack_table(stack))
    names = doctor.read_stacks()[stack]
    assert {'mmcv', 'mmdet', 'mmengine', 'mmsegmentation'} <= set(names)
    tools = {'python', 'torch', 'setuptools', 'wheel', 'ninja', 'pytest'}
    assert {*tools, *names.values()} <= set(tested)
    assert not doctor.foreign_to(stack) & set(tested), 'nothing of another stack can come in'


# --- the stamp ------------------------------------------------------------------------------


@pytest.fixture
def stamp(tmp_path):
    path = tmp_path / 'stamp.json'
    path.write_text(json.dumps({'inputs': 'abc', 'torch': '2.13.0+cpu'}))
    return path


@pytest.mark.parametrize(
    ('inputs', 'torch', 'expected'),
    [
        ('abc', '', True),
        ('abc', '2.13.0', True),
        ('abc', '2.5.1', False),
        ('other', '', False),
    ],
)
def test_a_stamp_counts_for_the_same_inputs(stamp, inputs, torch, expected):
    assert setup_env.is_ready(stamp, inputs, torch) is expected


def test_no_stamp_and_half_a_stamp_do_not_count(stamp):
    assert not setup_env.is_ready(stamp.with_name('none'), 'abc', '')
    stamp.write_text('{"inputs"')
    assert not setup_env.is_ready(stamp, 'abc', '')


@pytest.mark.parametrize('changed', ['tested_versions.txt', 'setup.py', 'interpreter', 'stack'])
def test_what_decides_the_result_is_in_the_fingerprint(tmp_path, monkeypatch, changed):
    (tmp_path / 'setup.py').write_text('1')
    (tmp_path / 'tested_versions.txt').write_text('1')
    monkeypatch.setattr(setup_env, 'ROOT', tmp_path)
    monkeypatch.setattr(doctor, 'TABLE', tmp_path / 'tested_versions.txt')
    before = setup_env.fingerprint('3.11.7', 'openmmlab')
    assert setup_env.fingerprint('3.11.7', 'openmmlab') == before
    inputs = {'interpreter': '3.11.7', 'stack': 'openmmlab'}
    others = {'interpreter': '3.12.1', 'stack': 'onedl'}
    if changed in inputs:
        inputs[changed] = others[changed]
    else:
        (tmp_path / changed).write_text('2')
    assert setup_env.fingerprint(**inputs) != before


class RecordedSteps:
    """Stands in for the steps of set_up; one of them may fail."""

    def __init__(self, monkeypatch, fails: str = '') -> None:
        self.done = []
        facts = {'version': '2.13.0', 'build': '2.13.0+cpu', 'requires': []}
        for name, result in [
            ('create', None),
            ('install_torch', None),
            ('torch_facts', facts),
            ('install_package', None),
            ('provide_mmcv', 'from the test'),
            ('run_doctor', None),
        ]:
            monkeypatch.setattr(setup_env, name, self.step(name, result, name == fails))

    def step(self, name, result, fails):
        def step(*arguments):
            self.done.append(name)
            if fails:
                raise setup_env.SetupError(f'{name} failed')
            return result

        return step


class FakeVenv(setup_env.Venv):
    """An environment in which torch is or is not installed, and in which pip does nothing."""

    torch = ''

    def interpreter(self):
        return '3.11.7'

    def installed(self, distribution):
        return self.torch if distribution == 'torch' else ''

    def pip(self, *arguments):
        pass

    def ask(self, code, *arguments):
        return subprocess.CompletedProcess([], 0, 'cp311\n', '')


@pytest.fixture
def fake_venv(tmp_path, monkeypatch):
    monkeypatch.setattr(setup_env, 'Venv', FakeVenv)
    monkeypatch.setattr(FakeVenv, 'torch', '')
    (tmp_path / 'venv').mkdir()
    return tmp_path / 'venv'


def test_a_second_run_returns_at_once(fake_venv, monkeypatch, capsys):
    steps = RecordedSteps(monkeypatch)
    setup_env.main(['--venv', str(fake_venv)])
    assert steps.done[-1] == 'run_doctor'
    assert '[6/6]' in capsys.readouterr().out
    steps.done.clear()
    setup_env.main(['--venv', str(fake_venv)])
    assert (steps.done, capsys.readouterr().out) == ([], '')
    setup_env.main(['--venv', str(fake_venv), '--torch', '2.5.1'])
    assert 'install_torch' in steps.done


@pytest.mark.parametrize('fails', ['install_package', 'provide_mmcv', 'run_doctor'])
def test_an_unfinished_run_does_not_count(fake_venv, monkeypatch, fails):
    with pytest.raises(SystemExit, match=f'{fails} failed'):
        RecordedSteps(monkeypatch, fails)
        setup_env.main(['--venv', str(fake_venv)])
    steps = RecordedSteps(monkeypatch)
    setup_env.main(['--venv', str(fake_venv)])
    assert 'run_doctor' in steps.done


@pytest.mark.parametrize(
    ('present', 'wanted', 'installs'),
    [('', '', True), ('2.5.1', '', False), ('2.5.1+cpu', '2.5.1', False), ('2.5.1', '2.6.0', True)],
)
def test_torch_of_an_existing_environment_is_kept(
    fake_venv, monkeypatch, present, wanted, installs
):
    monkeypatch.setattr(FakeVenv, 'torch', present)
    steps = RecordedSteps(monkeypatch)
    setup_env.main(['--venv', str(fake_venv), '--torch', wanted])
    assert ('install_torch' in steps.done) is installs


# --- the stacks -----------------------------------------------------------------------------


def test_what_is_installed_has_the_names_of_the_stack(tmp_path, monkeypatch):
    venv, commands = FakeVenv(tmp_path), []
    monkeypatch.setattr(venv, 'pip', lambda *arguments: commands.append(arguments))
    needs = subprocess.CompletedProcess([], 0, 'mmengine\nmmdet\npytest\n', '')
    monkeypatch.setattr(venv, 'ask', lambda code: needs)
    torch = {'version': '2.13.0', 'requires': []}
    setup_env.install_package(venv, 'openmmlab', torch)
    setup_env.install_package(venv, 'onedl', torch)
    package, theirs, package_again, own = commands
    assert '--no-deps' in package, 'its metadata name distributions of OpenMMLab'
    assert package == package_again
    assert theirs[-3:] == ('mmengine', 'mmdet', 'pytest')
    assert own[-3:] == ('onedl-mmengine', 'onedl-mmdetection', 'pytest')


def test_the_needs_are_those_of_the_development(tmp_path):
    metadata = 'Metadata-Version: 2.1\nName: convnext_backbones\nVersion: 1\n'
    needs = ['torch>=2.0', 'mmdet<4,>=3.2; extra == "dev"', 'optuna; extra == "others"']
    info = tmp_path / 'convnext_backbones-1.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(metadata + ''.join(f'Requires-Dist: {n}\n' for n in needs))
    run = subprocess.run(
        [sys.executable, '-S', '-c', setup_env.REQUIREMENTS],
        env={'PYTHONPATH': str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ['torch', 'mmdet']


@pytest.mark.parametrize(('stack', 'present'), [('openmmlab', 'onedl-mmcv'), ('onedl', 'mmdet')])
def test_an_environment_with_another_stack_is_left_alone(fake_venv, monkeypatch, stack, present):
    steps = RecordedSteps(monkeypatch)
    monkeypatch.setattr(FakeVenv, 'installed', lambda venv, name: '1.0' if name == present else '')
    with pytest.raises(SystemExit, match=f'{present}, which is not of the stack {stack}'):
        setup_env.main(['--venv', str(fake_venv), '--stack', stack])
    assert steps.done == ['create']


def test_a_finished_set_up_of_another_stack_does_not_count(fake_venv, monkeypatch):
    steps = RecordedSteps(monkeypatch)
    setup_env.main(['--venv', str(fake_venv)])
    steps.done.clear()
    setup_env.main(['--venv', str(fake_venv), '--stack', 'onedl'])
    assert 'install_package' in steps.done


# --- the machine ----------------------------------------------------------------------------


def test_an_old_python_is_refused_in_one_sentence(monkeypatch, tmp_path):
    version = namedtuple('version_info', 'major minor micro releaselevel serial')
    monkeypatch.setattr(sys, 'version_info', version(3, 9, 18, 'final', 0))
    with pytest.raises(SystemExit) as stop:
        setup_env.main(['--venv', str(tmp_path / 'venv')])
    assert 'need Python 3.11 or newer' in stop.value.code
    assert '\n' not in stop.value.code
    assert not (tmp_path / 'venv').exists()


def test_a_missing_compiler_is_named_before_anything_is_installed(monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(SystemExit, match=r'no C\+\+ compiler.*install g\+\+'):
        setup_env.main(['--venv', str(tmp_path / 'venv')])
    assert not (tmp_path / 'venv').exists()


# --- the cache of wheels --------------------------------------------------------------------


def test_the_folder_depends_on_everything_a_wheel_depends_on(monkeypatch):
    monkeypatch.setenv('CONVNEXT_BACKBONES_CACHE', '/cache')
    folder = setup_env.wheel_folder('2.13.0+cpu', 'mmcv==2.1.0', 'cp311')
    assert folder.parent == Path('/cache/wheels')
    others = [
        setup_env.wheel_folder('2.13.0+cu130', 'mmcv==2.1.0', 'cp311'),
        setup_env.wheel_folder('2.13.0+cpu', 'mmcv==2.2.0', 'cp311'),
        setup_env.wheel_folder('2.13.0+cpu', 'onedl-mmcv==2.1.0', 'cp311'),
        setup_env.wheel_folder('2.13.0+cpu', 'mmcv==2.1.0', 'cp312'),
    ]
    monkeypatch.setattr(setup_env.platform, 'machine', lambda: 'riscv')
    others.append(setup_env.wheel_folder('2.13.0+cpu', 'mmcv==2.1.0', 'cp311'))
    assert len({folder, *others}) == 6


def test_the_folder_follows_the_xdg_convention(monkeypatch):
    monkeypatch.delenv('CONVNEXT_BACKBONES_CACHE', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', '/xdg')
    folder = setup_env.wheel_folder('2.13.0', 'mmcv==2.1.0', 'cp311')
    assert folder.is_relative_to('/xdg/convnext_backbones/wheels')
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', '/home/someone')
    folder = setup_env.wheel_folder('2.13.0', 'mmcv==2.1.0', 'cp311')
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
    assert 'compiled' in setup_env.provide_mmcv(first, 'mmcv==2.1.0', tmp_path, build)
    assert 'from ' in setup_env.provide_mmcv(second, 'mmcv==2.1.0', tmp_path, build)
    assert (first.builds, second.builds) == (1, 0)
    again = setup_env.provide_mmcv(second, 'mmcv==2.1.0', tmp_path / 'x', build)
    assert again == 'already installed'


def test_a_cached_wheel_that_fails_is_deleted_and_built_again(tmp_path, capsys):
    (tmp_path / 'mmcv-2.1.0-old.whl').write_text('bad')
    venv = WheelVenv()
    setup_env.provide_mmcv(venv, 'mmcv==2.1.0', tmp_path, build)
    assert (venv.content, venv.builds) == ('good', 1)
    assert [wheel.read_text() for wheel in tmp_path.glob('*.whl')] == ['good']
    assert 'deleted and built again, it fails: bad is installed' in capsys.readouterr().out


def test_a_built_wheel_whose_ops_fail_does_not_enter_the_cache(tmp_path):
    def build_bad(*arguments):
        return build(*arguments, content='bad')

    with pytest.raises(setup_env.SetupError, match='its ops fail: bad is installed'):
        setup_env.provide_mmcv(WheelVenv(), 'mmcv==2.1.0', tmp_path, build_bad)
    assert [path.name for path in tmp_path.iterdir()] == ['lock']


def test_an_interrupted_build_leaves_nothing_in_the_cache(tmp_path):
    def build_half(*arguments):
        build(*arguments, content='half')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        setup_env.provide_mmcv(WheelVenv(), 'mmcv==2.1.0', tmp_path, build_half)
    assert [path.name for path in tmp_path.iterdir()] == ['lock']


def test_two_set_ups_at_once_build_one_wheel(tmp_path):
    started, venvs = threading.Event(), [WheelVenv(), WheelVenv()]

    def build_slowly(*arguments):
        started.set()
        time.sleep(0.3)  # the other one has every chance to start a build of its own
        return build(*arguments)

    threads = [
        threading.Thread(
            target=setup_env.provide_mmcv, args=(venv, 'mmcv==2.1.0', tmp_path, build_slowly)
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
    venv = setup_env.Venv(tmp_path)
    program = tmp_path / 'bin' / 'python'
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "  [1/77] c++ a.cpp"\necho "$MAX_JOBS $*"\nexit 1\n')
    program.chmod(0o755)
    log = tmp_path / 'build.log'
    with pytest.raises(setup_env.SetupError, match='does not compile') as failure:
        setup_env.build_mmcv(venv, 'mmcv==2.1.0', tmp_path, log)
    assert str(log) in str(failure.value)
    assert 'c++ a.cpp' in log.read_text()
    jobs, *options = log.read_text().splitlines()[1].split()
    assert jobs == os.environ.get('MAX_JOBS', str(os.cpu_count()))
    assert {'--no-build-isolation', '--no-deps', '--no-cache-dir', 'mmcv==2.1.0'} <= set(options)
    assert ' '.join(options) in str(failure.value)


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
    assert setup_env.parse_step(line) == step


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def feed(stream: Stream, steps: int) -> str:
    now = iter(range(0, 10_000, 10))
    progress = setup_env.Progress(stream, clock=lambda: next(now))
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
