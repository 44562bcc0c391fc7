"""The contract of the backbone and of the classifier."""

import copy
import itertools
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from convnext_backbones import VARIANTS, ConvNeXt, ConvNeXtClassifier
from convnext_backbones.models.layers import DropPath, LayerNorm, LayerNorm2d, PointwiseLinear

# With a head of 1000 classes: the paper's tables say 29M, 50M, 89M, 198M, 350M.
PARAMETERS = {
    'tiny': 28_589_128,
    'small': 50_223_688,
    'base': 88_591_464,
    'large': 197_767_336,
    'xlarge': 350_196_968,
}
SUBSETS = [
    subset for n in range(1, 5) for subset in itertools.combinations(range(4), n)
]  # every out_indices of four stages


def build(arch, **kwargs):
    """A backbone whose blocks matter: at the default layer scale of 1e-6 they hardly would."""
    return ConvNeXt(arch, **{'layer_scale_init_value': 1.0, **kwargs})


def backward(maps):
    """A loss in which every channel counts: LayerNorm has no gradient along a plain sum."""
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (map_ * torch.randn(map_.shape, generator=generator).to(map_.dtype)).sum() for map_ in maps
    )
    loss.backward()


def gradients(module):
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def blocks(net):
    return [block for stage in net.stages for block in stage]


def authors_parameters(depths, dims, in_chans=3):
    """Names and shapes of the authors' network without its norms and head."""
    shapes = {}
    for i, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
        if i == 0:
            conv, norm, kernel, width, norm_width = 0, 1, 4, in_chans, dim
        else:
            conv, norm, kernel, width, norm_width = 1, 0, 2, dims[i - 1], dims[i - 1]
        shapes[f'downsample_layers.{i}.{conv}.weight'] = (dim, width, kernel, kernel)
        shapes[f'downsample_layers.{i}.{conv}.bias'] = (dim,)
        shapes[f'downsample_layers.{i}.{norm}.weight'] = (norm_width,)
        shapes[f'downsample_layers.{i}.{norm}.bias'] = (norm_width,)
        for j in range(depth):
            block = f'stages.{i}.{j}'
            shapes[f'{block}.gamma'] = (dim,)
            shapes[f'{block}.dwconv.weight'] = (dim, 1, 7, 7)
            shapes[f'{block}.dwconv.bias'] = (dim,)
            shapes[f'{block}.norm.weight'] = (dim,)
            shapes[f'{block}.norm.bias'] = (dim,)
            shapes[f'{block}.pwconv1.weight'] = (4 * dim, dim)
            shapes[f'{block}.pwconv1.bias'] = (4 * dim,)
            shapes[f'{block}.pwconv2.weight'] = (dim, 4 * dim)
            shapes[f'{block}.pwconv2.bias'] = (dim,)
    return shapes


def shapes_of(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


# Sizes, names, initialization


@pytest.mark.parametrize('arch', VARIANTS)
def test_every_variant_on_the_meta_device(arch):
    with torch.device('meta'):
        net = ConvNeXt(arch)
        maps = net(torch.empty(2, 3, 224, 256))
    dims = VARIANTS[arch].dims
    assert [tuple(map_.shape) for map_ in maps] == [
        (2, dims[0], 56, 64),
        (2, dims[1], 28, 32),
        (2, dims[2], 14, 16),
        (2, dims[3], 7, 8),
    ]
    assert net.variant == VARIANTS[arch]
    assert net.out_channels == dims
    assert net.out_strides == (4, 8, 16, 32)


@pytest.mark.parametrize(('arch', 'parameters'), PARAMETERS.items())
def test_classifier_has_the_papers_parameter_count(arch, parameters):
    with torch.device('meta'):
        net = ConvNeXtClassifier(arch, num_classes=1000)
        assert net(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


@pytest.mark.parametrize(('arch', 'tensors'), [('tiny', 186), ('small', 348)])
def test_parameter_names_and_shapes_are_the_authors(arch, tensors):
    depths, dims = VARIANTS[arch].depths, VARIANTS[arch].dims
    shared = authors_parameters(depths, dims)
    norms = {f'norm{i}.{leaf}': (dim,) for i, dim in enumerate(dims) for leaf in ('weight', 'bias')}
    head = {
        'norm.weight': (dims[-1],),
        'norm.bias': (dims[-1],),
        'head.weight': (21841, dims[-1]),
        'head.bias': (21841,),
    }
    with torch.device('meta'):
        assert shapes_of(ConvNeXt(arch)) == {**shared, **norms}
        assert shapes_of(ConvNeXtClassifier(arch, num_classes=21841)) == {**shared, **head}
    assert len(shared) + len(norms) == tensors
    assert len(shared) + len(head) == tensors - 4


def test_default_is_the_authors_tiny():
    with torch.device('meta'):
        net = ConvNeXt()
    assert net.variant == VARIANTS['tiny']
    assert net.out_indices == (0, 1, 2, 3)
    assert {block.drop_path.rate for block in blocks(net)} == {0.0}


@pytest.mark.parametrize('model', [ConvNeXt, ConvNeXtClassifier])
def test_initialization_is_the_authors(model):
    net = model('atto', layer_scale_init_value=0.25)
    before = copy.deepcopy(net.state_dict())
    net.init_weights()  # the Runner calls it
    norms = {name for name, m in net.named_modules() if isinstance(m, nn.LayerNorm)}
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
        owner, leaf = name.rpartition('.')[::2]
        if leaf == 'gamma':
            assert (tensor == 0.25).all()
        elif leaf == 'bias':
            assert (tensor == 0).all()
        elif owner in norms:
            assert (tensor == 1).all()
        else:
            # Five standard errors of a standard deviation estimated from so many numbers.
            tolerance = 5 * 0.02 / (2 * tensor.numel()) ** 0.5
            assert abs(tensor.std().item() - 0.02) < tolerance, name
            assert abs(tensor.mean().item()) < 5 * 0.02 / tensor.numel() ** 0.5, name


def test_layer_scale_of_zero_means_no_gamma(miniature):
    with_gamma = build(miniature)
    without = build(miniature, layer_scale_init_value=0)
    result = without.load_state_dict(with_gamma.state_dict(), strict=False)
    assert not result.missing_keys
    assert len(result.unexpected_keys) == 5
    assert all(key.endswith('.gamma') for key in result.unexpected_keys)
    x = torch.randn(1, 3, 64, 64)
    assert_close(without(x), with_gamma(x))


def test_authors_config_builds_unchanged():
    config = dict(
        type='ConvNeXt',
        in_chans=3,
        depths=[3, 3, 9, 3],
        dims=[96, 192, 384, 768],
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        out_indices=[0, 1, 2, 3],
    )
    with torch.device('meta'):
        net = MODELS.build(config)
    assert isinstance(net, ConvNeXt)
    assert net.variant == VARIANTS['tiny']
    assert blocks(net)[-1].drop_path.rate == 0.4


@pytest.mark.parametrize(
    'sizes',
    [
        dict(depths=[1, 2], dims=[4, 6]),
        dict(arch=dict(depths=(1, 2), dims=(4, 6))),
        dict(arch=ConfigDict(depths=[1, 2], dims=[4, 6])),
        dict(depths=[np.int64(1), np.int64(2)], dims=[4, 6]),
    ],
    ids=['authors', 'dict', 'ConfigDict', 'numpy'],
)
def test_sizes_are_accepted_in_every_form_and_not_changed(sizes):
    kwargs = dict(**sizes, out_indices=[-2, -1])
    before = copy.deepcopy(kwargs)
    net = ConvNeXt(**kwargs)
    assert kwargs == before
    assert shapes_of(net).items() >= authors_parameters((1, 2), (4, 6)).items()
    assert net.out_indices == (0, 1)


# Outputs


@pytest.mark.parametrize(
    ('out_indices', 'stages'),
    [
        (3, (3,)),
        (-1, (3,)),
        (-4, (0,)),
        ([0, 2], (0, 2)),
        ((1, -1), (1, 3)),
        ([-3, -2], (1, 2)),
        (np.int64(2), (2,)),
    ],
)
def test_out_indices_are_normalized(miniature, out_indices, stages):
    net = ConvNeXt(miniature, out_indices=out_indices)
    dims = miniature['dims']
    assert net.out_indices == stages
    assert net.out_channels == tuple(dims[i] for i in stages)
    assert net.out_strides == tuple(4 * 2**i for i in stages)
    maps = net(torch.randn(1, 3, 64, 64))
    assert isinstance(maps, tuple)
    assert [tuple(map_.shape) for map_ in maps] == [
        (1, dims[i], 16 // 2**i, 16 // 2**i) for i in stages
    ]


def test_a_subset_gives_the_same_maps_as_all(miniature):
    whole = build(miniature)
    x = torch.randn(1, 3, 64, 64)
    maps = whole(x)
    for subset in SUBSETS:
        net = build(miniature, out_indices=subset)
        net.load_state_dict(whole.state_dict(), strict=False)
        assert_close(net(x), tuple(maps[i] for i in subset))


@pytest.mark.parametrize('out_indices', SUBSETS)
def test_only_what_is_used_exists_and_all_of_it_gets_a_gradient(miniature, out_indices):
    net = build(miniature, out_indices=out_indices)
    assert [name for name, _ in net.named_children() if name.startswith('norm')] == [
        f'norm{i}' for i in out_indices
    ]
    assert len(net.stages) == len(net.downsample_layers) == out_indices[-1] + 1
    backward(net(torch.randn(2, 3, 64, 64)))
    for name, gradient in gradients(net).items():
        assert gradient is not None and gradient.abs().sum() > 0, name


@pytest.mark.parametrize('channels_last', [None, True, False])
@pytest.mark.parametrize('input_format', [torch.contiguous_format, torch.channels_last])
def test_maps_are_contiguous_whatever_the_layout(miniature, channels_last, input_format):
    net = build(miniature, channels_last=channels_last)
    x = torch.randn(2, 3, 64, 96)
    maps = net(x.contiguous(memory_format=input_format))
    for map_ in maps:
        n, c, h, w = map_.shape
        assert map_.stride() == (c * h * w, h * w, w, 1)
    net.channels_last = False
    assert_close(maps, net(x))


@pytest.mark.parametrize('channels_last', [True, False])
def test_layout_between_the_layers_is_the_one_asked_for(miniature, channels_last):
    net = build(miniature, channels_last=channels_last)
    seen = []
    for block in blocks(net):
        block.dwconv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(torch.randn(2, 3, 96, 96))
    formats = {torch.channels_last: channels_last, torch.contiguous_format: not channels_last}
    for memory_format, expected in formats.items():
        # The first block of a stage follows a convolution, which keeps the layout.
        assert seen[0].is_contiguous(memory_format=memory_format) == expected


@pytest.mark.parametrize('in_chans', [1, 4])
def test_other_numbers_of_input_channels(miniature, in_chans):
    net = ConvNeXt(miniature, in_chans=in_chans)
    expected = authors_parameters(miniature['depths'], miniature['dims'], in_chans)
    assert shapes_of(net).items() >= expected.items()
    assert net(torch.randn(1, in_chans, 32, 32))[3].shape == (1, 32, 1, 1)
    with pytest.raises(ValueError, match=rf'expected an input of {in_chans} channels.*in_chans=3'):
        net(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize(
    ('size', 'map_sizes'),
    [
        ((32, 32), [(8, 8), (4, 4), (2, 2), (1, 1)]),
        ((33, 47), [(8, 11), (4, 5), (2, 2), (1, 1)]),
        ((63, 95), [(15, 23), (7, 11), (3, 5), (1, 2)]),
        ((70, 34), [(17, 8), (8, 4), (4, 2), (2, 1)]),
    ],
)
def test_sizes_floor_and_the_rest_of_the_stem_is_ignored(miniature, size, map_sizes):
    net = build(miniature)
    height, width = size
    x = torch.randn(2, 3, height, width)
    maps = net(x)
    assert [tuple(map_.shape[2:]) for map_ in maps] == map_sizes
    assert_close(net(x[..., : height // 4 * 4, : width // 4 * 4]), maps)


def test_what_later_stages_drop_is_still_seen_by_the_stages_before(miniature):
    net = build(miniature)
    x = torch.randn(1, 3, 60, 64)  # stage 0 has 15 rows, stage 1 covers 14 of them
    changed = x.clone()
    changed[:, :, 56:] = 0
    for map_, other in zip(net(x), net(changed), strict=True):
        assert not torch.allclose(map_, other)


def test_classifier_takes_sizes_that_are_not_divisible(miniature):
    net = ConvNeXtClassifier(miniature, num_classes=5)
    x = torch.randn(2, 3, 63, 95)
    assert_close(net(x), net(x[..., :60, :92]))


def test_classifier_normalizes_the_pooled_map(miniature):
    net = ConvNeXtClassifier(miniature, num_classes=5, layer_scale_init_value=1.0)
    trunk = build(miniature, out_indices=3)
    trunk.load_state_dict(net.state_dict(), strict=False)
    trunk.norm3 = nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    (map_,) = trunk(x)
    pooled = map_.mean((2, 3))
    expected = net.head(
        (pooled - pooled.mean(1, keepdim=True))
        / (pooled.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    )
    assert_close(net(x), expected)


# Stochastic depth


def test_stochastic_depth_is_linear_over_all_blocks():
    with torch.device('meta'):
        rates = [block.drop_path.rate for block in blocks(ConvNeXt('tiny', drop_path_rate=0.4))]
        fewer = ConvNeXt('tiny', drop_path_rate=0.4, out_indices=(0, 1))
        classifier = ConvNeXtClassifier('tiny', drop_path_rate=0.4)
    assert rates == pytest.approx(np.linspace(0, 0.4, 18))
    # A stage that is not built leaves the rates of the others alone.
    assert [block.drop_path.rate for block in blocks(fewer)] == rates[:6]
    assert [block.drop_path.rate for block in blocks(classifier)] == rates


def test_stochastic_depth_of_a_single_block():
    assert (
        blocks(ConvNeXt(depths=[1], dims=[8], drop_path_rate=0.3, out_indices=0))[0].drop_path.rate
        == 0
    )


def test_drop_path_drops_whole_samples_and_keeps_the_expectation():
    layer = DropPath(0.3)
    x = torch.ones(20_000, 2, 3)
    dropped = layer(x)
    per_sample = dropped.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    kept = per_sample[:, 0] != 0
    assert_close(per_sample[kept], torch.full_like(per_sample[kept], 1 / 0.7))
    # Five standard errors: sqrt(0.3 * 0.7 / 20000) = 0.0032.
    assert abs(kept.float().mean().item() - 0.7) < 0.016
    layer.eval()
    assert torch.equal(layer(x), x)


def test_a_dropped_sample_is_its_shortcut(miniature):
    block = blocks(build(miniature, drop_path_rate=0.5))[-1]
    x = torch.randn(32, 32, 4, 4)
    branch = block.eval()(x) - x
    out = block.train()(x)
    dropped = torch.tensor([torch.equal(a, b) for a, b in zip(out, x, strict=True)])
    assert 0 < dropped.sum() < len(x)
    assert_close(out[~dropped], (x + branch / 0.5)[~dropped])


# Freezing and checkpointing


@pytest.mark.parametrize('frozen_stages', range(-1, 5))
def test_frozen_stages(miniature, frozen_stages):
    net = build(miniature, frozen_stages=frozen_stages, drop_path_rate=0.9)
    frozen = ['downsample_layers.0'] if frozen_stages >= 0 else []
    for i in range(frozen_stages):
        frozen += [f'downsample_layers.{i}', f'stages.{i}', f'norm{i}']

    def is_frozen(name):
        return any(name == prefix or name.startswith(f'{prefix}.') for prefix in frozen)

    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    assert net.train() is net
    for name, parameter in net.named_parameters():
        assert parameter.requires_grad != is_frozen(name), name
    # The containers of all stages are not themselves frozen.
    for name, module in net.named_modules():
        assert module.training != is_frozen(name), name

    # Stochastic depth is off inside: frozen maps are those of evaluation, at a rate of up to 0.9.
    x = torch.randn(16, 3, 32, 32)
    in_training = net(x)
    in_evaluation = net.eval()(x)
    for i in range(4):
        # The first block is never dropped.
        unchanged = i < max(frozen_stages, 1)
        assert torch.equal(in_training[i], in_evaluation[i]) == unchanged

    if frozen_stages < 4:
        backward(net.train()(x))
        for name, gradient in gradients(net).items():
            assert (gradient is None) == is_frozen(name), name


def test_frozen_stages_without_their_norms(miniature):
    net = build(miniature, frozen_stages=2, out_indices=(1, 3))
    assert not net.norm1.weight.requires_grad
    assert net.norm3.weight.requires_grad


@pytest.mark.parametrize('frozen_stages', [-1, 2])
@pytest.mark.parametrize('drop_path_rate', [0.0, 0.5])
def test_checkpointing_equals_plain(miniature, frozen_stages, drop_path_rate):
    kwargs = dict(frozen_stages=frozen_stages, drop_path_rate=drop_path_rate)
    plain = build(miniature, **kwargs).train()
    checkpointed = build(miniature, with_cp=True, **kwargs).train()
    checkpointed.load_state_dict(plain.state_dict())
    calls = []
    for block in blocks(checkpointed):
        block.dwconv.register_forward_hook(lambda *_: calls.append(1))

    results = []
    for net in (plain, checkpointed):
        x = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(3)).requires_grad_()
        torch.manual_seed(4)  # of stochastic depth
        maps = net(x)
        after_forward = len(calls)
        backward(maps)
        results.append((maps, x.grad, gradients(net)))
    assert_close(results[1], results[0])
    # Each block runs again in the backward pass, save those that keep nothing anyway.
    assert after_forward == 5
    assert len(calls) == 5 + (3 if frozen_stages == 2 else 5)

    calls.clear()
    with torch.no_grad():
        checkpointed(x)
    assert len(calls) == 5


# Precision


def test_autocast_computes_norms_in_fp32(miniature):
    net = build(miniature)
    outputs = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(
                lambda _, args, out, name=name: outputs.update({name: out.dtype})
            )
    inner = []
    blocks(net)[0].pwconv1.register_forward_hook(lambda _, args, out: inner.append(out.dtype))
    x = torch.randn(2, 3, 64, 64)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        maps = net(x)
    assert inner == [torch.bfloat16]  # autocast was on
    assert len(outputs) == 5 + 4 + 4
    assert set(outputs.values()) == {torch.float32}
    for map_, reference in zip(maps, net(x), strict=True):
        assert map_.dtype == torch.float32
        assert_close(map_, reference, atol=0.1, rtol=0)
    backward(maps)
    for name, gradient in gradients(net).items():
        assert gradient.dtype == torch.float32, name
        assert gradient.isfinite().all(), name


def test_double_precision(miniature):
    net = build(miniature)
    x = torch.randn(2, 3, 64, 64)
    single = net(x)
    double = net.double()(x.double())
    for a, b in zip(single, double, strict=True):
        assert b.dtype == torch.float64
        assert_close(a.double(), b, atol=1e-5, rtol=0)


# Copies, compilation, distribution


def test_copies_and_pickles_are_equal(miniature):
    net = build(miniature, frozen_stages=1, drop_path_rate=0.5)
    x = torch.randn(1, 3, 64, 64)
    expected = net.eval()(x)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert_close(other(x), expected)
        assert other.train().stages[1].training
        assert not other.stages[0].training
        with torch.no_grad():
            other.norm0.bias.add_(1)
    assert_close(net(x), expected)


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(('channels_last', 'training'), [(True, True), (False, False)])
def test_compiles_without_graph_break(miniature, fresh_dynamo, channels_last, training):
    net = build(miniature, channels_last=channels_last, drop_path_rate=0.1).train(training)
    x = torch.randn(2, 3, 64, 64)
    explanation = torch._dynamo.explain(net)(x)
    assert explanation.graph_break_count == 0
    assert explanation.graph_count == 1


@pytest.mark.parametrize('with_cp', [True, False])
def test_compiled_equals_eager(miniature, fresh_dynamo, with_cp):
    net = build(miniature, with_cp=with_cp)
    compiled = torch.compile(net, backend='aot_eager', fullgraph=True)
    x = torch.randn(2, 3, 64, 64)
    results = []
    for forward in (net, compiled):
        net.zero_grad(set_to_none=True)
        maps = forward(x)
        backward(maps)
        results.append((maps, gradients(net)))
    assert_close(results[1], results[0])
    assert all(map_.is_contiguous() for map_ in results[1][0])


def test_compiles_once_for_all_sizes(miniature, fresh_dynamo):
    net = build(miniature)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(net, backend=backend, fullgraph=True, dynamic=True)
    for size in ((2, 3, 64, 96), (3, 3, 95, 127), (4, 3, 128, 64)):
        x = torch.randn(size)
        assert_close(compiled(x), net(x))
    assert len(graphs) == 1


@pytest.mark.slow
def test_inductor_equals_eager(miniature, fresh_dynamo):
    net = build(miniature).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        compiled = torch.compile(net, fullgraph=True)(x)
        assert_close(compiled, net(x), atol=1e-5, rtol=1e-5)


@pytest.fixture
def process_group(tmp_path):
    rendezvous = (tmp_path / 'rendezvous').as_uri()
    dist.init_process_group('gloo', init_method=rendezvous, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


# A remark on speed: depthwise weights of one channel have two equal ways to be laid out.
@pytest.mark.filterwarnings('ignore:Grad strides do not match bucket view strides')
def test_distributed_training_has_no_unused_parameters(miniature, process_group):
    x = torch.randn(1, 3, 32, 32)
    for subset in SUBSETS:
        net = build(miniature, out_indices=subset, frozen_stages=1 if subset[-1] > 0 else -1)
        model = DistributedDataParallel(net)
        for _ in range(2):  # the second step is the one that complains
            backward(model(x))
        for name, parameter in net.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, (subset, name)


# Layers


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_layer_norm_2d_is_the_authors_formula(memory_format):
    norm = LayerNorm2d(6, eps=1e-6)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-1, 1)
    # The variance is about eps, so that eps and the biased variance show.
    x = (1e-3 * torch.randn(2, 6, 5, 7)).contiguous(memory_format=memory_format)
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    expected = (x - mean) / torch.sqrt(variance + 1e-6)
    expected = norm.weight[:, None, None] * expected + norm.bias[:, None, None]
    out = norm(x)
    assert_close(out, expected)
    assert out.is_contiguous(memory_format=memory_format)


def test_norms_have_the_authors_eps(miniature):
    nets = (ConvNeXt(miniature), ConvNeXtClassifier(miniature))
    norms = [m for net in nets for m in net.modules() if isinstance(m, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    assert all(isinstance(norm, LayerNorm) for norm in norms)


@pytest.mark.parametrize('convolution', [True, False])
def test_pointwise_linear_is_linear(monkeypatch, convolution):
    monkeypatch.setattr('convnext_backbones.models.layers.HAS_AVX512', convolution)
    reference = nn.Linear(6, 10)
    layer = PointwiseLinear(6, 10)
    layer.load_state_dict(reference.state_dict())
    results = []
    for module in (reference, layer):
        x = torch.randn(2, 5, 7, 6, generator=torch.Generator().manual_seed(3)).requires_grad_()
        y = module(x)
        backward([y])
        results.append((y, x.grad, gradients(module)))
    assert_close(results[1], results[0])


# Refusals

SIZES = dict(depths=[1, 1], dims=[4, 8])


@pytest.mark.parametrize(
    ('kwargs', 'error', 'message'),
    [
        (dict(arch='tinny'), ValueError, "one of atto, .*xlarge, got 'tinny'; did you mean 'tiny'"),
        (dict(arch='convnext_base'), ValueError, "did you mean 'base'"),
        (dict(arch='resnet50'), ValueError, "got 'resnet50'; or give a dict of depths and dims"),
        (dict(arch=5), TypeError, 'a name or a dict with depths and dims, got 5 of type int'),
        (dict(arch=dict(depths=[1])), ValueError, r"keys 'depths' and 'dims', got \['depths'\]"),
        (
            dict(arch=dict(depths=[1], channels=[4])),
            ValueError,
            r"got \['channels', 'depths'\]; for example",
        ),
        (dict(arch='tiny', depths=[1, 1]), ValueError, 'either arch or depths and dims'),
        (dict(arch='tiny', dims=[4, 8]), ValueError, 'leave one of the two out'),
        (dict(depths=[1, 1, 1], dims=[4, 8]), ValueError, 'same length.*3 depths .* and 2 dims'),
        (dict(depths=[1, 1]), ValueError, '2 depths .* and 4 dims'),
        (dict(depths=3), TypeError, 'depths to be a list or tuple of integers.*got 3 of type int'),
        (dict(dims='abc'), TypeError, "dims to be a list or tuple.*got 'abc' of type str"),
        (dict(depths=[1, 1.0], dims=[4, 8]), TypeError, 'depths to hold integers only, got 1.0'),
        (dict(depths=[1, True], dims=[4, 8]), TypeError, 'depths to hold integers only, got True'),
        (dict(depths=[1, 0], dims=[4, 8]), ValueError, r'none below 1, got \[1, 0\]'),
        (dict(depths=[], dims=[]), ValueError, r'depths to hold at least one integer.*got \[\]'),
        (dict(depths=[1] * 17), ValueError, 'depths of at most 16 stages, got 17'),
        (dict(depths=[1, 1001], dims=[4, 8]), ValueError, r'of at most 1000, got \[1, 1001\]'),
        (dict(depths=[1, 1], dims=[4, 10**12]), ValueError, r'dims of at most 20000, got \[4, 1'),
        (dict(in_chans=0), ValueError, 'in_chans to be an integer from 1 to 20000, got 0'),
        (dict(in_chans=3.0), TypeError, 'in_chans to be an integer.*got 3.0 of type float'),
        (dict(drop_path_rate=1.0), ValueError, r'drop_path_rate in \[0, 1\), got 1.0; the paper'),
        (dict(drop_path_rate=-0.1), ValueError, r'drop_path_rate in \[0, 1\), got -0.1'),
        (dict(drop_path_rate=float('nan')), ValueError, 'drop_path_rate to be a finite number'),
        (dict(drop_path_rate=10**400), ValueError, 'drop_path_rate to be a finite number'),
        (dict(drop_path_rate='0.1'), TypeError, "drop_path_rate to be a number, got '0.1' of type"),
        (dict(layer_scale_init_value=None), TypeError, 'layer_scale_init_value to be a number'),
        (dict(layer_scale_init_value=float('inf')), ValueError, 'finite number, got inf'),
        (dict(layer_scale_init_value=1e39), ValueError, r'finite number, got 1e\+39'),
        (dict(out_indices=2), ValueError, 'out_indices to be an integer from -2 to 1, got 2'),
        (
            dict(out_indices=(-3, 1)),
            ValueError,
            'out_indices to be an integer from -2 to 1, got -3',
        ),
        (dict(out_indices=(1, 0)), ValueError, r'increasing order.*try \(0, 1\)'),
        (dict(out_indices=(0, -2)), ValueError, r'means the stages \(0, 0\); try \(0,\)'),
        (dict(out_indices=()), ValueError, r'at least one index in out_indices, got none'),
        (dict(out_indices='01'), TypeError, "out_indices to be an int or a list of ints, got '01'"),
        (dict(out_indices={0, 1}), TypeError, 'out_indices to be an int or a list.*type set'),
        (dict(out_indices=(0, 1.0)), TypeError, 'each of out_indices .*got 1.0 of type float'),
        (dict(out_indices=True), TypeError, 'out_indices.*got True'),
        (dict(frozen_stages=-2), ValueError, 'frozen_stages to be an integer from -1 to 2, got -2'),
        (dict(frozen_stages=3), ValueError, 'frozen_stages to be an integer from -1 to 2, got 3'),
        (dict(frozen_stages=None), TypeError, 'frozen_stages to be an integer .*type NoneType'),
        (dict(with_cp=1), TypeError, 'with_cp to be True or False, got 1 of type int'),
        (dict(channels_last='yes'), TypeError, "channels_last to be True or False, got 'yes'"),
        (dict(pretrained='a.pth'), ValueError, "pretrained=None, got 'a.pth'; .*init_cfg=dict"),
        (dict(init_cfg='a.pth'), TypeError, "a dict with a type or a list.*got 'a.pth'"),
        (dict(init_cfg=[dict(std=1)]), TypeError, r"a dict with a type.*got \[\{'std': 1\}\]"),
    ],
)
def test_bad_arguments_are_refused(kwargs, error, message):
    sizes = {} if {'arch', 'depths', 'dims'} & set(kwargs) else SIZES
    with pytest.raises(error, match=message):
        ConvNeXt(**{'out_indices': -1, **sizes, **kwargs})


def test_every_refusal_says_what_was_expected_and_what_came():
    mark = next(m for m in test_bad_arguments_are_refused.pytestmark if m.name == 'parametrize')
    for kwargs, error, _ in mark.args[1]:
        sizes = {} if {'arch', 'depths', 'dims'} & set(kwargs) else SIZES
        with pytest.raises(error) as raised:
            ConvNeXt(**{'out_indices': -1, **sizes, **kwargs})
        assert re.match(r'expected .* got ', str(raised.value), re.DOTALL), raised.value


@pytest.mark.parametrize(
    ('kwargs', 'error', 'message'),
    [
        (dict(num_classes=0), ValueError, 'num_classes to be an integer of at least 1, got 0'),
        (dict(num_classes='10'), TypeError, "num_classes to be an integer.*got '10' of type str"),
        (dict(arch='tinny'), ValueError, "did you mean 'tiny'"),
        (dict(drop_path_rate=2), ValueError, r'drop_path_rate in \[0, 1\), got 2'),
    ],
)
def test_bad_arguments_of_the_classifier_are_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        ConvNeXtClassifier(**kwargs)


@pytest.mark.parametrize('model', [ConvNeXt, ConvNeXtClassifier])
@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((3, 64, 64), r'shape \(N, 3, H, W\), got 3 dimensions: \(3, 64, 64\); add the batch'),
        ((1, 1, 3, 64, 64), r'got 5 dimensions'),
        ((1, 4, 64, 64), r'3 channels, .*got \(1, 4, 64, 64\); set in_chans=4'),
        ((1, 64, 64, 3), r'3 channels, .*or check the channel order'),
        ((1, 3, 31, 64), r'at least 32 x 32 pixels.*got 31 x 64; resize or pad'),
        ((1, 3, 64, 16), r'at least 32 x 32 pixels.*got 64 x 16'),
    ],
)
def test_bad_inputs_are_refused(miniature, model, shape, message):
    with pytest.raises(ValueError, match=message):
        model(miniature)(torch.randn(shape))


@pytest.mark.parametrize('model', [ConvNeXt, ConvNeXtClassifier])
@pytest.mark.parametrize(
    ('x', 'message'),
    [
        (None, 'expected a tensor of shape .*got NoneType'),
        (np.zeros((1, 3, 32, 32)), 'expected a tensor of shape .*got ndarray'),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), r'input of torch.float32.*got torch.uint8'),
        (torch.zeros(1, 3, 32, 32).double(), r'got torch.float64; convert it with x.to'),
    ],
    ids=['None', 'array', 'bytes', 'double'],
)
def test_inputs_of_the_wrong_type_are_refused(miniature, model, x, message):
    with pytest.raises(TypeError, match=message):
        model(miniature)(x)


def test_a_rate_may_be_a_fraction(miniature):
    net = ConvNeXt(miniature, drop_path_rate=Fraction(1, 3))
    assert 'rate=0.3333' in repr(net)
    assert net(torch.randn(1, 3, 32, 32))[0].isfinite().all()


def test_smallest_input_is_the_stride_of_the_last_stage_built(miniature):
    net = ConvNeXt(miniature, out_indices=(0, 1))
    assert net(torch.randn(1, 3, 8, 8))[1].shape == (1, 16, 1, 1)
    with pytest.raises(ValueError, match='at least 8 x 8 pixels'):
        net(torch.randn(1, 3, 7, 8))
