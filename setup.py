"""Metadata of convnext_backbones.

The extras name mmcv-lite, which is mmcv without its compiled ops: ``convnext_backbones/ops`` has
them. mmcv itself is in no extra: pip would build it in an isolated environment, where it finds no
torch and leaves its compiled ops out without a word. ``make setup OPS=mmcv`` builds it with them.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(
    r"^__version__ = '(.+)'$", (ROOT / 'convnext_backbones/version.py').read_text(), re.MULTILINE
)[1]
TABLE = (ROOT / 'convnext_backbones/tested_versions.txt').read_text()
PYTHONS = sorted(re.search(r'^# python==(.+)$', TABLE, re.MULTILINE)[1].split())
# Name, major and minor version, and what a fork's distribution stands in for.
TESTED = re.compile(
    r'^([\w.-]+)==(\d+)\.(\d+)[^\s;]*(?:; [^#\n]+?)?(?:  # instead of (\S+))?$', re.MULTILINE
)


def bounded(name: str, least: str = '') -> str:
    """A requirement that ends below the minor version after the highest tested one."""
    tables = (ROOT / 'convnext_backbones').glob('tested_versions*.txt')
    lines = [line for table in tables for line in TESTED.findall(table.read_text())]
    major, minor = max(
        (int(major), int(minor)) for own, major, minor, replaced in lines if name in (own, replaced)
    )
    return f'{name}{least}<{major}.{minor + 1}'


# Their own releases seldom break what we use, and mmengine asks for most of them too: no upper
# bound. OpenCV is left to mmengine, as its forks name different distributions.
STABLE = ['filelock', 'Jinja2', 'matplotlib', 'numpy', 'pillow', 'PyYAML', 'rich']
# mmengine imports pkg_resources without declaring it: new releases of setuptools have none, and the
# environments of Python 3.12 and newer begin without setuptools.
MMENGINE = [bounded('mmengine', '>=0.10.4,'), bounded('setuptools')]
# Backbone, checkpoints and inference were tested with torch 2.6.0 as well as with the tested
# version; beside its peers the backbone is also compared and measured with torch 2.14.1.
CORE = ['torch>=2.6,<2.15', *MMENGINE, bounded('safetensors'), *STABLE]
MMCV = bounded('mmcv-lite', '>=2.1,')
DET = [MMCV, bounded('mmdet', '>=3.2,'), bounded('pycocotools')]
# mmsegmentation imports ftfy and regex without declaring them.
SEG = [MMCV, bounded('mmsegmentation', '>=1.2,'), bounded('ftfy'), bounded('regex')]
# What tools/test.py --fast-eval computes COCO's numbers with.
FAST = [bounded('faster-coco-eval')]
# The cache that timm and transformers share; without it files of the hub are downloaded anyway.
HUB = [bounded('huggingface_hub')]
# What files of Keras are read and written with.
KERAS = [bounded('h5py')]
# Images of any size by windows, of any number of channels, and with a georeference.
LARGE = [bounded('rasterio')]
# What models are exported with, and what runs them.
EXPORT = [*map(bounded, ('onnx', 'onnxscript', 'onnxruntime', 'openvino'))]
# scikit-learn ships the images that the sample data are made of.
ALL = [*dict.fromkeys([*DET, *SEG]), bounded('scikit-learn')]
# transformers and mmpretrain hold the independent ConvNeXts that the tests compare ours with;
# playwright drives the browser that opens the reports.
TESTS = ('pytest', 'pytest-xdist', 'playwright', 'hypothesis', 'transformers', 'mmpretrain')
LINT = ('ruff', 'mypy', 'import-linter', 'types-PyYAML')
DOCS = ('Sphinx', 'myst-parser', 'pydata-sphinx-theme')
DEV = [*ALL, *FAST, *HUB, *KERAS, *LARGE, *EXPORT, *map(bounded, (*TESTS, *LINT, *DOCS))]


NOT_SHIPPED = shutil.ignore_patterns('__*')


class BuildPackage(build_py):
    """Adds what is not in the package's own folders."""

    def run(self) -> None:
        """Build, then copy the rest."""
        super().run()
        # The root of the wheel becomes site-packages, the only place where Python reads this file.
        # An editable wheel has no build_lib; what it has is copied to where a wheel is installed.
        editable = self.editable_mode
        root = self.get_finalized_command('install').install_lib if editable else self.build_lib
        Path(root).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / 'convnext_backbones/ops/convnext_backbones_ops.pth', root)
        if not editable:  # of a checkout mim takes the paths
            self.copy_recipes(Path(root) / 'convnext_backbones' / '.mim')

    def copy_recipes(self, target: Path) -> None:
        """Copy what OpenMMLab's ``mim`` looks for."""
        shutil.rmtree(target, ignore_errors=True)
        for folder in ('configs', 'tools'):
            shutil.copytree(ROOT / folder, target / folder, ignore=NOT_SHIPPED)
        shutil.copy(ROOT / 'model-index.yml', target)


setup(
    name='convnext_backbones',
    version=VERSION,
    description='ConvNeXt backbones for detection and segmentation on the OpenMMLab stack',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    classifiers=[
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: {version}' for version in PYTHONS),
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    # No upper end, so that a fork whose mmengine works with a newer Python can be tried: the doctor
    # says which are tested, and what does not import.
    python_requires='>=3.10',
    cmdclass={'build_py': BuildPackage},
    packages=find_packages(include=['convnext_backbones*']),
    package_data={
        'convnext_backbones': [
            'tested_versions*.txt',
            'native/*.[ch]',
            *(f'reports/*.{suffix}' for suffix in ('jinja', 'css', 'js')),
        ]
    },
    install_requires=CORE,
    entry_points={'console_scripts': ['convnext-doctor = convnext_backbones.doctor:main']},
    extras_require={
        'det': DET,
        'seg': SEG,
        'fast': FAST,
        'hub': HUB,
        'keras': KERAS,
        'large': LARGE,
        'export': EXPORT,
        'all': ALL,
        'dev': DEV,
    },
)
