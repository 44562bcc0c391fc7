"""The operators are in place however a process gets to them, and cost nothing before."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import mmcv.ops
import pytest
from mmcv.utils import ext_loader

import convnext_backbones
from convnext_backbones.ops import finder
from convnext_backbones.ops.finder import Finder, find_spec, install

FILE = Path(finder.__file__).with_name('convnext_backbones_ops.pth')


def test_only_one_module_is_found(monkeypatch):
    monkeypatch.setattr(finder, 'find_extension', lambda path: pytest.fail('it looked'))
    for name in ('mmcv', 'mmcv.ops', 'mmcv._ext2', 'onedl._ext', '_ext'):
        assert find_spec(name, None) is None


def test_the_module_is_the_providers(monkeypatch):
    module, paths = ModuleType('chosen'), []
    monkeypatch.setattr(finder, 'find_extension', lambda path: paths.append(path) or module)
    module.operator = len
    spec = find_spec('mmcv._ext', ['folder'])
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    assert loaded is module and loaded.operator is len and paths == [['folder']]


def test_it_is_installed_once_and_first(monkeypatch):
    others = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]
    monkeypatch.setattr(sys, 'meta_path', [*others])
    install()
    install()
    assert isinstance(sys.meta_path[0], Finder) and sys.meta_path[1:] == others


def test_the_package_installs_it():
    assert convnext_backbones.VARIANTS
    assert any(isinstance(finder, Finder) for finder in sys.meta_path)


def test_mmcv_sees_operators():
    """mmengine's reports and some of mmdet's code ask for them this way."""
    assert ext_loader.check_ops_exist()
    assert mmcv.ops.nms is not None


def test_the_file_for_the_start_of_python():
    """Python runs lines that begin with `import`."""
    (line,) = FILE.read_text().splitlines()
    assert line.startswith('import sys;')


SCRIPT = f"""
import logging
import sys

before = {{*sys.modules}}
exec({FILE.read_text()!r})
assert {{*sys.modules}} == before, 'the line imports something'
import json, csv, xml.dom.minidom
assert not {{'torch', 'convnext_backbones', 'mmcv'}} & {{*sys.modules}}

records = []
handler = logging.Handler()
handler.emit = records.append
logging.getLogger('convnext_backbones').addHandler(handler)
logging.getLogger('convnext_backbones').setLevel('INFO')

import mmdet.structures.mask
assert len(records) == 1, records
print(records[0].getMessage())

from convnext_backbones.ops.providers import serving
from mmdet.registry import MODELS
import torch
from mmcv.ops import nms, box_iou_rotated
boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30]])
assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist() == [0, 2]
assert 'ConvNeXt' in MODELS, 'the backbone is registered'
try:
    box_iou_rotated(torch.ones(1, 5), torch.ones(1, 5))
except NotImplementedError:
    print('missing')
print(serving())
"""


def test_mmdet_is_imported_first(run_python, tmp_path, monkeypatch):
    """In a process that started with the file; plain torch wins, where it is forced."""
    monkeypatch.setenv('CONVNEXT_BACKBONES_OPS', 'torch')
    logged, missing, provider = run_python(SCRIPT, tmp_path).splitlines()[-3:]
    assert logged.startswith("mmcv's operators are computed by plain torch")
    assert (missing, provider) == ('missing', 'torch')
