"""Metadata of convnext_backbones.

mmcv is in no extra on purpose: pip would build it in an isolated environment, where it finds no
torch and leaves its compiled ops out without a word. ``python -m convnext_backbones.doctor``
prints the command that builds it with them, and ``make setup`` runs that command.
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
# Name, major and minor version, and what a fork's distribution stands in for.
TESTED = re.compile(r'^([\w.-]+)==(\d+)\.(\d+)\S*(?:  # instead of (\S+))?$', re.MULTILINE)


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
STABLE = ['filelock', 'matplotlib', 'numpy', 'pillow', 'PyYAML', 'rich']
# Backbone, checkpoints and inference were tested with torch 2.6.0 as well as with the tested
# version; beside its peers the backbone is also compared and measured with torch 2.14.1.
CORE = ['torch>=2.6,<2.15', bounded('mmengine', '>=0.10.4,'), bounded('safetensors'), *STABLE]
DET = [bounded('mmdet', '>=3.2,'), bounded('pycocotools')]
# mmsegmentation imports ftfy and regex without declaring them.
SEG = [bounded('mmsegmentation', '>=1.2,'), bounded('ftfy'), bounded('regex')]
# What tools/test.py --fast-eval computes COCO's numbers with.
FAST = [bounded('faster-coco-eval')]
# scikit-learn ships the images that the sample data are made of.
ALL = [*DET, *SEG, bounded('scikit-learn')]
# transformers and mmpretrain hold the independent ConvNeXts that the tests compare ours with.
TESTS = ('pytest', 'pytest-xdist', 'hypothesis', 'transformers', 'mmpretrain')
LINT = ('ruff', 'mypy', 'import-linter', 'types-PyYAML')
DOCS = ('Sphinx', 'myst-parser', 'pydata-sphinx-theme')
DEV = [*ALL, *FAST, *map(bounded, (*TESTS, *LINT, *DOCS))]


NOT_SHIPPED = shutil.ignore_patterns('__*')


class BuildWithRecipes(build_py):
    """Adds to the wheel what OpenMMLab's ``mim`` looks for, in the package's folder ``.mim``."""

    def run(self) -> None:
        """Build, then copy configs and tools."""
        super().run()
        if self.editable_mode:  # nothing is copied: mim then takes paths in the checkout
            return
        target = Path(self.build_lib) / 'convnext_backbones' / '.mim'
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
        # The version that is tested; see convnext_backbones/tested_versions.txt.
        'Programming Language :: Python :: 3.11',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    python_requires='>=3.10',
    cmdclass={'build_py': BuildWithRecipes},
    packages=find_packages(include=['convnext_backbones*']),
    package_data={'convnext_backbones': ['tested_versions*.txt']},
    install_requires=CORE,
    entry_points={'console_scripts': ['convnext-doctor = convnext_backbones.doctor:main']},
    extras_require={'det': DET, 'seg': SEG, 'fast': FAST, 'all': ALL, 'dev': DEV},
)
