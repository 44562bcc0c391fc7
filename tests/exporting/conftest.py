"""A small segmentor of random weights, exported once in each format."""

import pytest
from mmdet.utils import register_all_modules as register_detection
from mmseg.utils import register_all_modules as register_segmentation
from support.exported import named
from support.heads import segmentor

from convnext_backbones.exporting.folder import Wanted, export
from convnext_backbones.exporting.formats import PACKAGES


@pytest.fixture(scope='session')
def registered():
    register_detection(init_default_scope=False)
    register_segmentation(init_default_scope=False)


@pytest.fixture(scope='session')
def original(registered):
    return named(segmentor())


@pytest.fixture(scope='session')
def exported(original, tmp_path_factory):
    """Return the folder of a format, and of a part; each is written once."""
    written = {}

    def get(format_='onnx', part='model'):
        for package in PACKAGES[format_]:
            pytest.importorskip(package)
        if (format_, part) not in written:
            folder = tmp_path_factory.mktemp('exported') / f'{format_}_{part}'
            export(original, folder, Wanted(format_, part))
            written[format_, part] = folder
        return written[format_, part]

    return get
