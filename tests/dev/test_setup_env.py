"""dev/setup_env.py without network: decisions on environments."""

import contextlib
import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import textwrap
import venv
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest

from convnext_backbones.io import tested_versions
from dev import environment, setup_env

ROOT = Path(__file__).resolve().parents[2]

TABLE = """\
# comment
# python==3.11
torch==2.13.0
numpy==2.2.6; python_version < "3.11"
numpy==2.4.6; python_version >= "3.11"

# what they pull in
sympy==1.14.0
typing_extensions==4.16.0
"""


# --- versions -------------------------------------------------------------------------------


def test_constraints_pin_the_torch_in_use():
    lines = setup_env.constraints(TABLE, '2.13.0+cpu', ['sympy']).splitlines()
    assert 'torch==2.13.0+cpu' in lines
    assert 'torch==2.13.0' not in lines
    assert 'sympy==1.14.0' in lines, 'the rest stays as tested'
    assert 'numpy==2.4.6; python_version >= "3.11"' in lines, 'pip reads the markers'


def test_another_torch_decides_about_its_own_dependencies():
    lines = setup_env.constraints(TABLE, '2.5.1', ['sympy', 'typing-extensions']).splitlines()
    assert [line for line in lines if '==' in line and line[0] != '#'] == [
        'torch==2.5.1',
        'numpy==2.2.6; python_version < "3.11"',
        'numpy==2.4.6; python_version >= "3.11"',
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


FILES = ['setup.py', 'convnext_backbones/ops/convnext_backbones_ops.pth']


@pytest.mark.parametrize(
    'changed', ['tested_versions.txt', *FILES, 'interpreter', 'stack', 'ops', 'replace']
)
def test_what_decides_the_result_is_in_the_fingerprint(tmp_path, monkeypatch, changed):
    for file in ('tested_versions.txt', *FILES):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text('1')
    monkeypatch.setattr(setup_env, 'ROOT', tmp_path)
    monkeypatch.setattr(tested_versions, 'TABLE', tmp_path / 'tested_versions.txt')
    interpreter, plan = '3.11.7', setup_env.Plan()
    before = setup_env.fingerprint(interpreter, plan)
    assert setup_env.fingerprint(interpreter, plan) == before
    others = {'stack': 'onedl', 'ops': 'mmcv', 'replace': True}
    if changed in others:
        plan = dataclasses.replace(plan, **{changed: others[changed]})
    elif changed == 'interpreter':
        interpreter = '3.12.1'
    else:
        (tmp_path / changed).write_text('2')
    assert setup_env.fingerprint(interpreter, plan) != before


class RecordedSteps:
    """Stands in for the steps of set_up; one of them may fail."""

    def __init__(self, monkeypatch, fails: str = '') -> None:
        self.done = []
        self.arguments = {}
        facts = {'version': '2.13.0', 'build': '2.13.0+cpu', 'requires': []}
        facts['gpu_without_compiler'] = False
        for name, result in [
            ('create', None),
            ('install_torch', None),
            ('torch_facts', facts),
            ('clear_way', False),
            ('install_package', None),
            ('provide_mmcv', 'from the test'),
            ('run_doctor', None),
        ]:
            monkeypatch.setattr(setup_env, name, self.step(name, result, name == fails))

    def step(self, name, result, fails):
        def step(*arguments, **options):
            self.done.append(name)
            self.arguments[name] = (*arguments, *options.items())
            if fails:
                raise environment.SetupError(f'{name} failed')
            return result

        return step


class FakeVenv(environment.Venv):
    """An environment in which torch is or is not installed, and in which pip does nothing."""

    torch = ''
    pips: list[tuple] = []
    ops = ('plain torch', '')

    def interpreter(self):
        return '3.11.7'

    def installed(self, distribution):
        return self.torch if distribution == 'torch' else ''

    def pip(self, *arguments):
        self.pips.append(arguments)

    def ask(self, code, *arguments):
        return subprocess.CompletedProcess([], 0, 'cp311\n', '')

    def run_ops(self, version='', provider=''):
        return self.ops


@pytest.fixture
def fake_venv(tmp_path, monkeypatch):
    monkeypatch.setattr(setup_env, 'Venv', FakeVenv)
    monkeypatch.setattr(FakeVenv, 'torch', '')
    monkeypatch.setattr(FakeVenv, 'pips', [])
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
    monkeypatch.setattr(setup_env, 'check_host', lambda *arguments, **options: None)
    arguments = ['--venv', str(fake_venv), '--ops', 'mmcv']
    with pytest.raises(SystemExit, match=f'{fails} failed'):
        RecordedSteps(monkeypatch, fails)
        setup_env.main(arguments)
    steps = RecordedSteps(monkeypatch)
    setup_env.main(arguments)
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


# --- the operators --------------------------------------------------------------------------


def test_by_default_nothing_is_compiled(fake_venv, monkeypatch, capsys):
    steps = RecordedSteps(monkeypatch)
    setup_env.main(['--venv', str(fake_venv)])
    assert 'provide_mmcv' not in steps.done
    assert 'computed by plain torch' in capsys.readouterr().out
    tested = tested_versions.read_table(tested_versions.TABLE.read_text())
    assert FakeVenv.pips == [('install', '-qq', f'setuptools=={tested["setuptools"]}')]
    assert steps.arguments['install_package'][-1] == 'mmcv-lite'
    assert ('compiled', False) in steps.arguments['clear_way']


def test_compiled_ops_come_with_their_tools(fake_venv, monkeypatch):
    monkeypatch.setattr(setup_env, 'check_host', lambda *arguments, **options: None)
    steps = RecordedSteps(monkeypatch)
    setup_env.main(['--venv', str(fake_venv), '--ops', 'mmcv'])
    assert [word.partition('==')[0] for word in FakeVenv.pips[0][2:]] == [
        'setuptools',
        'wheel',
        'ninja',
    ]
    assert steps.arguments['install_package'][-1] == ''
    assert steps.done.index('install_package') < steps.done.index('provide_mmcv')


def test_a_compiled_mmcv_that_stays_is_not_installed_over(fake_venv, monkeypatch):
    steps = RecordedSteps(monkeypatch)
    monkeypatch.setattr(setup_env, 'clear_way', lambda *arguments, **options: True)
    setup_env.main(['--venv', str(fake_venv)])
    assert steps.arguments['install_package'][-1] == ''


def test_operators_that_do_not_run_stop_the_setup(fake_venv, monkeypatch):
    steps = RecordedSteps(monkeypatch)
    monkeypatch.setattr(FakeVenv, 'ops', ('', 'AssertionError: mmcv is 2.2.0'))
    with pytest.raises(SystemExit, match='operators do not run: AssertionError: mmcv is 2.2.0'):
        setup_env.main(['--venv', str(fake_venv)])
    assert 'run_doctor' not in steps.done


@pytest.mark.parametrize(('ops', 'refused'), [('', False), ('mmcv', True)])
def test_a_gpu_needs_its_compiler_for_compiled_ops_only(fake_venv, monkeypatch, ops, refused):
    monkeypatch.setattr(setup_env, 'check_host', lambda *arguments, **options: None)
    steps = RecordedSteps(monkeypatch)
    facts = {'version': '2.13.0', 'build': '2.13.0+cu130', 'requires': []}
    facts['gpu_without_compiler'] = True
    monkeypatch.setattr(setup_env, 'torch_facts', lambda venv: facts)
    if refused:
        with pytest.raises(SystemExit, match='no CUDA compiler.*without OPS=mmcv'):
            setup_env.main(['--venv', str(fake_venv), '--ops', ops])
    else:
        setup_env.main(['--venv', str(fake_venv), '--ops', ops])
    assert ('run_doctor' in steps.done) is not refused


FAKES = {
    'mmcv/__init__.py': "__version__ = '2.1.0'",
    'mmcv/ops.py': """
        import mmcv._ext
        def nms(boxes, scores, threshold): return None, Any
        def roi_align(crops, boxes, size): return Any
        class Any:
            tolist = staticmethod(lambda: {kept})
            eq = staticmethod(lambda value: Any)
            all = staticmethod(lambda: True)
        """,
    'torch.py': """
        class cuda:
            is_available = staticmethod(lambda: False)
        class Tensor:
            new_tensor = staticmethod(lambda values: values)
        def tensor(values, device): return Tensor
        def ones(*sizes, device): return None
        """,
}


@pytest.mark.parametrize(
    ('extension', 'kept', 'version', 'provider', 'serving', 'error'),
    [
        ("provider, description = 'torch', 'plain torch 2'", [0, 2], '', '', 'plain torch 2', ''),
        ("provider = 'torch'", [0, 2], '', 'mmcv', '', 'the ops are those of torch'),
        ('', [0, 2], '2.1.0', 'mmcv', 'compiled mmcv', ''),
        ('', [0, 2], '2.0.1', '', '', 'mmcv is 2.1.0'),
        ('', [0, 1], '', '', '', 'nms on cpu kept [0, 1]'),
    ],
)
def test_the_ops_are_run(tmp_path, extension, kept, version, provider, serving, error):
    (tmp_path / 'mmcv').mkdir()
    for name, source in {**FAKES, 'mmcv/_ext.py': extension}.items():
        (tmp_path / name).write_text(textwrap.dedent(source).format(kept=kept))
    # An interpreter without this package's finder; its folder is the first on the path.
    venv.EnvBuilder(with_pip=False, symlinks=True).create(tmp_path)
    target = environment.Venv(tmp_path)
    found, reason = target.run_ops(version, provider)
    assert found == serving
    assert error in reason if error else not reason


def test_pip_leaves_the_compilation_of_modules_to_python(tmp_path):
    target = environment.Venv(tmp_path)
    target.python.parent.mkdir()
    target.python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    target.python.chmod(0o755)
    target.pip('install', 'torch')
    target.pip('uninstall', 'torch')
    calls = (tmp_path / 'calls').read_text().splitlines()
    assert calls == ['-m pip install torch --no-compile', '-m pip uninstall torch']


def test_compiled_ops_are_run_by_force(tmp_path, monkeypatch):
    """Where they do not run another provider would serve without a word."""
    asked = []
    target = FakeVenv(tmp_path)
    failed = subprocess.CompletedProcess([], 1, '', 'Traceback\nImportError: no\n')
    monkeypatch.setattr(
        target, 'ask', lambda *arguments, **variables: asked.append(variables) or failed
    )
    assert target.ops_error('mmcv==2.1.0') == ''
    assert environment.Venv.run_ops(target, '2.1.0', 'mmcv') == ('', 'ImportError: no')
    assert asked == [{'CONVNEXT_BACKBONES_OPS': 'mmcv'}]


# --- the stacks -----------------------------------------------------------------------------


def test_what_is_installed_has_the_names_of_the_stack(tmp_path, monkeypatch):
    target, commands = FakeVenv(tmp_path), []
    monkeypatch.setattr(target, 'pip', lambda *arguments: commands.append(arguments))
    needs = subprocess.CompletedProcess([], 0, 'mmengine\nmmcv-lite\nmmdet\npytest\n', '')
    monkeypatch.setattr(target, 'ask', lambda code: needs)
    torch = {'version': '2.13.0', 'requires': []}
    setup_env.install_package(target, 'openmmlab', torch, 'mmcv-lite')
    setup_env.install_package(target, 'onedl', torch, 'onedl-mmcv')
    setup_env.install_package(target, 'openmmlab', torch, '')
    package, theirs, package_again, own, _, compiled = commands
    assert '--no-deps' in package, 'its metadata name distributions of OpenMMLab'
    assert package == package_again
    assert theirs[-4:] == ('mmengine', 'mmcv-lite', 'mmdet', 'pytest')
    assert own[-4:] == ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'pytest')
    assert compiled[-3:] == ('mmengine', 'mmdet', 'pytest')
    assert '--no-build-isolation' not in own, "a fork's mmcv must find no torch to compile for"


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


@pytest.mark.parametrize(
    ('stack', 'present'),
    [('openmmlab', 'onedl-mmcv'), ('onedl', 'mmdet'), ('onedl', 'mmcv-lite')],
)
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


@pytest.mark.parametrize('minor', [9, 14])
def test_an_untested_python_is_refused_in_one_sentence(monkeypatch, tmp_path, minor):
    version = namedtuple('version_info', 'major minor micro releaselevel serial')
    monkeypatch.setattr(sys, 'version_info', version(3, minor, 18, 'final', 0))
    with pytest.raises(SystemExit) as stop:
        setup_env.main(['--venv', str(tmp_path / 'venv')])
    assert 'for Python 3.10 to 3.13' in stop.value.code
    assert 'PYTHON=python3.11' in stop.value.code
    assert '\n' not in stop.value.code
    assert not (tmp_path / 'venv').exists()


def test_a_missing_compiler_is_named_before_anything_is_installed(monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(SystemExit, match=r'no C\+\+ compiler.*install g\+\+.*without OPS=mmcv'):
        setup_env.main(['--venv', str(tmp_path / 'venv'), '--ops', 'mmcv'])
    assert not (tmp_path / 'venv').exists()


def test_by_default_neither_compiler_nor_headers_are_needed(monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    monkeypatch.setattr(environment.sysconfig, 'get_path', lambda name: str(tmp_path))
    pythons = tested_versions.tested_pythons()
    environment.check_host(pythons, compiles=False)
    with pytest.raises(environment.SetupError, match='Python.h is missing'):
        environment.check_host(pythons, compiles=True)


@pytest.mark.parametrize(('system', 'python'), [('posix', 'bin/python'), ('nt', 'python.exe')])
def test_the_interpreter_is_where_the_system_has_it(tmp_path, monkeypatch, system, python):
    monkeypatch.setattr(environment, 'os', SimpleNamespace(name=system, environ={}, pathsep=';'))
    target = environment.Venv(tmp_path)
    assert str(target.python).endswith(python)
    assert target.variables['PATH'] == f'{target.python.parent};'


@pytest.mark.parametrize('system', ['posix', 'nt'])
def test_a_lock_is_waited_for(tmp_path, monkeypatch, capsys, system):
    path, order = tmp_path / 'lock', []
    if system == 'nt':
        monkeypatch.setattr(environment, 'fcntl', None)
        monkeypatch.setitem(sys.modules, 'msvcrt', FakeMsvcrt())
    monkeypatch.setattr(environment.time, 'sleep', lambda seconds: order.append('waits'))
    with contextlib.ExitStack() as first:
        first.enter_context(environment.locked(path))
        release = SimpleNamespace(close=first.pop_all().close)
    monkeypatch.setattr(
        environment.time, 'sleep', lambda seconds: (order.append('waits'), release.close())
    )
    with environment.locked(path):
        order.append('has it')
    assert order == ['waits', 'has it']
    assert capsys.readouterr().out.count('another setup is running here') == 1


class FakeMsvcrt:
    """Windows' locks, by those of this system."""

    LK_NBLCK = 2

    def locking(self, descriptor: int, mode: int, size: int) -> None:
        assert (mode, size) == (self.LK_NBLCK, 1)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError from error


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
