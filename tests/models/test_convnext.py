"""The contract of the backbone, and maps and logits of the classifier."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support.backbones import (
    SUBSETS,
    assert_same_maps,
    authors_parameters,
    backward,
    blocks,
    build,
    gradients,
    shapes_of,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from convnext_backbones import ConvNeXt, ConvNeXtClassifier

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


def test_classifier_normalizes_positions_first_where_asked(miniature):
    net = ConvNeXtClassifier(miniature, num_classes=5, head_norm_first=True)
    trunk = build(miniature, out_indices=3, layer_scale_init_value=1e-6)
    trunk.load_state_dict(net.state_dict(), strict=False)
    x = torch.randn(2, 3, 64, 64)
    assert_close(net(x), net.head(trunk(x)[0].mean((2, 3))))


def test_classifier_without_classes_gives_the_pooled_features(miniature):
    net = ConvNeXtClassifier(miniature, num_classes=0).eval()
    whole = ConvNeXtClassifier(miniature, num_classes=5).eval()
    assert not [name for name in net.state_dict() if name.startswith('head')]
    net.load_state_dict(whole.state_dict(), strict=False)
    x = torch.randn(2, 3, 64, 64)
    assert net(x).shape == (2, 32)
    assert_close(whole.head(net(x)), whole(x))


def test_classifier_with_a_hidden_layer_and_dropout(miniature):
    net = ConvNeXtClassifier(miniature, num_classes=5, head_hidden_size=11, dropout=0.5)
    features = ConvNeXtClassifier(miniature, num_classes=0)
    features.load_state_dict(net.state_dict(), strict=False)
    x = torch.randn(2, 3, 64, 64)
    expected = net.head(nn.functional.gelu(net.pre_logits(features(x))))
    assert net.pre_logits.weight.shape == (11, 32) and net.head.weight.shape == (5, 11)
    assert not torch.allclose(net(x), expected)
    assert_close(net.eval()(x), expected)


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


@pytest.mark.parametrize('use_grn', [False, True])
@pytest.mark.parametrize('form', [{}, dict(with_cp=True), dict(memory_efficient=True)], ids=str)
def test_a_frozen_backbone_is_used_as_it_is(miniature, use_grn, form):
    """DINOv3's use: trained neck and heads on features that do not change, at no cost."""
    net = build(miniature, frozen_stages=4, drop_path_rate=0.9, use_grn=use_grn, **form)
    head = nn.Conv2d(32, 1, 1)
    model = nn.ModuleList([net, head]).train()
    x = torch.randn(8, 3, 64, 64)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
    ):
        maps = net(x)
    assert not saved and not any(map_.requires_grad for map_ in maps)
    assert all(map(torch.equal, maps, net(x)))  # no stochastic depth
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1.0)
    head(maps[3]).square().sum().backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert sum(len(group['params']) for group in optimizer.param_groups) == 2


def test_frozen_stages_without_their_norms(miniature):
    net = build(miniature, frozen_stages=2, out_indices=(1, 3))
    assert not net.norm1.weight.requires_grad
    assert net.norm3.weight.requires_grad


@pytest.mark.parametrize('frozen_stages', [-1, 2])
@pytest.mark.parametrize('drop_path_rate', [0.0, 0.5])
@pytest.mark.parametrize('use_grn', [False, True])
def test_checkpointing_equals_plain(miniature, frozen_stages, drop_path_rate, use_grn):
    kwargs = dict(frozen_stages=frozen_stages, drop_path_rate=drop_path_rate, use_grn=use_grn)
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
@pytest.mark.parametrize('use_grn', [False, True])
def test_compiles_without_graph_break(miniature, fresh_dynamo, channels_last, training, use_grn):
    net = build(miniature, channels_last=channels_last, drop_path_rate=0.1, use_grn=use_grn)
    net.train(training)
    x = torch.randn(2, 3, 64, 64)
    explanation = torch._dynamo.explain(net)(x)
    assert explanation.graph_break_count == 0
    assert explanation.graph_count == 1


@pytest.mark.parametrize(
    'kwargs', [dict(with_cp=True), dict(with_cp=False), dict(use_grn=True)], ids=str
)
def test_compiled_equals_eager(miniature, fresh_dynamo, kwargs):
    net = build(miniature, **kwargs)
    compiled = torch.compile(net, backend='aot_eager', fullgraph=True)
    x = torch.randn(2, 3, 64, 64)
    results = []
    for forward in (net, compiled):
        net.zero_grad(set_to_none=True)
        maps = forward(x)
        backward(maps)
        results.append([*maps, *gradients(net).values()])
    assert_same_maps(results[1], results[0])
    assert all(map_.is_contiguous() for map_ in results[1][:4])


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
