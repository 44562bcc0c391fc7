"""dev/setup_env.py without network: decisions on environments."""

import json
import os
import subprocess
import sys
import venv
from collections import namedtuple
from pathlib import Path

import pytest

from convnext_backbones.io import tested_versions
from dev import environment, setup_env

ROOT = Path(__file__).resolve().parents[2]

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
    monkeypatch.setattr(tested_versions, 'TABLE', tmp_path / 'tested_versions.txt')
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
                raise environment.SetupError(f'{name} failed')
            return result

        return step


class FakeVenv(environment.Venv):
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
    target, commands = FakeVenv(tmp_path), []
    monkeypatch.setattr(target, 'pip', lambda *arguments: commands.append(arguments))
    needs = subprocess.CompletedProcess([], 0, 'mmengine\nmmdet\npytest\n', '')
    monkeypatch.setattr(target, 'ask', lambda code: needs)
    torch = {'version': '2.13.0', 'requires': []}
    setup_env.install_package(target, 'openmmlab', torch)
    setup_env.install_package(target, 'onedl', torch)
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


@pytest.mark.parametrize('module', ['torch', 'mmengine'])
def test_the_packages_of_the_interpreter_are_not_imported(tmp_path, module):
    """They may be of any version; and a second call is to return at once."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(tmp_path)
    (site,) = tmp_path.glob('lib/python*/site-packages')
    (site / f'{module}.py').write_text("raise SystemExit('imported')")
    command = [tmp_path / 'bin/python', ROOT / 'dev/setup_env.py', '--help']
    variables = {key: value for key, value in os.environ.items() if not key.startswith('PYTHON')}
    run = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, '')
    assert '--stack {openmmlab,onedl}' in run.stdout
