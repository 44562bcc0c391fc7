"""Which provider is chosen, what is logged, and what is said of those that do not run."""

import logging
import re
import sys
from types import ModuleType, SimpleNamespace

import mmcv
import pytest
import torch
from support.operators import skip_unless_it_runs

from convnext_backbones.ops import providers
from convnext_backbones.ops.providers import (
    VARIABLE,
    NotInstalledError,
    ProviderError,
    describe,
    find_extension,
    serving,
)
from convnext_backbones.ops.stand_in import StandIn

MODULES = {
    'mmcv': ModuleType('compiled'),
    'torchvision': StandIn('torchvision', 'torchvision 0.1'),
    'torch': StandIn('torch', 'plain torch 1.0'),
}


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def records(caplog):
    caplog.set_level(logging.DEBUG, logger='convnext_backbones')
    return lambda: [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.fixture
def provide(monkeypatch):
    """Replace the providers: called with the error that each raises, or None."""

    def replace(**errors):
        def provider(name, path):
            if errors.get(name):
                raise errors[name]
            return MODULES[name]

        for name in providers.PROVIDERS:
            monkeypatch.setitem(
                providers.PROVIDERS, name, lambda path, name=name: provider(name, path)
            )

    return replace


MISSING = NotInstalledError('it is not installed')
BROKEN = ProviderError('it is broken')


@pytest.mark.parametrize(
    ('errors', 'best'),
    [
        (dict(), 'mmcv'),
        (dict(torchvision=BROKEN, torch=BROKEN), 'mmcv'),
        (dict(mmcv=MISSING), 'torchvision'),
        (dict(mmcv=BROKEN), 'torchvision'),
        (dict(mmcv=MISSING, torchvision=MISSING), 'torch'),
        (dict(mmcv=MISSING, torchvision=BROKEN), 'torch'),
    ],
    ids=str,
)
def test_the_best_that_runs(provide, errors, best):
    provide(**errors)
    assert find_extension([]) is MODULES[best]


@pytest.mark.parametrize('name', MODULES)
def test_the_variable_forces_one(provide, monkeypatch, records, name):
    provide()
    monkeypatch.setenv(VARIABLE, name)
    module = find_extension([])
    assert module is MODULES[name]
    assert records() == [('INFO', f"mmcv's operators are computed by {describe(module)}")]


@pytest.mark.parametrize('name', MODULES)
@pytest.mark.parametrize('error', [MISSING, BROKEN], ids=['missing', 'broken'])
def test_a_forced_one_that_does_not_run(provide, monkeypatch, name, error):
    provide(**{name: error})
    monkeypatch.setenv(VARIABLE, name)
    message = f"{VARIABLE} is '{name}', but {error}"
    with pytest.raises(ImportError, match=f'^{re.escape(message)}$') as raised:
        find_extension([])
    assert raised.value.name == 'mmcv._ext'


@pytest.mark.parametrize('value', ['compiled', 'MMCV', ' '])
def test_a_wrong_value(monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ValueError, match=f'^{VARIABLE} is {value!r}: .*mmcv, torchvision, torch'):
        find_extension([])


def test_an_empty_value_forces_none(provide, monkeypatch):
    provide()
    monkeypatch.setenv(VARIABLE, '')
    assert find_extension([]) is MODULES['mmcv']


def test_one_line_is_logged(provide, records):
    provide(mmcv=MISSING, torchvision=BROKEN)
    find_extension([])
    (line,) = records()
    expected = (
        "mmcv's operators are computed by plain torch 1.0 (it is not installed; it is broken)"
    )
    assert line == ('INFO', expected)


def test_a_broken_compiled_mmcv_is_warned_of(provide, records):
    provide(mmcv=BROKEN)
    find_extension([])
    warning, info = records()
    assert warning == ('WARNING', 'it is broken')
    assert info[0] == 'INFO' and 'torchvision 0.1' in info[1]


def test_serving(monkeypatch):
    for name, module in MODULES.items():
        monkeypatch.setitem(sys.modules, providers.EXTENSION, module)
        assert serving() == name
    monkeypatch.delitem(sys.modules, providers.EXTENSION)
    assert serving() == ''


def test_descriptions():
    assert [*map(describe, MODULES.values())] == [
        'compiled mmcv',
        'torchvision 0.1',
        'plain torch 1.0',
    ]


# --- compiled mmcv

WORKS = """
import torch
def nms(boxes, scores, iou_threshold, offset):
    return torch.tensor([0, 2])
def get_compiling_cuda_version():
    return 'not available'
"""


@pytest.fixture
def extension(tmp_path):
    """A package's folder whose `_ext` has this text."""

    def write(text):
        (tmp_path / '_ext.py').write_text(text)
        return [str(tmp_path)]

    return write


def test_a_compiled_one_serves(extension, monkeypatch, records):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    module = find_extension(extension(WORKS))
    assert module.nms(0, 0, 0, 0).tolist() == [0, 2]
    assert records() == [('INFO', "mmcv's operators are computed by compiled mmcv")]


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('raise ImportError("undefined symbol: _ZN3c10")', 'do not run.*undefined symbol'),
        ('import no_such_library', 'do not run.*no_such_library'),
        (WORKS.replace('return torch.tensor([0, 2])', 'raise RuntimeError("no nms")'), 'no nms'),
        (WORKS.replace('[0, 2]', '[0, 1]'), r'are wrong: nms keeps boxes \[0, 1\]'),
    ],
    ids=['symbol', 'library', 'operator', 'result'],
)
def test_a_compiled_one_that_is_broken(extension, monkeypatch, records, text, reason):
    """There is a warning, and the next provider serves; it is an error where mmcv is forced."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    path = extension(text)
    module = find_extension(path)
    assert isinstance(module, StandIn)
    warning, info = records()
    assert warning[0] == 'WARNING' and re.search(reason, warning[1])
    assert info[0] == 'INFO' and module.description in info[1]
    monkeypatch.setenv(VARIABLE, 'mmcv')
    with pytest.raises(ImportError, match=reason):
        find_extension(path)


def test_a_compiled_one_without_cuda(extension, monkeypatch):
    """Its operators would fail on the GPU that torch uses."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    with pytest.raises(ProviderError, match='without CUDA, and there is a GPU'):
        providers.PROVIDERS['mmcv'](extension(WORKS))
    assert providers.PROVIDERS['mmcv'](extension(WORKS.replace('not available', '12.8')))


def test_mmcv_lite(tmp_path, records):
    """Nobody is warned that wheels without compiled operators have none."""
    module = find_extension([str(tmp_path)])
    assert isinstance(module, StandIn)
    ((level, message),) = records()
    assert level == 'INFO'
    assert 'mmcv is installed without its compiled operators' in message


def test_compiled_mmcv_wins(monkeypatch):
    skip_unless_it_runs('mmcv')
    assert describe(find_extension(mmcv.__path__)) == 'compiled mmcv'
    monkeypatch.setenv(VARIABLE, 'torch')
    assert describe(find_extension(mmcv.__path__)) == f'plain torch {torch.__version__}'


# --- torchvision


def test_no_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    with pytest.raises(NotInstalledError, match='torchvision is not installed'):
        providers.PROVIDERS['torchvision']([])


def test_a_torchvision_for_another_torch(monkeypatch, tmp_path):
    """Which fails at its import."""
    error = 'raise RuntimeError("operator torchvision::nms does not exist")'
    (tmp_path / 'torchvision.py').write_text(error)
    monkeypatch.delitem(sys.modules, 'torchvision', raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    reason = f'does not load beside torch {re.escape(torch.__version__)}: .*nms does not exist'
    with pytest.raises(ProviderError, match=reason) as raised:
        providers.PROVIDERS['torchvision']([])
    assert not isinstance(raised.value, NotInstalledError)


@pytest.mark.parametrize(
    ('keys', 'gpu', 'reason'),
    [
        ([], False, 'torchvision 9 has no operators for CPU'),
        (['CPU'], True, 'torchvision 9 has no operators for CUDA'),
        (['CPU'], False, ''),
        (['CPU', 'CUDA'], True, ''),
    ],
    ids=str,
)
def test_a_torchvision_without_operators(monkeypatch, keys, gpu, reason):
    """Such as one for CPUs only beside a torch for GPUs."""
    monkeypatch.setitem(sys.modules, 'torchvision', SimpleNamespace(__version__='9'))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    monkeypatch.setattr(
        torch._C, '_dispatch_has_kernel_for_dispatch_key', lambda name, key: key in keys
    )
    if reason:
        with pytest.raises(ProviderError, match=reason):
            providers.PROVIDERS['torchvision']([])
    else:
        module = providers.PROVIDERS['torchvision']([])
        assert (module.provider, module.description) == ('torchvision', 'torchvision 9')


def test_a_torchvision_whose_operators_do_not_exist(monkeypatch):
    def no_such_operator(name, key):
        raise RuntimeError('operator torchvision::nms does not exist')

    monkeypatch.setitem(sys.modules, 'torchvision', ModuleType('torchvision'))
    monkeypatch.setattr(torch._C, '_dispatch_has_kernel_for_dispatch_key', no_such_operator)
    with pytest.raises(ProviderError, match='has no operators for CPU'):
        providers.PROVIDERS['torchvision']([])
