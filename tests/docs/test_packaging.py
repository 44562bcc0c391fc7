"""The built wheel, installed into an environment of its own, away from the checkout."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from convnext_backbones.io import tested_versions
from convnext_backbones.io.tested_versions import PYTHON, TABLE, read_table

ROOT = Path(__file__).resolve().parents[2]
PTH = 'convnext_backbones_ops.pth'
STABLE = {'Jinja2', 'filelock', 'matplotlib', 'numpy', 'pillow', 'PyYAML', 'rich'}
WITHOUT_MMCV = {'export', 'fast', 'hub', 'keras', 'large'}  # extras that add to others
LEFT_OUT = shutil.ignore_patterns(
    '.git', '.venv*', 'build', '*.egg-info', '__pycache__', 'work_dirs', 'demo_output'
)
# Nothing that a user's environment lacks may find its way into the subprocesses.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith('PYTHON')}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the tree: a build leaves files beside its sources."""
    folder = tmp_path_factory.mktemp('wheel')
    shutil.copytree(ROOT, folder / 'tree', ignore=LEFT_OUT)
    options = ['--no-build-isolation', '--no-deps', '--no-index', '--no-cache-dir']
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '-q', *options, '-w', folder, folder / 'tree'],
        check=True,
    )
    (path,) = folder.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of a fresh environment with the wheel, and the rest of the running one."""
    root = tmp_path_factory.mktemp('installed') / 'venv'
    venv.EnvBuilder(with_pip=False, symlinks=True).create(root)
    (site,) = root.glob('lib/python*/site-packages')
    options = ['--no-deps', '--no-index', '--target', site]
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', *options, wheel], check=True)
    # A .pth file inside a directory that a .pth file adds is not read, so the editable install of
    # the running environment stays out of sight.
    (site / 'running.pth').write_text(f'{sysconfig.get_path("purelib")}\n')
    return root / 'bin' / 'python'


def run(python: Path, *arguments: str, variables: dict[str, str] = ENVIRONMENT) -> str:
    result = subprocess.run(
        [python, *arguments],
        cwd=python.parent,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr or result.stdout
    return result.stdout


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition('/')[0] for name in names}
    own = {top for top in tops if not top.endswith('.dist-info')}
    assert own == {'convnext_backbones', PTH}
    tables = {f'convnext_backbones/{path.name}' for path in ROOT.glob('convnext_backbones/*.txt')}
    assert 'convnext_backbones/tested_versions.txt' in tables
    assert tables <= set(names)
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / 'convnext_backbones').rglob('*.py')}
    recipes = {
        f'convnext_backbones/.mim/{path.relative_to(ROOT)}'
        for folder in ('configs', 'tools')
        for path in (ROOT / folder).rglob('*.py')
    }
    assert {name for name in names if name.endswith('.py')} == modules | recipes
    assert 'convnext_backbones/.mim/model-index.yml' in names
    assert 'convnext_backbones/.mim/configs/metafile.yml' in names
    assert 'convnext_backbones/.mim/tools/dist_train.sh' in names


@pytest.fixture
def metadata(wheel) -> Message:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith('METADATA'))
    return Parser().parsestr(archive.read(name).decode())


def test_requirements_end_after_the_tested_version(metadata):
    """Those of the stack, which breaks with new versions, and no others."""
    tested = read_table(TABLE.read_text())
    for requirement in map(Requirement, metadata.get_all('Requires-Dist')):
        if requirement.name in STABLE:
            assert not requirement.specifier
            continue
        version = tested[canonicalize_name(requirement.name)]
        assert version in requirement.specifier
        assert f'{int(version.partition(".")[0]) + 1}' not in requirement.specifier


def test_the_metadata(metadata):
    requires = metadata.get_all('Requires-Dist')
    assert metadata['Requires-Python'] == PYTHON
    assert set(metadata.get_all('Provides-Extra')) == {'det', 'seg', 'all', 'dev', *WITHOUT_MMCV}
    always = {line.rstrip(';') for line in requires if 'extra' not in line}
    assert {Requirement(line).name for line in always} == {
        'torch',
        'mmengine',
        'safetensors',
        'setuptools',  # for mmengine
        *STABLE,
    }
    extras = set(metadata.get_all('Provides-Extra')) - WITHOUT_MMCV
    lines = [Requirement(line) for line in requires if 'mmcv' in line.partition(';')[0]]
    # pip would build mmcv without its ops.
    assert {line.name for line in lines} == {'mmcv-lite'}
    assert len(lines) == len(extras), 'each extra names it once'
    assert all(any(line.marker.evaluate({'extra': extra}) for line in lines) for extra in extras)


def test_the_classifiers_are_the_tested_pythons(metadata):
    classifiers = metadata.get_all('Classifier')
    prefix = 'Programming Language :: Python :: 3.'
    versions = {f'3.{line[len(prefix) :]}' for line in classifiers if line.startswith(prefix)}
    assert versions == set(tested_versions.tested_pythons())


@pytest.fixture(scope='module')
def imported(python) -> dict:
    """What a fresh process finds after the import."""
    code = (
        'import json, sys\n'
        'import convnext_backbones as package\n'
        "modules = sorted({name.partition('.')[0] for name in sys.modules})\n"
        'from mmengine.registry import MODELS\n'
        "registered = MODELS.get('ConvNeXt') is package.ConvNeXt\n"
        "out_channels = MODELS.build(dict(type='ConvNeXt', arch='atto')).out_channels\n"
        "classifier = hasattr(package, 'ConvNeXtClassifier')\n"
        'print(json.dumps(dict(modules=modules, registered=registered, classifier=classifier,\n'
        '                      out_channels=out_channels, file=package.__file__)))\n'
    )
    return json.loads(run(python, '-c', code))


def test_the_wheel_is_what_gets_imported(imported, python):
    assert Path(imported['file']).is_relative_to(python.parents[1])


def test_the_import_registers_the_backbone(imported):
    assert imported['registered']
    assert imported['classifier']
    assert len(imported['out_channels']) == 4


def test_the_import_needs_torch_and_mmengine_only(imported):
    modules = set(imported['modules'])
    assert {'torch', 'mmengine'} <= modules
    assert not modules & {'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'pycocotools'}


def test_mim_finds_recipes_that_load_and_a_tool_that_runs(python):
    """``mim train convnext_backbones CONFIG`` joins these two paths."""
    code = (
        'from pathlib import Path\n'
        'import convnext_backbones\n'
        'from mmengine.config import Config\n'
        "mim = Path(convnext_backbones.__file__).parent / '.mim'\n"
        "configs = list((mim / 'configs').glob('*.py'))\n"
        'assert all(Config.fromfile(path).model.backbone.type for path in configs)\n'
        "print(len(configs), mim / 'tools' / 'train.py')\n"
    )
    number, train = run(python, '-c', code).split()
    assert int(number) == len(list((ROOT / 'configs').glob('*.py')))
    assert 'CONFIG' in run(python, train, '--help')


def test_the_doctor_runs_from_the_wheel(python):
    report = json.loads(run(python, '-m', 'convnext_backbones.doctor', '--json'))
    assert report['ok']
    assert not report['problems']


# --- mmcv's operators -----------------------------------------------------------------------

# A script of a user who does not import this package, or later.
USES_OPS = """
import sys
import torch
from mmcv.ops import nms
boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30]])
assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist() == [0, 2]
assert 'convnext_backbones' in sys.modules, 'the finder has imported it'
from convnext_backbones.ops.providers import serving
print(serving())
"""


def test_mmcv_finds_its_operators_before_this_package_is_imported(python):
    forced = {**ENVIRONMENT, 'CONVNEXT_BACKBONES_OPS': 'torch'}
    assert run(python, '-c', USES_OPS, variables=forced).strip() == 'torch'


def test_without_compiled_operators_mmcv_works(python, tmp_path):
    """As in an environment with mmcv-lite: mmcv's Python files alone."""
    source = Path(importlib.util.find_spec('mmcv').origin).parent
    ignored = shutil.ignore_patterns('_ext*', '__pycache__', 'csrc')
    shutil.copytree(source, tmp_path / 'mmcv', ignore=ignored)
    variables = {**ENVIRONMENT, 'PYTHONPATH': str(tmp_path)}
    variables.pop('CONVNEXT_BACKBONES_OPS', None)
    assert run(python, '-c', USES_OPS, variables=variables).strip() in {'torchvision', 'torch'}


def test_the_start_of_python_imports_nothing(python):
    code = 'import sys; print(*sys.modules)'
    modules = {name.partition('.')[0] for name in run(python, '-c', code).split()}
    assert not modules & {'convnext_backbones', 'torch', 'mmcv', 'mmengine', 'numpy'}
    finders = 'import sys; print([finder.__name__ for finder in sys.meta_path][0])'
    assert run(python, '-c', finders).strip() == 'ConvNeXtBackbonesOps', 'but it is in place'


@pytest.fixture(scope='module')
def editable(tmp_path_factory) -> Path:
    """The interpreter of an environment with an editable install of a copy of the tree."""
    folder = tmp_path_factory.mktemp('editable')
    shutil.copytree(ROOT, folder / 'tree', ignore=LEFT_OUT)
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder / 'venv')
    (site,) = (folder / 'venv').glob('lib/python*/site-packages')
    # pip of the running environment, and what it builds with
    (site / 'running.pth').write_text(f'{sysconfig.get_path("purelib")}\n')
    path = folder / 'venv' / 'bin' / 'python'
    options = ['--no-build-isolation', '--no-deps', '--no-index', '--ignore-installed']
    run(path, '-m', 'pip', 'install', '-q', *options, '-e', str(folder / 'tree'))
    return path


def test_an_editable_install_has_it_too(editable):
    forced = {**ENVIRONMENT, 'CONVNEXT_BACKBONES_OPS': 'torch'}
    code = USES_OPS + "print(sys.modules['convnext_backbones'].__file__)"
    provider, file = run(editable, '-c', code, variables=forced).split()
    assert provider == 'torch'
    assert Path(file).is_relative_to(editable.parents[2] / 'tree')


def test_its_removal_leaves_nothing(editable):
    (site,) = editable.parents[1].glob('lib/python*/site-packages')
    assert (site / PTH).exists()
    run(editable, '-m', 'pip', 'uninstall', '-q', '-y', 'convnext_backbones')
    assert [path.name for path in site.iterdir() if 'convnext' in path.name] == []
