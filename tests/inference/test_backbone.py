"""The fast form of the backbone: the same maps, the same state, and plain maps where it cannot."""

import copy
import io
import pickle
from contextlib import nullcontext

import pytest
import torch
from mmengine.logging import MMLogger
from support.backbones import needs_fast_bf16
from torch import nn
from torch.testing import assert_close

from convnext_backbones import ConvNeXt, ConvNeXtClassifier
from convnext_backbones.inference import bands, fast_form, optimize
from convnext_backbones.inference import block as inference_block
from convnext_backbones.inference.backbone import InferenceConvNeXt
from convnext_backbones.inference.bands import even_share
from convnext_backbones.inference.block import InferenceBlock
from convnext_backbones.inference.fast_form import bf16_is_fast
from convnext_backbones.inference.optimize import optimize_for_inference
from convnext_backbones.inference.tuning import Tuner
from convnext_backbones.models.block import Block

CALLS = ('_convolution_pointwise', '_reorder_convolution_weight')
SIZES = [(32, 32), (33, 63), (37, 500), (500, 32), (96, 64)]


@pytest.fixture(autouse=True)
def without_kernels(monkeypatch):
    """The form with oneDNN; test_native_form.py has the other one."""
    monkeypatch.setenv('CONVNEXT_BACKBONES_NATIVE', '0')


@pytest.fixture(params=[False, True], ids=['V1', 'V2'])
def net(request, miniature):
    return build(miniature, use_grn=request.param)


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96)


@pytest.fixture
def calls(monkeypatch):
    """How often oneDNN's operations are called: 0 where the plain form computes."""
    counts = dict.fromkeys(CALLS, 0)

    def count(name, operation):
        def counted(*args):
            counts[name] += 1
            return operation(*args)

        return counted

    for name in CALLS:
        operation = getattr(torch.ops.mkldnn, name)
        monkeypatch.setattr(torch.ops.mkldnn, name, count(name, operation))
    return counts


def build(arch, **kwargs):
    """A backbone in which every parameter matters: none is 0 or 1."""
    layer_scale = None if kwargs.get('use_grn') else 1.0
    net = ConvNeXt(arch, **{'layer_scale_init_value': layer_scale, **kwargs})
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net.eval()


def assert_same_maps(actual, expected, tolerance=1e-5):
    """The difference of each map is within ``tolerance`` of its largest value."""
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, atol=tolerance * b.abs().max().item(), rtol=0)


def differ(maps, others):
    return not any(
        torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(maps, others, strict=True)
    )


@torch.no_grad()
def check(net, images, tolerance=1e-5):
    """The maps of a fast copy equal those of ``net``, and returns the copy."""
    fast = optimize_for_inference(net)
    assert_same_maps(fast(images), net(images), tolerance)
    return fast


# Maps


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize(
    ('band_bytes', 'kept'),
    [(1, 0), (20_000, 512), (60_000, 0), (bands.BAND_BYTES, 10**6)],
)
def test_same_maps_at_every_size(net, monkeypatch, calls, size, band_bytes, kept):
    """Bands of few rows, several samples per band, and weights kept or not."""
    monkeypatch.setattr(bands, 'BAND_BYTES', band_bytes)
    monkeypatch.setattr(inference_block, 'KEEP_PACKED_POSITIONS', kept)
    for samples in (1, 3):
        check(net, torch.randn(samples, 3, *size))
    assert all(calls.values())


@pytest.mark.parametrize('part', [7, 32, 50])
def test_same_maps_in_parts_of_the_channels(net, monkeypatch, part):
    """Parts of one size, and with a smaller one at the end."""
    monkeypatch.setattr(inference_block, 'PART_CHANNELS', part)
    fast = check(net, torch.randn(2, 3, 64, 96))
    block = fast.stages[-1][-1]
    weights = block.packed.value
    parts = len(weights.pwconv1)
    assert parts == len(weights.pwconv2) == -(-block.pwconv1.out_features // part) > 1
    assert [bias is None for _, bias in weights.pwconv2] == [False] + [True] * (parts - 1)


def test_bands_share_rows_and_samples(net, monkeypatch):
    """What the sizes above are meant to reach is reached."""
    seen = []
    depthwise = InferenceBlock._depthwise

    def note(self, x, top, bottom, weights):
        seen.append((len(x), bottom - top, x.shape[2]))
        return depthwise(self, x, top, bottom, weights)

    monkeypatch.setattr(InferenceBlock, '_depthwise', note)
    fast = optimize_for_inference(net)
    monkeypatch.setattr(bands, 'BAND_BYTES', 20_000)
    fast(torch.randn(3, 3, 96, 64))
    samples, rows, heights = zip(*seen, strict=True)
    assert set(samples) == {1, 2, 3}  # of a band, and of whole maps
    assert rows[:9] == (8,) * 9 and heights[0] == 24
    seen.clear()
    monkeypatch.setattr(bands, 'BAND_BYTES', 1)
    fast(torch.randn(1, 3, 4 * 29, 32))
    assert [row for _, row, height in seen if height == 29] == [6, 6, 6, 6, 5]


def test_even_share():
    for total in range(1, 40):
        for limit in range(-1, 45):
            share = even_share(total, limit)
            assert 1 <= share <= max(limit, 1)
            assert -(-total // share) == -(-total // max(limit, 1))
            assert limit < 6 or total < 3 or share >= 3


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(layer_scale_init_value=0),
        dict(use_grn=True),
        dict(use_grn=True, layer_scale_init_value=1.0),
        dict(stem_type='overlap'),
        dict(stem_type='overlap_tiered', use_grn=True),
        dict(patch_size=2),
        dict(norm_eps=1e-2),
        dict(out_indices=2),
        dict(out_indices=(0, 3)),
        dict(out_indices=(1, -1)),
        dict(frozen_stages=2, drop_path_rate=0.5),
        dict(in_chans=1),
        dict(in_chans=4),
        dict(channels_last=False),
        dict(with_cp=True),
        dict(memory_efficient=True),
        dict(arch=dict(depths=(3, 1), dims=(5, 7)), out_indices=(0, 1)),
        dict(arch=dict(depths=(1, 1), dims=(1, 1)), out_indices=(0, 1)),
    ],
    ids=str,
)
def test_same_maps_of_every_form(miniature, monkeypatch, calls, kwargs):
    monkeypatch.setattr(bands, 'BAND_BYTES', 20_000)
    net = build(**dict(dict(arch=miniature), **kwargs))
    for samples, *size in ((1, 32, 32), (2, 75, 130)):
        check(net, torch.randn(samples, net.in_chans, *size))
    assert all(calls.values())


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('size', [(32, 32), (64, 96)])
def test_maps_are_contiguous_and_the_input_is_left_alone(net, memory_format, size):
    for in_chans in (1, 3):
        net = build(dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32)), in_chans=in_chans)
        images = torch.randn(2, in_chans, *size).contiguous(memory_format=memory_format)
        before, strides = images.clone(), images.stride()
        first, second = (optimize_for_inference(net)(images) for _ in range(2))
        assert torch.equal(images, before) and images.stride() == strides
        for map_, again in zip(first, second, strict=True):
            n, c, h, w = map_.shape
            assert map_.dtype == torch.float32
            assert map_.stride() == (c * h * w, h * w, w, 1)
            assert torch.equal(map_, again)


def test_maps_of_one_call_survive_the_next(net):
    fast = optimize_for_inference(net)
    maps = fast(torch.randn(1, 3, 64, 64))
    before = [map_.clone() for map_ in maps]
    fast(torch.randn(1, 3, 64, 64))
    assert all(torch.equal(a, b) for a, b in zip(maps, before, strict=True))


def test_slices_and_expanded_images(net, images):
    for view in (images[:, :, 5:64, 3:90], images[:1].expand(3, -1, -1, -1), images.mT):
        check(net, view)


@pytest.mark.parametrize('shape', [(3, 64, 64), (1, 4, 64, 64), (1, 3, 31, 64)])
def test_wrong_inputs_are_refused_as_before(net, shape):
    with pytest.raises(ValueError) as plain:
        net(torch.randn(shape))
    with pytest.raises(ValueError) as fast:
        optimize_for_inference(net)(torch.randn(shape))
    assert str(fast.value) == str(plain.value)


# State


def test_the_argument_is_left_alone(miniature, images):
    net = build(miniature, frozen_stages=1, drop_path_rate=0.5).train()
    expected = copy.deepcopy(net)

    def look(module):
        return (
            [(type(m), m.training, sorted(vars(m))) for m in module.modules()],
            [(n, p.requires_grad, p.stride(), p.dtype) for n, p in module.named_parameters()],
        )

    before, pointers = look(net), [p.data_ptr() for p in net.parameters()]
    with torch.no_grad():
        optimize_for_inference(net)(images)
    assert look(net) == before
    assert [p.data_ptr() for p in net.parameters()] == pointers
    assert all(map(torch.equal, net.parameters(), expected.parameters()))


def test_the_copy_has_its_own_equal_state(net, images):
    fast = optimize_for_inference(net)
    fast(images)
    assert isinstance(fast, ConvNeXt)
    assert list(fast.state_dict()) == list(net.state_dict())
    for (name, mine), (_, other) in zip(
        fast.state_dict().items(), net.state_dict().items(), strict=True
    ):
        assert torch.equal(mine, other) and mine.data_ptr() != other.data_ptr(), name
        assert mine.stride() == other.stride(), name
    assert not any(module.training for module in fast.modules())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    for name in ('out_indices', 'out_channels', 'out_strides', 'variant', 'frozen_stages'):
        assert getattr(fast, name) == getattr(net, name)


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    'copied',
    [
        copy.deepcopy,
        copy.copy,
        lambda model: pickle.loads(pickle.dumps(model)),
        saved_and_loaded,
        optimize_for_inference,
    ],
    ids=['deepcopy', 'copy', 'pickle', 'save', 'optimize'],
)
@pytest.mark.parametrize('used', [False, True])
def test_copies_compute_the_same(net, images, calls, copied, used):
    fast = optimize_for_inference(net)
    if used:
        fast(images)  # keeps packed weights, which can neither be copied nor saved
    other = copied(fast)
    assert type(other) is InferenceConvNeXt
    calls.update(dict.fromkeys(CALLS, 0))
    assert_same_maps(other(images), net(images))
    assert calls['_convolution_pointwise']
    assert_same_maps(fast(images), net(images))


def load(fast, other):
    fast.load_state_dict(other.state_dict())


def assign(fast, other):
    fast.load_state_dict(other.state_dict(), assign=True)


def copy_in_place(fast, other):
    with torch.no_grad():
        for mine, new in zip(fast.parameters(), other.parameters(), strict=True):
            mine.copy_(new)


def copy_in_inference_mode(fast, other):
    with torch.inference_mode():
        copy_in_place(fast, other)


def replace_data(fast, other):
    for mine, new in zip(fast.parameters(), other.parameters(), strict=True):
        mine.data = new.data.clone()


def swap_parameters(fast, other):
    for mine, new in zip(fast.modules(), copy.deepcopy(other).modules(), strict=True):
        mine._parameters.update(new._parameters)
    fast.requires_grad_(False)


@pytest.mark.parametrize(
    'change',
    [load, assign, copy_in_place, copy_in_inference_mode, replace_data, swap_parameters],
    ids=lambda change: change.__name__,
)
@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize('built_in', [nullcontext, torch.inference_mode])
def test_changed_parameters_are_seen(miniature, images, change, mode, built_in):
    """Packed weights are kept between calls, and must not outlive their parameters."""
    net, other = build(miniature), build(miniature)
    with built_in():
        fast = optimize_for_inference(net)
    with mode():
        before, expected = net(images), other(images)
        assert differ(before, expected)
        assert_same_maps(fast(images), before)
        with built_in():
            change(fast, other)
        assert_same_maps(fast(images), expected)


def test_packed_weights_are_kept_for_small_maps_only(miniature, monkeypatch, calls):
    net = build(miniature)
    fast = optimize_for_inference(net)
    blocks = [module for module in fast.modules() if isinstance(module, InferenceBlock)]

    def packings(*shape):
        calls['_reorder_convolution_weight'] = 0
        fast(torch.randn(shape))
        return calls['_reorder_convolution_weight']

    assert packings(1, 3, 64, 64) == 3 * len(blocks)
    assert packings(1, 3, 64, 64) == 0
    assert packings(1, 3, 64, 96) == 3 * len(blocks)  # another shape of the maps
    assert all(block.packed.value is not None for block in blocks)
    monkeypatch.setattr(inference_block, 'KEEP_PACKED_POSITIONS', 2 * 8 * 8)
    fast = optimize_for_inference(net)
    blocks = [module for module in fast.modules() if isinstance(module, InferenceBlock)]
    packings(2, 3, 64, 64)  # maps of 16 x 16, then of 8 x 8
    assert [block.packed.value is not None for block in blocks] == [False] + [True] * 4
    assert packings(2, 3, 64, 64) == 3


@pytest.mark.parametrize('positions', [6 * 6, 2 * 2])
def test_after_grn_the_smaller_one_is_scaled(positions, calls):
    """Weights of the second layer for each sample on large maps, the hidden map on small ones."""
    block = build(dict(depths=(1,), dims=(16,)), use_grn=True, out_indices=0).stages[0][0]
    fast = copy.deepcopy(block).requires_grad_(False)
    InferenceBlock.take_over(fast, Tuner('off'))
    side = int(positions**0.5)
    x = torch.randn(3, 16, side, side).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert_same_maps([fast(x)], [block(x)])
    folds = positions > 16
    assert (not fast.packed.value.pwconv2) == folds
    # Depthwise and first pointwise layer once; the second one once, or once for each sample.
    assert calls['_reorder_convolution_weight'] == 2 + (3 if folds else 1)


def test_kept_weights_do_not_keep_replaced_parameters_forever(net, images):
    fast = optimize_for_inference(net)
    fast(images)
    block = fast.stages[3][0]
    assert [x.data_ptr() for x in block.packed.sources] == [
        x.data_ptr() for x in block.parameters()
    ]
    replace_data(fast, net)
    fast(images)
    assert [x.data_ptr() for x in block.packed.sources] == [
        x.data_ptr() for x in block.parameters()
    ]


# Fallbacks


def test_fp64(net, images, calls):
    fast = optimize_for_inference(net).double()
    assert_close(fast(images.double()), net.double()(images.double()))
    assert not any(calls.values())
    assert all(map_.dtype == torch.float64 for map_ in fast(images.double()))


def test_onednn_switched_off(net, images, calls, monkeypatch):
    fast = optimize_for_inference(net)
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        assert_close(fast(images), net(images))
    for module in ('inference.fast_form', 'models.layers'):
        monkeypatch.setattr(f'convnext_backbones.{module}.HAS_ONEDNN', False)
    with torch.no_grad():
        assert_close(fast(images), net(images))
        assert_close(optimize_for_inference(net)(images), net(images))
    assert not bf16_is_fast()
    assert not any(calls.values())


def test_a_torch_without_the_operations(net, images, calls, monkeypatch):
    monkeypatch.setattr(fast_form, 'OPERATORS', (*fast_form.OPERATORS, '_no_such_operation'))
    check(net, images, tolerance=0)
    assert not any(calls.values())


def test_gradients_with_respect_to_the_input(net, images, calls):
    fast = optimize_for_inference(net)
    gradients = []
    for model in (net, fast):
        x = images.clone().requires_grad_()
        sum(map_.square().sum() for map_ in model(x)).backward()
        gradients.append(x.grad)
    assert_close(*gradients)
    assert not any(calls.values())
    with torch.no_grad():
        fast(images.requires_grad_())
    assert all(calls.values())


@pytest.mark.parametrize('kwargs', [dict(), dict(with_cp=True), dict(memory_efficient=True)])
def test_it_can_be_trained_on(miniature, images, calls, kwargs):
    net = build(miniature, drop_path_rate=0.5, **kwargs)
    fast = optimize_for_inference(net)
    results = []
    for model in (net, fast):
        model.train().requires_grad_(True)
        torch.manual_seed(3)
        maps = model(images)
        model.zero_grad()
        sum(map_.square().sum() for map_ in maps).backward()
        results.append([*maps, *(parameter.grad for parameter in model.parameters())])
    assert_close(*results)
    assert not any(calls.values())
    assert_close(fast.eval()(images), net.eval()(images))  # parameters want gradients
    assert not any(calls.values())


def test_training_mode(miniature, images):
    """Stochastic depth drops branches, also where nobody wants gradients."""
    net = build(miniature, drop_path_rate=0.9)
    fast = optimize_for_inference(net).train()
    maps = []
    for model in (net.train(), fast):
        torch.manual_seed(3)
        with torch.no_grad():
            maps.append(model(images))
    assert_close(*maps)
    assert differ(maps[0][1:], net.eval()(images)[1:])


def test_autocast(net, images, calls):
    fast = optimize_for_inference(net)
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        assert_close(fast(images), net(images))
    assert not any(calls.values())


def test_one_thread_and_two(net, images):
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            check(net, images)
    finally:
        torch.set_num_threads(threads)


def test_older_instructions(run_python, tmp_path):
    """Each in a fork of a process that has not yet asked oneDNN what the CPU can do."""
    out = run_python(
        """
        import os

        import torch
        from convnext_backbones import ConvNeXt
        from convnext_backbones.inference import bands
        from convnext_backbones.inference.fast_form import bf16_is_fast
        from convnext_backbones.inference.optimize import optimize_for_inference

        bands.BAND_BYTES = 20_000
        os.environ['ONEDNN_VERBOSE'] = '1'

        def compare():
            arch = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
            net = ConvNeXt(arch, layer_scale_init_value=1.0).eval()
            bf16_is_fast()
            fast = optimize_for_inference(net)
            for size in ((2, 3, 64, 96), (1, 3, 33, 63), (3, 3, 128, 100)):
                x = torch.randn(size)
                with torch.no_grad():
                    for a, b in zip(fast(x), net(x)):
                        torch.testing.assert_close(a, b, atol=1e-5 * b.abs().max().item(), rtol=0)

        for isa in ('SSE41', 'AVX2'):
            os.environ['ONEDNN_MAX_CPU_ISA'] = isa
            child = os.fork()
            if not child:
                compare()
                print('compared', flush=True)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        """,
        tmp_path,
    )
    assert out.count('compared') == 2
    assert 'isa:Intel SSE4.1' in out and 'isa:Intel AVX2' in out


def test_compiled_it_is_the_plain_form(net, images, calls):
    torch._dynamo.reset()
    compiled = torch.compile(optimize_for_inference(net), backend='eager', fullgraph=True)
    with torch.no_grad():
        assert_same_maps(compiled(images), net(images))
    assert not any(calls.values())
    torch._dynamo.reset()


def test_on_the_meta_device(net):
    maps = optimize_for_inference(net).to('meta')(torch.empty(1, 3, 64, 64, device='meta'))
    assert [map_.shape for map_ in maps] == [map_.shape for map_ in net(torch.randn(1, 3, 64, 64))]


# bf16


def test_without_bf16_the_network_stays_in_fp32(net, images, monkeypatch, caplog):
    monkeypatch.setattr(optimize, 'bf16_is_fast', lambda: False)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        fast = optimize_for_inference(net, dtype=torch.bfloat16)
    finally:
        logger.removeHandler(caplog.handler)
    (record,) = caplog.records
    assert record.levelname == 'WARNING' and 'no bf16 instructions' in record.message
    assert_same_maps(fast(images), net(images))


def test_with_bf16_only_what_lies_between_is_bf16(net, monkeypatch):
    monkeypatch.setattr(optimize, 'bf16_is_fast', lambda: True)
    fast = optimize_for_inference(net, dtype=torch.bfloat16)
    assert fast.compute_dtype == torch.bfloat16
    assert {parameter.dtype for parameter in fast.parameters()} == {torch.float32}
    assert optimize_for_inference(fast).compute_dtype == torch.float32


@needs_fast_bf16
@pytest.mark.parametrize('band_bytes', [20_000, bands.BAND_BYTES])
def test_maps_in_bf16(net, monkeypatch, band_bytes):
    monkeypatch.setattr(bands, 'BAND_BYTES', band_bytes)
    fast = optimize_for_inference(net, dtype=torch.bfloat16)
    for size in SIZES:
        images = torch.randn(2, 3, *size)
        maps = fast(images)
        assert_same_maps(maps, net(images), tolerance=3e-2)
        assert not any(map(torch.equal, maps, net(images)))
        assert all(map_.is_contiguous() and map_.dtype == torch.float32 for map_ in maps)


# Arguments


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64, torch.int8])
def test_other_types_are_refused(net, dtype):
    with pytest.raises(ValueError, match=f'^expected dtype to be .*bfloat16, got {dtype}$'):
        optimize_for_inference(net, dtype=dtype)


@pytest.mark.parametrize('model', [nn.Linear(2, 2), Block(4, 0.0, 1.0)], ids=['linear', 'block'])
def test_models_without_a_convnext_are_refused(model):
    with pytest.raises(TypeError, match=f'^expected a ConvNeXt.*got {type(model).__name__}$'):
        optimize_for_inference(model)


def test_a_classifier_is_refused(miniature):
    with pytest.raises(TypeError, match='got ConvNeXtClassifier$'):
        optimize_for_inference(ConvNeXtClassifier(miniature, num_classes=2))


def test_fp32_may_be_named(net, images):
    fast = optimize_for_inference(net, dtype=torch.float32)
    assert fast.compute_dtype == torch.float32
    assert_same_maps(fast(images), net(images))
