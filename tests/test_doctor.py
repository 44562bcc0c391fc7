"""The doctor, on simulated environments: real interpreters whose site-packages hold fakes."""

import re
import shlex
import shutil
import time

import pytest
from support.fake_environment import (
    DOCTOR,
    EXTENSION,
    HEALTHY,
    PACKAGE,
    REFUSAL,
    TESTED,
    TORCH,
    TORCH_WITH_GPU,
    Simulation,
)

from convnext_backbones._doctor_environment import COMPONENTS
from convnext_backbones._doctor_probes import run_probes
from convnext_backbones.io import tested_versions


@pytest.fixture
def bare(tmp_path):
    return Simulation(tmp_path)


@pytest.fixture
def healthy(bare):
    bare.install_healthy()
    return bare


def installed_as(distribution: str) -> str:
    """The distribution that the doctor installs."""
    return 'mmcv-lite' if distribution == 'mmcv' else distribution


def verdicts(report: dict) -> dict[str, str]:
    return {row['component']: row['verdict'] for row in report['components']}


def test_a_healthy_environment_can_train(healthy):
    run = healthy.run()
    assert (run.returncode, run.stderr) == (0, '')
    assert 'Training and evaluation can run.' in run.stdout
    table = run.stdout.partition('\n\n')[0].splitlines()
    assert re.match(r'component +installed +tested +verdict$', table[0])
    column = table[0].index('verdict')
    assert all(line[column - 2 : column] == '  ' for line in table), 'the columns are aligned'
    for name in ('torch', 'CUDA', 'NCCL', 'gloo', 'mmcv ops', 'opencv', 'setuptools', 'regex'):
        assert any(line.startswith(name) for line in table), name


@pytest.mark.parametrize('installed', [True, False], ids=['installed', 'checkout'])
def test_it_runs_with_nothing_installed(bare, installed):
    package = bare.site / 'convnext_backbones'
    shutil.rmtree(package)
    parent = bare.site if installed else bare.site.parent  # the current directory
    (parent / package.name).symlink_to(PACKAGE)
    run = bare.run(*DOCTOR)
    assert run.returncode == 1
    assert run.stderr == ''
    for component in COMPONENTS:
        if component.name != 'mmcv ops':
            assert f'{component.name} is not installed: ' in run.stdout
            assert f'{installed_as(component.distribution)}==' in run.stdout


def test_another_version_is_a_note_and_no_problem(healthy):
    healthy.replace('ftfy', '6.0', {})
    report = healthy.report()
    assert report['ok']
    assert verdicts(report)['ftfy'] == 'not the tested version'


MMCV = f'install mmcv-lite=={TESTED["mmcv"]}'
# Name of the case: (what breaks a healthy environment, component, sentence, end of the command).
PROBLEMS = {
    'an op that crashes the interpreter': (
        lambda sim: sim.replace('mmcv', '2.1.0', {'mmcv/_ext.py': 'import os; os.abort()'}),
        'mmcv ops',
        r'ops of mmcv 2.1.0 do not load: Crash: SIGABRT killed the interpreter',
        f'uninstall -y mmcv && PIP {MMCV}',
    ),
    'mmcv 2.2 with mmdet 3.3': (
        lambda sim: (
            sim.replace('mmcv', '2.2.0', {}),
            sim.replace('mmdet', '3.3.0', {'mmdet/__init__.py': REFUSAL.format(version='2.2.0')}),
            sim.replace(
                'mmsegmentation', '1.2.2', {'mmseg/__init__.py': REFUSAL.format(version='2.2.0')}
            ),
        ),
        'mmcv',
        r'mmdet 3.3.0 refuses mmcv 2.2.0: it needs mmcv>=2.0.0rc4, <2.2.0\.$',
        f'uninstall -y mmcv && PIP {MMCV}',
    ),
    'mmcv-lite of another version beside mmcv': (
        lambda sim: sim.install(
            'mmcv-lite', '2.0.1', {'mmcv/ops.py': HEALTHY['mmcv']['mmcv/ops.py']}
        ),
        'mmcv',
        r'mmcv 2.1.0 and mmcv-lite 2.0.1 both install the module mmcv, so its files are a mixture',
        f'install --force-reinstall --no-deps mmcv-lite=={TESTED["mmcv"]}',
    ),
    'mmcv of another version beside mmcv-lite': (
        lambda sim: (
            sim.replace('mmcv', '2.0.1', {}),
            sim.install('mmcv-lite', '2.1.0', {'mmcv/ops.py': HEALTHY['mmcv']['mmcv/ops.py']}),
        ),
        'mmcv',
        r'mmcv 2.0.1 and mmcv-lite 2.1.0 both install the module mmcv',
        f'uninstall -y mmcv mmcv-lite && PIP {MMCV}',
    ),
    'mmcv after mmcv-lite was uninstalled': (
        lambda sim: [(sim.site / 'mmcv' / name).unlink() for name in ('__init__.py', 'ops.py')],
        'mmcv ops',
        r'The Python files of mmcv 2.1.0 are gone, as if a distribution with the same files had',
        f'install --force-reinstall --no-deps mmcv-lite=={TESTED["mmcv"]}',
    ),
    'mmcv-lite does not import': (
        lambda sim: sim.replace(
            'mmcv', '2.1.0', {'mmcv/__init__.py': "raise ValueError('x')"}, as_name='mmcv-lite'
        ),
        'mmcv',
        r'mmcv 2.1.0 is installed, but importing it fails: ValueError: x$',
        f'install --force-reinstall --no-deps --no-cache-dir mmcv-lite=={TESTED["mmcv"]}',
    ),
    'mmcv-full': (
        lambda sim: sim.replace('mmcv', '1.7.2', {}, as_name='mmcv-full'),
        'mmcv',
        r'mmcv-full 1.7.2 is mmcv 1.x',
        f'uninstall -y mmcv-full && PIP {MMCV}',
    ),
    'setuptools 82': (
        lambda sim: (
            sim.uninstall('setuptools'),
            sim.install('setuptools', '82.0.1', {'setuptools.py': ''}),
        ),
        'setuptools',
        r'setuptools 82.0.1 has no pkg_resources',
        f'install setuptools=={TESTED["setuptools"]}',
    ),
    'mmcv and onedl-mmcv': (
        lambda sim: sim.install('onedl-mmcv', '2.3.6', HEALTHY['mmcv']),
        'mmcv',
        r'mmcv 2.1.0 and onedl-mmcv 2.3.6 both install the module mmcv',
        f'uninstall -y mmcv onedl-mmcv && PIP {MMCV}',
    ),
    'onedl-mmcv in the place of mmcv': (
        lambda sim: sim.replace('mmcv', '2.3.6', {}, as_name='onedl-mmcv'),
        'mmcv',
        r'onedl-mmcv 2.3.6 is of another stack .* the module mmcv is of mmcv\.$',
        f'uninstall -y onedl-mmcv && PIP {MMCV}',
    ),
    'mmengine and onedl-mmengine': (
        lambda sim: sim.install('onedl-mmengine', '0.10.12', HEALTHY['mmengine']),
        'mmengine',
        r'mmengine \S+ and onedl-mmengine 0.10.12 both',
        f'uninstall -y mmengine onedl-mmengine && PIP install mmengine=={TESTED["mmengine"]}',
    ),
    'mmdet and onedl-mmdetection': (
        lambda sim: sim.install('onedl-mmdetection', '3.5.1', HEALTHY['mmdet']),
        'mmdet',
        r'mmdet \S+ and onedl-mmdetection 3.5.1 both',
        f'uninstall -y mmdet onedl-mmdetection && PIP install mmdet=={TESTED["mmdet"]}',
    ),
    'mmsegmentation and onedl-mmsegmentation': (
        lambda sim: sim.install('onedl-mmsegmentation', '1.4.2', HEALTHY['mmsegmentation']),
        'mmsegmentation',
        r'mmsegmentation \S+ and onedl-mmsegmentation 1.4.2 both',
        'uninstall -y mmsegmentation onedl-mmsegmentation && '
        f'PIP install mmsegmentation=={TESTED["mmsegmentation"]}',
    ),
    'the unrelated mmseg': (
        lambda sim: (
            sim.uninstall('mmsegmentation'),
            sim.install('mmseg', '1.3.0', {'mmseg/__init__.py': ''}),
        ),
        'mmsegmentation',
        r'The distribution mmseg 1.3.0 is an unrelated word segmentation package',
        f'uninstall -y mmseg && PIP install mmsegmentation=={TESTED["mmsegmentation"]}',
    ),
    'the unrelated mmseg over mmsegmentation': (
        lambda sim: sim.install('mmseg', '1.3.0', {'mmseg/__init__.py': ''}),
        'mmsegmentation',
        r'The distribution mmseg 1.3.0 is an unrelated word segmentation package',
        'uninstall -y mmseg mmsegmentation && '
        f'PIP install mmsegmentation=={TESTED["mmsegmentation"]}',
    ),
    'numpy 2 under a torch for numpy 1': (
        lambda sim: sim.replace(
            'torch',
            '2.0.1',
            {
                'torch.py': TORCH.replace(
                    'return array', "raise RuntimeError('Numpy is not available')"
                )
            },
        ),
        'numpy',
        rf'torch 2.0.1 was compiled for numpy 1 and cannot use numpy {TESTED["numpy"]}',
        "install 'numpy<2'",
    ),
    'pycocotools for another numpy': (
        lambda sim: sim.replace(
            'pycocotools',
            '2.0.6',
            {'pycocotools/mask.py': "raise ValueError('numpy.dtype size changed, may indicate')"},
        ),
        'pycocotools',
        rf'pycocotools 2.0.6 was compiled for another numpy than {TESTED["numpy"]}',
        f'install --force-reinstall --no-deps numpy=={TESTED["numpy"]} '
        f'pycocotools=={TESTED["pycocotools"]}',
    ),
    'a dependency of mmdet': (
        lambda sim: sim.replace('mmdet', '3.3.0', {'mmdet/apis.py': 'import shapely.geometry'}),
        'mmdet',
        r"mmdet 3.3.0 cannot be imported because 'shapely', which it needs, is missing",
        f'install mmdet=={TESTED["mmdet"]}',
    ),
    'mmengine fails at its import': (
        lambda sim: sim.replace(
            'mmengine', '0.10.7', {'mmengine/runner.py': "raise RuntimeError('first\\nlast line')"}
        ),
        'mmengine',
        r'mmengine 0.10.7 is installed, but importing it fails: last line$',
        f'install --force-reinstall --no-deps mmengine=={TESTED["mmengine"]}',
    ),
    'torch is broken': (
        lambda sim: sim.replace(
            'torch', '2.13.0', {'torch.py': "raise OSError('libtorch_cpu.so: bad ELF')"}
        ),
        'torch',
        r'torch 2.13.0 is installed, but importing it fails: OSError: libtorch_cpu.so: bad ELF$',
        f'install --force-reinstall --no-deps torch=={TESTED["torch"]}',
    ),
}


@pytest.mark.parametrize('case', PROBLEMS)
def test_problem(healthy, case):
    spoil, component, sentence, command = PROBLEMS[case]
    spoil(healthy)
    (problem,) = healthy.report()['problems']
    assert problem['component'] == component
    assert re.search(sentence, problem['sentence'])
    pip = f'{healthy.python} -m pip'
    assert problem['command'].startswith(pip)
    assert problem['command'].endswith(command.replace('PIP', pip))
    assert shlex.split(problem['command']), 'the command can be copied'


@pytest.mark.parametrize('distribution', HEALTHY)
def test_what_is_missing_is_named_alone(healthy, distribution):
    """Whatever fails for want of it is not reported beside it."""
    healthy.uninstall(distribution)
    (problem,) = healthy.report()['problems']
    name = next(c.name for c in COMPONENTS if c.distribution == distribution)
    assert problem['sentence'].startswith(f'{name} is not installed: ')
    assert f'{installed_as(distribution)}=={TESTED[distribution]}' in problem['command']


def test_the_report_for_people_shows_sentence_and_command(healthy):
    healthy.uninstall('ftfy')
    run = healthy.run()
    assert run.returncode == 1
    command = f'{healthy.python} -m pip install ftfy=={TESTED["ftfy"]}'
    sentence = 'ftfy: ftfy is not installed: mmsegmentation imports it.'
    assert run.stdout.endswith(f'One problem:\n\n{sentence}\n    {command}\n')


# --- who computes mmcv's operators ----------------------------------------------------------

UNDEFINED = "raise ImportError('_ext.so: undefined symbol:\\n _ZN3c106detail')"
REMOVE = f'-m pip uninstall -y mmcv && PIP {MMCV}'
EARLY_NOTE = r'import mmdet, mmseg or mmcv.ops before convnext_backbones find no operators'


def lighten(sim: Simulation) -> None:
    """Put mmcv-lite in the place of mmcv."""
    sim.replace('mmcv', '2.1.0', {}, as_name='mmcv-lite')
    (sim.site / 'mmcv/_ext.py').unlink()


def add_torchvision(sim: Simulation, source: str = '') -> None:
    sim.install('torchvision', '0.29.1', {'torchvision.py': source or "__version__ = '0.29.1'"})


def torch_sees_a_gpu(sim: Simulation) -> None:
    sim.replace('torch', TESTED['torch'], {'torch.py': TORCH_WITH_GPU})


def let_start_up_find_the_operators(sim: Simulation) -> None:
    """What the wheel and the editable install do."""
    shutil.copy(PACKAGE / 'ops/convnext_backbones_ops.pth', sim.site)


# Name of the case: (what happens to a healthy environment, CONVNEXT_BACKBONES_OPS, who serves,
# verdict, notes as (sentence, end of the command)).
SERVING = {
    'compiled': (lambda sim: None, '', 'compiled mmcv', 'ok', []),
    'compiled with CUDA under a GPU': (
        lambda sim: (
            torch_sees_a_gpu(sim),
            (sim.site / 'mmcv/_ext.py').write_text(EXTENSION.replace('not available', '12.8')),
        ),
        '',
        'compiled mmcv, CUDA 12.8',
        'ok',
        [],
    ),
    'mmcv-lite': (lighten, '', 'plain torch 2.13.0', 'ok', [(EARLY_NOTE, '')]),
    'mmcv-lite, installed': (
        lambda sim: (lighten(sim), let_start_up_find_the_operators(sim)),
        '',
        'plain torch 2.13.0',
        'ok',
        [],
    ),
    'mmcv-lite and torchvision': (
        lambda sim: (lighten(sim), add_torchvision(sim), let_start_up_find_the_operators(sim)),
        '',
        'torchvision 0.29.1',
        'ok',
        [],
    ),
    'a torchvision for another torch': (
        lambda sim: (
            lighten(sim),
            add_torchvision(sim, "raise RuntimeError('operator torchvision::nms does not exist')"),
            let_start_up_find_the_operators(sim),
        ),
        '',
        'plain torch 2.13.0',
        'ok',
        [(r'^torchvision does not load beside .* does not exist; plain torch \S+ computes', '')],
    ),
    'forced': (
        lambda sim: None,
        'torch',
        'plain torch 2.13.0',
        'ok, CONVNEXT_BACKBONES_OPS asks for it',
        [(EARLY_NOTE, '')],
    ),
    'mmcv for another torch': (
        lambda sim: (
            (sim.site / 'mmcv/_ext.py').write_text(UNDEFINED),
            let_start_up_find_the_operators(sim),
        ),
        '',
        'plain torch 2.13.0',
        'ok',
        [(r'operators do not run, .* symbol: _ZN3c106detail; plain torch \S+ computes', REMOVE)],
    ),
    'mmcv without CUDA under a GPU': (
        lambda sim: (
            torch_sees_a_gpu(sim),
            add_torchvision(sim),
            let_start_up_find_the_operators(sim),
        ),
        '',
        'torchvision 0.29.1',
        'ok',
        [(r'without CUDA, and there is a GPU; torchvision 0.29.1 computes', REMOVE)],
    ),
}


@pytest.mark.parametrize('case', SERVING)
def test_who_serves(healthy, case):
    change, forced, description, verdict, notes = SERVING[case]
    change(healthy)
    variables = {'CONVNEXT_BACKBONES_OPS': forced} if forced else {}
    report = healthy.report(**variables)
    assert report['ok'] and report['problems'] == []
    row = next(row for row in report['components'] if row['component'] == 'mmcv ops')
    assert (row['installed'], row['verdict']) == (description, verdict)
    assert len(report['notes']) == len(notes)
    for note, (sentence, command) in zip(report['notes'], notes, strict=True):
        assert re.search(sentence, note['sentence'])
        assert '\n' not in note['sentence']
        assert note['command'].endswith(command.replace('PIP', f'{healthy.python} -m pip'))
        assert bool(note['command']) == bool(command)


FORCED = {
    'mmcv': r"^CONVNEXT_BACKBONES_OPS is 'mmcv', but mmcv is installed without its compiled op",
    'torchvision': r"^CONVNEXT_BACKBONES_OPS is 'torchvision', but torchvision is not installed",
    'cuda': r"^CONVNEXT_BACKBONES_OPS is 'cuda': expected mmcv, torchvision, torch, or nothing",
}


@pytest.mark.parametrize('forced', FORCED)
def test_a_forced_provider_that_does_not_run_is_a_problem(healthy, forced):
    lighten(healthy)
    (problem,) = healthy.report(CONVNEXT_BACKBONES_OPS=forced)['problems']
    assert problem['component'] == 'mmcv ops'
    assert re.search(FORCED[forced], problem['sentence'])
    assert problem['command'] == 'unset CONVNEXT_BACKBONES_OPS'


def test_mmcv_and_mmcv_lite_of_one_version_are_fine(healthy):
    healthy.install('mmcv-lite', '2.1.0', {'mmcv/ops.py': HEALTHY['mmcv']['mmcv/ops.py']})
    report = healthy.report()
    assert report['ok']
    row = next(row for row in report['components'] if row['component'] == 'mmcv')
    assert (row['installed'], row['verdict']) == ('mmcv 2.1.0 + mmcv-lite 2.1.0', 'ok')


def test_notes_stand_below_the_verdict(healthy):
    (healthy.site / 'mmcv/_ext.py').write_text('raise ValueError')
    run = healthy.run()
    assert run.returncode == 0
    text = run.stdout.partition('Training and evaluation can run.\n\nTo know:\n\nmmcv ops: ')[2]
    command = f'    {healthy.python} -m pip uninstall -y mmcv && {healthy.python} -m pip {MMCV}'
    assert text.splitlines()[1] == command
    assert re.search(EARLY_NOTE, text.splitlines()[3])
    assert len(text.splitlines()) == 4, 'a note without a command has no line for it'


# --- forks of the stack ---------------------------------------------------------------------

ONEDL = tested_versions.read_table(tested_versions.stack_table('onedl'))


@pytest.fixture
def onedl(healthy):
    for name, own in tested_versions.read_stacks()['onedl'].items():
        if name in HEALTHY:
            healthy.replace(name, ONEDL[own], {}, as_name=own)
    (healthy.site / 'mmengine/utils.py').write_text('def is_installed(name): ...')
    return healthy


def test_a_fork_alone_is_fine(onedl):
    report = onedl.report()
    assert report['ok']
    rows = {row['component']: row for row in report['components']}
    for name, own in [('mmcv', 'onedl-mmcv'), ('mmdet', 'onedl-mmdetection')]:
        assert rows[name] == {
            'component': name,
            'installed': f'{own} {ONEDL[own]}',
            'tested': ONEDL[own],
            'verdict': 'ok',
        }


def test_a_fork_that_does_without_pkg_resources_may(onedl):
    (onedl.site / 'pkg_resources.py').unlink()
    assert onedl.report()['ok']


FORK_PROBLEMS = {
    'mmengine of OpenMMLab': (
        lambda sim: (
            sim.uninstall('onedl-mmengine'),
            sim.install('mmengine', '0.10.7', HEALTHY['mmengine']),
        ),
        r'mmengine 0.10.7 is of another stack .* the module mmengine is of onedl-mmengine\.$',
        f'uninstall -y mmengine && PIP install onedl-mmengine=={ONEDL["onedl-mmengine"]}',
    ),
    # What `pip install convnext_backbones` does to it without --no-deps.
    'mmengine twice': (
        lambda sim: sim.install('mmengine', '0.10.7', HEALTHY['mmengine']),
        r'mmengine \S+ and onedl-mmengine \S+ both',
        'uninstall -y mmengine onedl-mmengine && '
        f'PIP install onedl-mmengine=={ONEDL["onedl-mmengine"]}',
    ),
    'no mmdet': (
        lambda sim: sim.uninstall('onedl-mmdetection'),
        r'mmdet is not installed: ',
        f'install onedl-mmdetection=={ONEDL["onedl-mmdetection"]}',
    ),
    # What `pip install 'convnext_backbones[all]'` does to it.
    'mmcv-lite too': (
        lambda sim: sim.install('mmcv-lite', '2.1.0', HEALTHY['mmcv']),
        r'mmcv-lite 2.1.0 and onedl-mmcv \S+ both install the module mmcv',
        f'uninstall -y mmcv-lite onedl-mmcv && PIP install onedl-mmcv=={ONEDL["onedl-mmcv"]}',
    ),
    'mmcv-lite': (
        lambda sim: (
            sim.uninstall('onedl-mmcv'),
            sim.install('mmcv-lite', '2.1.0', HEALTHY['mmcv']),
        ),
        r'mmcv-lite 2.1.0 is of another stack .* the module mmcv is of onedl-mmcv\.$',
        f'uninstall -y mmcv-lite && PIP install onedl-mmcv=={ONEDL["onedl-mmcv"]}',
    ),
    'an op that crashes the interpreter': (
        lambda sim: (sim.site / 'mmcv/_ext.py').write_text('import os; os.abort()'),
        r'The ops of onedl-mmcv \S+ do not load: Crash: SIGABRT',
        f'PIP install --force-reinstall --no-deps --no-cache-dir onedl-mmcv=={ONEDL["onedl-mmcv"]}',
    ),
}


@pytest.mark.parametrize('case', FORK_PROBLEMS)
def test_problem_of_a_fork(onedl, case):
    spoil, sentence, command = FORK_PROBLEMS[case]
    spoil(onedl)
    (problem,) = onedl.report()['problems']
    assert re.search(sentence, problem['sentence'])
    assert problem['command'].endswith(command.replace('PIP', f'{onedl.python} -m pip'))


@pytest.mark.parametrize('apt_get', [True, False])
def test_opencv_without_libgl(healthy, apt_get):
    message = 'libGL.so.1: cannot open shared object file: No such file or directory'
    healthy.replace('opencv-python', '5.0', {'cv2.py': f'raise ImportError({message!r})'})
    if apt_get:
        program = healthy.programs / 'apt-get'
        program.write_text('')
        program.chmod(0o755)
    (problem,) = healthy.report()['problems']
    assert problem['sentence'] == (
        'opencv 5.0 needs the system library libGL.so.1, which is missing.'
    )
    headless = f'opencv-python-headless=={TESTED["opencv-python"]}'
    end = 'apt-get install -y libgl1 libglib2.0-0' if apt_get else f'pip install {headless}'
    assert problem['command'].endswith(end)


def test_declared_version_ranges(healthy):
    healthy.install(
        'convnext_backbones',
        '0.1.0',
        {},
        'Requires-Dist: torch>=2.0\nRequires-Dist: mmengine<1,>=0.10.4\n',
    )
    assert healthy.report()['ok']
    healthy.replace('mmengine', '1.0.0', {})
    (problem,) = healthy.report()['problems']
    assert 'mmengine 1.0.0 is not supported' in problem['sentence']
    assert problem['command'].endswith(f'pip install mmengine=={TESTED["mmengine"]}')


def test_a_folder_in_the_current_directory_is_no_installation(healthy):
    healthy.uninstall('mmdet')
    for path, source in HEALTHY['mmdet'].items():
        target = healthy.site.parent / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(source)
    assert verdicts(healthy.report())['mmdet'] == 'PROBLEM'


def test_what_imports_print_does_not_mix_with_the_report(healthy):
    healthy.replace('regex', '1.0', {'regex.py': "print('noise')"})
    assert healthy.report()['ok']


def test_a_probe_that_hangs_is_reported_and_the_rest_goes_on():
    start = time.monotonic()
    outcomes = run_probes(
        {'good': 'facts["x"] = 1', 'hangs': 'import time; time.sleep(60)', 'last': ''}, seconds=1
    )
    assert time.monotonic() - start < 20
    assert outcomes['good'].facts == {'x': 1}
    assert outcomes['hangs'].error == 'Crash: still running after 1 seconds'
    assert outcomes['last'].error == ''
