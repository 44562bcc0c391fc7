"""Fixtures for tests of necks and heads."""

from types import SimpleNamespace

import pytest
from mmdet.registry import MODELS as DETECTION
from mmdet.utils import register_all_modules as register_detection
from mmseg.utils import register_all_modules as register_segmentation
from support.heads import (
    Plain,
)

from convnext_backbones.inference import convolutions
from convnext_backbones.ops import winograd


@pytest.fixture(scope='module')
def registered():
    register_detection(init_default_scope=False)
    register_segmentation(init_default_scope=False)
    DETECTION.register_module(module=Plain)
    yield
    DETECTION.module_dict.pop('Plain')


@pytest.fixture(params=[False, True], ids=['AVX2', 'AVX512'])
def cpu(request, monkeypatch):
    """Linear layers are computed by oneDNN on CPUs with AVX-512 only, unless measured."""
    for module in ('models.layers', 'inference.convolutions'):
        monkeypatch.setattr(f'convnext_backbones.{module}.HAS_AVX512', request.param)


@pytest.fixture(params=[False, True], ids=['direct', 'winograd'])
def winograds(request, monkeypatch):
    """Maps are too small for Winograd's convolutions here, unless these are said to be faster.

    Returns:
        Whether they are, and a call for each that was computed.
    """
    if request.param:
        monkeypatch.setattr(winograd, 'MIN_POSITIONS', 1)
        monkeypatch.setattr(winograd, 'MIN_CHANNELS', 1)
    calls = []

    def convolve(*args, **kwargs):
        calls.append(args)
        return winograd.convolve(*args, **kwargs)

    monkeypatch.setenv('CONVNEXT_BACKBONES_NATIVE', '0')
    monkeypatch.setattr(convolutions, 'convolve', convolve)
    return SimpleNamespace(wanted=request.param, calls=calls)
