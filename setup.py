"""Metadata of convnext_backbones.

mmcv is in no extra on purpose: pip would build it in an isolated environment, where it finds no
torch and leaves its compiled ops out without a word. ``python -m convnext_backbones.doctor``
prints the command that builds it with them, and ``make setup`` runs that command.
"""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(
    r"^__version__ = '(.+)'$", (ROOT / 'convnext_backbones/version.py').read_text(), re.MULTILINE
)[1]

DET = ['mmdet>=3.2,<4', 'pycocotools']
# mmsegmentation imports ftfy and regex without declaring them.
SEG = ['mmsegmentation>=1.2,<2', 'ftfy', 'regex']
# What tools/test.py --fast-eval computes COCO's numbers with.
FAST = ['faster-coco-eval']
# scikit-learn ships the images that the sample data are made of.
ALL = [*DET, *SEG, 'scikit-learn']
# transformers and mmpretrain hold the independent ConvNeXts that the tests compare ours with.
DEV = [*ALL, *FAST, 'pytest', 'pytest-xdist', 'ruff', 'transformers', 'mmpretrain', 'rich']


# compare_training.py needs the tests beside it.
NOT_SHIPPED = shutil.ignore_patterns('__*', 'compare_training.py')


class BuildWithRecipes(build_py):
    """Adds to the wheel what OpenMMLab's ``mim`` looks for, in the package's folder ``.mim``."""

    def run(self) -> None:
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
    packages=['convnext_backbones'],
    package_data={'convnext_backbones': ['tested_versions.txt']},
    install_requires=['torch>=2.0', 'mmengine>=0.10.4,<1', 'safetensors'],
    extras_require={'det': DET, 'seg': SEG, 'fast': FAST, 'all': ALL, 'dev': DEV},
)
