"""The fast form with the kernels in C, and every other form of a block."""

import copy
import pickle
import subprocess
from pathlib import Path

import pytest
import torch
from support.backbones import build
from support.native import needs_compiler
from torch import nn
from torch.testing import assert_close

from convnext_backbones.inference import backbone as inference_backbone
from convnext_backbones.inference import block as inference_block
from convnext_backbones.inference import convolutions, optimize
from convnext_backbones.inference.optimize import optimize_for_inference
from convnext_backbones.inference.tuning import Tuner
from convnext_backbones.native import compiler
from convnext_backbones.ops import winograd

SIZES = [(32, 32), (33, 63), (37, 500), (96, 64)]
FORMS = (
    *('native', 'onednn', 'linear', 'plain'),
    pytest.param('compiled', marks=pytest.mark.slow),  # a minute in the compiler
)


@pytest.fixture
def native_calls(monkeypatch):
    """The functions of the kernels that are called."""
    calls = []

    def noted(name, function):
        def call(*args):
            calls.append(name)
            return function(*args)

        return call

    for module, names in (
        (inference_backbone, ('downsample', 'normalize_map')),
        (convolutions, ('convolve_3x3',)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, noted(name, getattr(module, name)))
    name = 'add_by_kernels'
    original = inference_block.add_by_kernels

    def add(*args, **kwargs):
        calls.append(name)
        return original(*args, **kwargs)

    monkeypatch.setattr(inference_block, name, add)
    return calls


def assert_same_maps(actual, expected, tolerance=1e-5):
    for a, b in zip(actual, expected, strict=True):
        assert a.is_contiguous() or b.is_contiguous(memory_format=torch.channels_last)
        assert_close(a, b, atol=tolerance * b.abs().max().item(), rtol=0)


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_same_maps_at_every_size(miniature, native_calls, size, use_grn):
    net = build(miniature, use_grn=use_grn).eval()
    fast = optimize_for_inference(net)
    for samples in (1, 3):
        images = torch.randn(samples, 3, *size)
        before = images.clone()
        assert_same_maps(fast(images), net(images))
        assert torch.equal(images, before)
    assert native_calls.count('add_by_kernels') == 2 * 5
    assert native_calls.count('downsample') == native_calls.count('normalize_map') == 2 * 4


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize(
    'kwargs',
    [
        dict(layer_scale_init_value=0),
        dict(use_grn=True, layer_scale_init_value=1.0),
        dict(stem_type='overlap'),
        dict(patch_size=2),
        dict(norm_eps=1e-2),
        dict(out_indices=(0, 3)),
        dict(in_chans=1),
        dict(in_chans=4),
        dict(arch=dict(depths=(3, 1), dims=(5, 7)), out_indices=(0, 1)),
        dict(arch=dict(depths=(1, 1), dims=(1, 1)), out_indices=(0, 1)),
    ],
    ids=str,
)
def test_same_maps_of_every_form(miniature, native_calls, kwargs):
    net = build(**dict(dict(arch=miniature), **kwargs)).eval()
    for samples, *size in ((1, 32, 32), (2, 75, 130)):
        images = torch.randn(samples, net.in_chans, *size)
        for x in (images, images.contiguous(memory_format=torch.channels_last), images.mT):
            assert_same_maps(optimize_for_inference(net)(x), net(x))
    assert 'add_by_kernels' in native_calls


@needs_compiler
@torch.no_grad()
def test_parameters_are_used_as_they_are(miniature):
    """Nothing is kept between calls, so changes of any kind are seen; copies need nothing."""
    net, other = (build(miniature).eval() for _ in range(2))
    fast = optimize_for_inference(net)
    images = torch.randn(1, 3, 64, 64)
    fast(images)
    for mine, new in zip(fast.parameters(), other.parameters(), strict=True):
        mine.data = new.data.clone()
    for copied in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert_same_maps(copied(images), other(images))
    assert all(block.packed.value is None for stage in fast.stages for block in stage)


@needs_compiler
@torch.no_grad()
def test_a_block_alone(native_calls):
    """In both layouts, with hooks, with gradients and in fp64."""
    block = build(dict(depths=(1,), dims=(8,)), out_indices=0).eval().stages[0][0]
    net = build(dict(depths=(1,), dims=(8,)), out_indices=0).eval()
    fast = optimize_for_inference(net).stages[0][0]
    block = net.stages[0][0].requires_grad_(False)
    x = torch.randn(2, 8, 9, 7)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        assert_same_maps([fast(given)], [block(given)])
    assert len(native_calls) == 2
    with torch.enable_grad():
        given = x.clone().requires_grad_()
        fast(given).sum().backward()
    assert given.grad is not None
    fast.double()
    assert_close(fast(x.double()), block.double()(x.double()))
    assert len(native_calls) == 2


@torch.no_grad()
@pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
@pytest.mark.parametrize('form', FORMS)
def test_forms_of_a_block(monkeypatch, miniature, form, use_grn):
    """Each that can be chosen computes the same."""
    if form == 'native' and compiler.why_unavailable():
        pytest.skip(compiler.why_unavailable())
    net = build(miniature, use_grn=use_grn).eval()
    fast = optimize_for_inference(net, tune='full')
    chosen = []

    def choose(self, site, candidates, default, reference):
        assert reference == 'plain'
        chosen.append(form if form in candidates else '')
        return form

    monkeypatch.setattr(Tuner, 'choose', choose)
    images = torch.randn(2, 3, 40, 72)
    assert_same_maps(fast(images), net(images))
    assert chosen == [form] * 5


@torch.no_grad()
def test_without_anything_faster(monkeypatch, miniature):
    """No compiler and no oneDNN: as before."""
    monkeypatch.setenv(compiler.VARIABLE, '0')
    net = build(miniature).eval()
    fast = optimize_for_inference(net)
    images = torch.randn(1, 3, 64, 64)
    with torch.backends.mkldnn.flags(enabled=False):
        for actual, expected in zip(fast(images), net(images), strict=True):
            assert torch.equal(actual, expected)


@needs_compiler
@torch.no_grad()
def test_without_onednn(monkeypatch, native_calls, miniature):
    """The kernels do not need it."""
    net = build(miniature).eval()
    fast = optimize_for_inference(net)
    images = torch.randn(1, 3, 64, 64)
    with torch.backends.mkldnn.flags(enabled=False):
        assert_same_maps(fast(images), net(images))
    assert 'add_by_kernels' in native_calls


@needs_compiler
@torch.no_grad()
def test_convolutions_of_heads(monkeypatch, native_calls):
    from mmcv.cnn import ConvModule

    from convnext_backbones.inference.heads import optimize_heads

    monkeypatch.setattr(winograd, 'MIN_POSITIONS', 1)
    monkeypatch.setattr(winograd, 'MIN_CHANNELS', 1)
    norm = dict(type='BN')
    plain = nn.Sequential(
        nn.Conv2d(6, 9, 3, padding=1), ConvModule(9, 5, 3, padding=1, norm_cfg=norm)
    )
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    plain.eval().requires_grad_(False)
    fast = copy.deepcopy(plain)
    optimize_heads(fast)
    x = torch.randn(2, 6, 13, 10)
    expected = plain(x)
    assert_close(fast(x), expected, atol=3e-5 * expected.abs().max().item(), rtol=0)
    assert native_calls == ['convolve_3x3'] * 2


def test_tune_is_checked(miniature, monkeypatch):
    net = build(miniature)
    with pytest.raises(ValueError, match='expected tune to be one of off, auto, full'):
        optimize_for_inference(net, tune='fast')
    monkeypatch.setenv('CONVNEXT_BACKBONES_TUNE', 'never')
    with pytest.raises(ValueError, match="CONVNEXT_BACKBONES_TUNE to be one of .* got 'never'"):
        optimize_for_inference(net)


@pytest.fixture(scope='module')
def emulated(tmp_path_factory):
    """The kernels with emulated AMX instructions, for processors without."""
    folder = tmp_path_factory.mktemp('kernels')
    header = Path(__file__).parents[1] / 'native' / 'emulated_intrinsics.h'
    own = {
        'block_bf16.c': ['-DEMULATE_AMX', '-include', str(header)],
        'check.c': ['-D__AVX512BF16__'],
    }
    objects = []
    for source in compiler.SOURCES:
        objects.append(f'{folder}/{source}.o')
        flags = [*compiler.FLAGS, '-DLANES=16', '-DROWS=12', *own.get(source, [])]
        command = ['gcc', *flags, '-c', str(compiler.FOLDER / source), '-o', objects[-1]]
        subprocess.run(command, check=True)
    path = folder / 'kernels.so'
    runtime = str(compiler.find_openmp())
    subprocess.run(['gcc', '-shared', *objects, runtime, '-lm', '-o', str(path)], check=True)
    library = compiler.Library(path, 'emulated')
    assert library.functions.check_kernels() == library.functions.check_bf16() == 0
    return library


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
def test_bf16(monkeypatch, emulated, native_calls, miniature, use_grn):
    """No farther from the truth than the plain network in bf16; new weights are packed anew."""
    monkeypatch.setattr(inference_block, 'load', lambda: emulated)
    monkeypatch.setattr(optimize, 'bf16_is_fast', lambda: True)
    net, other = (build(miniature, use_grn=use_grn).bfloat16().float().eval() for _ in range(2))
    fast = optimize_for_inference(net, dtype=torch.bfloat16)
    images = torch.randn(2, 3, 64, 96)
    for expected in (net, other):
        fast.load_state_dict(expected.state_dict())
        half = copy.deepcopy(expected).bfloat16()(images.bfloat16())
        for actual, plain, truth in zip(fast(images), half, expected(images), strict=True):
            assert actual.dtype == torch.float32
            error, allowed = (x.float() - truth for x in (actual, plain))
            assert error.square().mean() <= 1.1 * allowed.square().mean()
    assert native_calls == ['add_by_kernels'] * 10
    for copied in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert_same_maps(copied(images), fast(images))
