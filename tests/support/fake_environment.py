"""Interpreters whose site-packages hold fakes of the stack, for tests of the doctor."""

from __future__ import annotations

import json
import shutil
import subprocess
import textwrap
import venv
from pathlib import Path

from convnext_backbones import doctor
from convnext_backbones.io.tested_versions import TABLE, read_table

PACKAGE = Path(doctor.__file__).parent
DOCTOR = ('-m', 'convnext_backbones.doctor')
TESTED = read_table(TABLE.read_text())

TORCH = """
class _Parallel:
    is_available = is_gloo_available = staticmethod(lambda: True)
    is_nccl_available = staticmethod(lambda: False)
class _Cuda:
    is_available = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 1)
class _C:
    _dispatch_has_kernel_for_dispatch_key = staticmethod(lambda name, key: True)
class version:
    cuda = '12.8'
__version__ = '2.13.0'
cuda = _Cuda
distributed = _Parallel
def from_numpy(array): return array
def tensor(values): return values
"""
TORCH_WITH_GPU = TORCH.replace(
    'available = staticmethod(lambda: False)', 'available = staticmethod(lambda: True)'
)
# mmcv's compiled module: the doctor lets the package's own finder look for it and try it.
EXTENSION = """
class _Kept:
    tolist = staticmethod(lambda: [0, 2])
def nms(boxes, scores, iou_threshold, offset): return _Kept
def get_compiling_cuda_version(): return 'not available'
"""
OPS = ('ops/finder.py', 'ops/providers.py')
# What stands in for the package's operators, which do not work with a fake torch.
OPERATORS = {
    '__init__.py': '',
    'torchvision_operators.py': 'OPERATORS = {}',
    'stand_in.py': """
        import types
        class StandIn(types.ModuleType):
            def __init__(self, provider, description, faster=None):
                super().__init__('mmcv._ext')
                self.provider, self.description = provider, description
                self.get_compiling_cuda_version = lambda: 'not available'
        """,
}
# They import each other as the real ones do, so that one problem makes many of them fail.
HEALTHY = {
    'torch': {'torch.py': TORCH},
    'numpy': {'numpy.py': 'def zeros(size): return [0.0] * size\n'},
    'setuptools': {'setuptools.py': '', 'pkg_resources.py': ''},
    'opencv-python': {'cv2.py': ''},
    'mmengine': {
        'mmengine/__init__.py': '',
        'mmengine/runner.py': 'import cv2, numpy, torch',
        'mmengine/utils.py': 'def is_installed(name): import pkg_resources',
    },
    'mmcv': {
        'mmcv/__init__.py': 'import cv2, mmengine, numpy',
        'mmcv/ops.py': 'import torch\nfrom mmcv._ext import get_compiling_cuda_version',
        'mmcv/_ext.py': EXTENSION,
    },
    'mmdet': {
        'mmdet/__init__.py': 'import mmcv, mmengine',
        'mmdet/apis.py': 'import mmcv.ops, mmengine.runner, pycocotools.mask',
        'mmdet/models.py': '',
    },
    'mmsegmentation': {
        'mmseg/__init__.py': 'import mmcv, mmengine',
        'mmseg/apis.py': 'import ftfy, mmcv.ops, mmengine.runner, regex',
        'mmseg/models.py': '',
    },
    'pycocotools': {'pycocotools/__init__.py': '', 'pycocotools/mask.py': ''},
    'ftfy': {'ftfy.py': ''},
    'regex': {'regex.py': ''},
}
# What mmdet 3.3 and mmsegmentation 1.2 assert.
REFUSAL = """
version = '{version}'
assert version < '2.2', (f'MMCV=={{version}} is used but incompatible. '
                         'Please install mmcv>=2.0.0rc4, <2.2.0.')
"""


class Simulation:
    """An interpreter with fake distributions, and the real command line of the doctor in it."""

    def __init__(self, root: Path) -> None:
        venv.EnvBuilder(with_pip=False, symlinks=True).create(root / 'venv')
        self.python = root / 'venv' / 'bin' / 'python'
        self.site = next(root.glob('venv/lib/python*/site-packages'))
        self.programs = root / 'programs'
        self.programs.mkdir()
        # Without the package's __init__, which does not work with a fake torch.
        package = self.site / 'convnext_backbones'
        (package / 'io').mkdir(parents=True)
        (package / 'ops').mkdir()
        own = [PACKAGE / path for path in ('io/tested_versions.py', *OPS)]
        for source in [*PACKAGE.glob('*doctor*.py'), *own]:
            (package / source.relative_to(PACKAGE)).symlink_to(source)
        for name, source in OPERATORS.items():
            (package / 'ops' / name).write_text(textwrap.dedent(source))

    def install(self, name: str, version: str, files: dict[str, str], metadata: str = '') -> None:
        """Writes a fake distribution, over whatever has files of the same name."""
        for path, source in files.items():
            target = self.site / path
            target.parent.mkdir(exist_ok=True)
            target.write_text(textwrap.dedent(source))
        info = self.site / f'{name.replace("-", "_")}-{version}.dist-info'
        info.mkdir()
        header = f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
        (info / 'METADATA').write_text(header + metadata)
        modules = dict.fromkeys(Path(path).parts[0].removesuffix('.py') for path in files)
        (info / 'top_level.txt').write_text('\n'.join(modules))

    def install_healthy(self) -> None:
        for name, files in HEALTHY.items():
            self.install(name, TESTED[name], files)

    def uninstall(self, name: str) -> None:
        info = next(self.site.glob(f'{name.replace("-", "_")}-*.dist-info'))
        for module in (info / 'top_level.txt').read_text().split():
            (self.site / f'{module}.py').unlink(missing_ok=True)
            shutil.rmtree(self.site / module, ignore_errors=True)
        shutil.rmtree(info)

    def replace(self, name: str, version: str, files: dict[str, str], as_name: str = '') -> None:
        """Another version of a distribution, or another distribution in its place."""
        self.uninstall(name)
        self.install(as_name or name, version, {**HEALTHY[name], **files})

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.python, *(arguments or DOCTOR)],
            env={'PATH': str(self.programs), **variables},
            cwd=self.site.parent,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def report(self, **variables: str) -> dict:
        run = self.run(*DOCTOR, '--json', **variables)
        report = json.loads(run.stdout)
        assert (run.returncode, run.stderr) == (0 if report['ok'] else 1, '')
        return report
