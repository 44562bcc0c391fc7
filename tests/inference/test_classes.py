"""Subclasses of backbone and block: fast where that computes the same, and still themselves."""

import copy
import io
import pickle

import pytest
import torch
from mmengine.logging import MMLogger
from support.backbones import assert_same_maps, needs_fast_bf16, scrambled
from torch import nn
from torch.nn.utils import parametrizations

from convnext_backbones import ConvNeXt
from convnext_backbones.inference import backbone, classes
from convnext_backbones.inference.backbone import InferenceConvNeXt
from convnext_backbones.inference.block import InferenceBlock
from convnext_backbones.inference.optimize import optimize_for_inference
from convnext_backbones.models.block import Block
from convnext_backbones.models.layers import LayerNorm2d

ARCH = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))


class Tagged(ConvNeXt):
    """Has an attribute, a method and a buffer more."""

    def __init__(self, *args, tag='', **kwargs):
        super().__init__(*args, **kwargs)
        self.tag = tag
        self.register_buffer('mean', torch.ones(3))

    def describe(self):
        return f'{self.tag} {super().extra_repr()}'.strip()

    def extra_repr(self):
        return f'tag={self.tag}'


class Doubled(ConvNeXt):
    """Overrides forward."""

    def forward(self, x):
        return tuple(2 * map_ for map_ in super().forward(x))


class Noting(ConvNeXt):
    """Overrides how blocks are run."""

    def _run_block(self, block, x):
        return 0.5 * super()._run_block(block, x)


class Clashing(ConvNeXt):
    """Has a method of a name that the fast form uses for something else."""

    def _output(self):
        return 'mine'


class ReluBlock(Block):
    """Another activation: the same forward method, another layer."""

    def __init__(self, dim):
        super().__init__(dim, 0.0, 1.0)
        self.act = nn.ReLU()


class TanhBlock(Block):
    def __init__(self, dim):
        super().__init__(dim, 0.0, 1.0)
        self.act = nn.GELU('tanh')


class GatedBlock(Block):
    """One more parameter, which its forward method uses."""

    def __init__(self, dim):
        super().__init__(dim, 0.0, 1.0)
        self.gate = nn.Parameter(torch.full((1, dim, 1, 1), 0.7))

    def forward(self, x):
        return self.gate * super().forward(x)


class IdleBlock(Block):
    """One more parameter and attribute, which nothing uses."""

    def __init__(self, dim):
        super().__init__(dim, 0.0, 1.0)
        self.idle = nn.Parameter(torch.ones(3))
        self.label = f'of {dim}'


class DilatedBlock(Block):
    def __init__(self, dim):
        super().__init__(dim, 0.0, 1.0)
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=6, dilation=2, groups=dim)


class NarrowBlock(Block):
    """Two hidden channels for one, which the fast form can do."""

    def __init__(self, dim):
        super().__init__(dim, 0.0, 1.0)
        self.pwconv1 = nn.Linear(dim, 2 * dim)
        self.pwconv2 = nn.Linear(2 * dim, dim)


class UnbiasedBlock(Block):
    def __init__(self, dim):
        super().__init__(dim, 0.0, 1.0)
        self.pwconv2 = nn.Linear(4 * dim, dim, bias=False)


class ContractingBlock(Block):
    def _contract(self, x):
        return super()._contract(x) / 3


class ForgetfulBlock(Block):
    """Returns its input, which the next block must not change in place."""

    def forward(self, x):
        self.seen, self.before = x, x.clone()
        return x


FAST_BLOCKS = [Block, IdleBlock, NarrowBlock]
OTHER_BLOCKS = [
    ReluBlock,
    TanhBlock,
    GatedBlock,
    DilatedBlock,
    UnbiasedBlock,
    ContractingBlock,
    ForgetfulBlock,
]


def network(kind=ConvNeXt, block=Block, stage=2, **kwargs):
    """A backbone with a block of another class as the first one of a stage."""
    net = kind(ARCH, layer_scale_init_value=1.0, **kwargs)
    dim = ARCH['dims'][stage]
    if block is ContractingBlock or block is ForgetfulBlock:
        net.stages[stage][0] = block(dim, 0.0, 1.0)
    elif block is not Block:
        net.stages[stage][0] = block(dim)
    return scrambled(net)


def fast_blocks(net):
    blocks = [module for module in net.modules() if isinstance(module, Block)]
    return sum(isinstance(block, InferenceBlock) for block in blocks)


@torch.no_grad()
def check(net, dtype=None):
    """The fast copy computes what ``net`` does; returns it."""
    fast = optimize_for_inference(net, dtype=dtype)
    for size in ((2, 3, 64, 96), (1, 3, 33, 63), (0, 3, 32, 32)):
        x = torch.randn(size)
        expected = net(x)
        assert_same_maps(fast(x), expected)
        if isinstance(net, ConvNeXt):
            assert all(map_.is_contiguous() for map_ in fast(x))
    return fast


# Backbones


def test_a_subclass_with_attributes_is_fast_and_still_itself():
    net = network(Tagged, tag='mine')
    fast = check(net)
    assert isinstance(fast, Tagged) and isinstance(fast, InferenceConvNeXt)
    assert fast.tag == 'mine' and fast.describe() == net.describe()
    assert fast_blocks(fast) == 5
    assert repr(fast).startswith('InferenceTagged(\n  tag=mine\n')
    assert list(fast.state_dict()) == list(net.state_dict())
    assert type(net) is Tagged and fast_blocks(net) == 0
    # The class is made once.
    assert type(optimize_for_inference(net)) is type(fast) is type(optimize_for_inference(fast))


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = dict(
    deepcopy=copy.deepcopy,
    copy=copy.copy,
    pickle=lambda model: pickle.loads(pickle.dumps(model)),
    save=saved_and_loaded,
    optimize=optimize_for_inference,
)


@pytest.mark.parametrize('copied', COPIES.values(), ids=COPIES)
def test_copies_and_pickles_of_subclasses(copied):
    net = network(Tagged, IdleBlock, tag='mine')
    fast = optimize_for_inference(net)
    x = torch.randn(1, 3, 64, 64)
    fast(x)  # packs weights, which can neither be copied nor saved
    other = copied(fast)
    assert type(other) is type(fast) and type(other.stages[2][0]) is type(fast.stages[2][0])
    assert other.tag == 'mine' and other.stages[2][0].label == 'of 24'
    assert_same_maps(other(x), net(x))


def test_pickles_are_read_by_a_process_that_has_made_no_class(monkeypatch):
    data = pickle.dumps(optimize_for_inference(network(Tagged, tag='mine')))
    monkeypatch.setattr(classes, '_MADE', {})
    fast = pickle.loads(data)
    assert isinstance(fast, Tagged) and isinstance(fast, InferenceConvNeXt)
    assert fast.tag == 'mine' and fast_blocks(fast) == 5


@pytest.mark.parametrize('kind', [Doubled, Noting, Clashing])
def test_a_subclass_that_computes_in_its_own_way_keeps_it(kind):
    fast = check(network(kind))
    assert type(fast) is kind
    assert fast_blocks(fast) == 5
    assert kind is not Clashing or fast._output() == 'mine'


def test_a_forward_of_the_instance_is_kept():
    net = network()
    net.forward = lambda x: (x,)
    assert type(optimize_for_inference(net)) is ConvNeXt
    block = Block(8, 0.0, 1.0)
    block.forward = lambda x: x
    assert not InferenceBlock.computes(block)


def test_what_is_kept_is_logged(caplog, monkeypatch):
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr('convnext_backbones.inference.optimize.bf16_is_fast', lambda: True)
    logger.addHandler(caplog.handler)
    try:
        fast = check(network(Doubled), dtype=torch.bfloat16)  # to rounding of fp32
    finally:
        logger.removeHandler(caplog.handler)
    assert type(fast) is Doubled
    (record,) = caplog.records
    assert record.levelname == 'WARNING'
    assert record.message.startswith('Doubled overrides how ConvNeXt computes its maps')


# Blocks


@pytest.mark.parametrize('block', FAST_BLOCKS)
def test_blocks_with_the_same_layers_are_fast(block):
    fast = check(network(block=block))
    assert type(fast) is InferenceConvNeXt and fast_blocks(fast) == 5
    first = fast.stages[2][0]
    assert isinstance(first, block)
    assert block is Block or repr(first).startswith(f'Inference{block.__name__}(')
    assert block is not IdleBlock or first.label == 'of 24'


@pytest.mark.parametrize('stage', [0, 2])
@pytest.mark.parametrize('block', OTHER_BLOCKS)
def test_other_blocks_compute_as_before_between_fast_ones(block, stage):
    fast = check(network(block=block, stage=stage))
    assert type(fast) is InferenceConvNeXt and fast_blocks(fast) == 4
    assert type(fast.stages[stage][0]) is block


@pytest.mark.parametrize('block', [Block, GatedBlock, ReluBlock])
def test_own_blocks_in_an_own_backbone(block):
    fast = check(network(Doubled, block))
    assert fast_blocks(fast) == (5 if block is Block else 4)


def test_an_input_that_a_block_keeps_is_not_changed():
    fast = optimize_for_inference(network(block=ForgetfulBlock))
    fast(torch.randn(1, 3, 64, 64))
    block = fast.stages[2][0]
    assert torch.equal(block.seen, block.before)


@torch.no_grad()
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_a_fast_block_by_itself(layout):
    net = network()
    block = net.stages[1][0]
    fast = optimize_for_inference(net).stages[1][0]
    x = torch.randn(2, 16, 9, 14).contiguous(memory_format=layout)
    before = x.clone()
    y = fast(x)
    assert_same_maps([y], [block(x)])
    assert torch.equal(x, before) and y.is_contiguous(memory_format=layout)
    assert_same_maps([fast(x[:0])], [block(x[:0])])
    for wrong in (torch.randn(2, 15, 9, 14), torch.randn(16, 9, 14)):
        with pytest.raises(RuntimeError):
            fast(wrong)


def test_layers_of_their_own_kind_compute_in_fp32_between_those_in_bf16():
    types = []

    class Layer(nn.Module):
        def forward(self, x):
            types.append(x.dtype)
            return x

    x = torch.randn(2, 3, 4, 5).bfloat16().contiguous(memory_format=torch.channels_last)
    y = backbone.run_unchanged(Layer(), x)
    assert types == [torch.float32] and torch.equal(y, x) and y.data_ptr() != x.data_ptr()
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)


@needs_fast_bf16
def test_own_blocks_between_those_in_bf16():
    net = network(block=GatedBlock)
    x = torch.randn(1, 3, 64, 64)
    fast = optimize_for_inference(net, dtype=torch.bfloat16)
    for actual, expected in zip(fast(x), net(x), strict=True):
        assert actual.dtype == torch.float32
        assert (actual - expected).abs().max() < 0.03 * expected.abs().max()


# Layers and hooks


def test_other_stems_downsampling_layers_and_norms_compute_as_before():
    net = network()
    net.downsample_layers[0] = nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=4, padding=3), LayerNorm2d(8, eps=1e-6)
    )
    net.downsample_layers[1][1] = nn.Conv2d(8, 16, 2, stride=2, bias=False)
    net.downsample_layers[2] = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(16, 24, 1), nn.ReLU())
    net.norm0 = nn.Identity()
    net.norm2 = nn.GroupNorm(2, 24)
    fast = check(scrambled(net))
    assert type(fast) is InferenceConvNeXt and fast_blocks(fast) == 5


def test_parametrized_weights_are_computed():
    net = network()
    parametrizations.weight_norm(net.stages[2][0].pwconv1)
    parametrizations.weight_norm(net.downsample_layers[1][1])
    with torch.no_grad():
        net.stages[2][0].pwconv1.parametrizations.weight.original0.mul_(3)
    check(net)


def test_hooks_run():
    """On a block, on a layer of another one, on downsampling layers and on an output norm."""
    net = network()

    def double(module, args, output):
        calls.append(type(module))
        return 2 * output

    net.stages[0][0].register_forward_hook(double)
    net.stages[2][1].norm.register_forward_hook(double)
    net.downsample_layers[2].register_forward_hook(double)
    net.norm3.register_forward_hook(double)
    calls = []
    fast = optimize_for_inference(net)
    x = torch.randn(2, 3, 64, 96)
    maps, names = [], []
    for model in (net, fast):
        calls.clear()
        with torch.no_grad():
            maps.append(model(x))
        names.append([kind.__name__.removeprefix('Inference') for kind in calls])
    assert_same_maps(maps[1], maps[0])
    assert names[0] == names[1] == ['Block', 'Sequential', 'LayerNorm', 'LayerNorm2d']


def test_a_layer_exchanged_after_optimization_is_seen_by_the_next():
    net = network()
    fast = optimize_for_inference(net)
    fast.stages[1][0].act = nn.ReLU()
    net.stages[1][0].act = nn.ReLU()
    again = optimize_for_inference(fast)
    assert fast_blocks(again) == 4
    x = torch.randn(1, 3, 64, 64)
    assert_same_maps(again(x), net(x))


# In a network


def test_in_a_detector_like_module():
    class Detector(nn.Module):
        def __init__(self, backbone):
            super().__init__()
            self.backbone = backbone

        def forward(self, x):
            return [map_ + 1 for map_ in self.backbone(x)]

    model = Detector(network(Tagged, GatedBlock, tag='mine')).eval()
    fast = check(model)
    assert isinstance(fast.backbone, Tagged) and fast_blocks(fast) == 4
