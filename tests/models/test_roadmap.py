"""Every step of the road runs, and its two ends are ResNet and ConvNeXt."""

import pytest
import torch
from mmdet.models import ResNet
from support.backbones import assert_same_maps, scrambled, shapes_of
from torch import nn
from torch.testing import assert_close

from convnext_backbones import ConvNeXt, ConvNeXtClassifier, RoadmapClassifier, RoadmapNet
from convnext_backbones.models.layers import LayerNorm2d
from convnext_backbones.models.roadmap import as_convnext
from convnext_backbones.models.roadmap_block import RoadmapBlock
from convnext_backbones.models.roadmap_steps import STEPS, find_sizes

SMALL = dict(width_factor=1 / 16)
NAMES = list(STEPS)


def on_meta(build, *args, **options):
    with torch.device('meta'):
        return build(*args, **options)


# --- the first step -------------------------------------------------------------------------


def torchvisions_shapes(depths, width, classes):
    """Names and shapes of what torchvision's ResNet holds, from its structure."""

    def norm(name, channels):
        names = ('weight', 'bias', 'running_mean', 'running_var')
        return {**{f'{name}.{n}': (channels,) for n in names}, f'{name}.num_batches_tracked': ()}

    shapes = {'conv1.weight': (width, 3, 7, 7), **norm('bn1', width)}
    channels = width
    for stage, depth in enumerate(depths):
        dim = width * 2**stage
        for block in range(depth):
            at = f'layer{stage + 1}.{block}'
            shapes[f'{at}.conv1.weight'] = (dim, channels, 1, 1)
            shapes |= norm(f'{at}.bn1', dim)
            shapes[f'{at}.conv2.weight'] = (dim, dim, 3, 3)
            shapes |= norm(f'{at}.bn2', dim)
            shapes[f'{at}.conv3.weight'] = (4 * dim, dim, 1, 1)
            shapes |= norm(f'{at}.bn3', 4 * dim)
            if block == 0:
                shapes[f'{at}.downsample.0.weight'] = (4 * dim, channels, 1, 1)
                shapes |= norm(f'{at}.downsample.1', 4 * dim)
            channels = 4 * dim
    return {**shapes, 'fc.weight': (classes, channels), 'fc.bias': (classes,)}


@pytest.mark.parametrize(
    ('regime', 'depths', 'parameters'),
    [('T', (3, 4, 6, 3), 25_557_032), ('B', (3, 24, 36, 3), 64_673_832)],
)
def test_the_first_step_has_torchvisions_names_and_shapes(regime, depths, parameters):
    net = on_meta(RoadmapClassifier, 'resnet', regime)
    expected = torchvisions_shapes(depths, 64, 1000)
    assert shapes_of(net) == expected and list(net.state_dict()) == list(expected)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


@pytest.mark.parametrize('training', [False, True])
def test_the_first_step_computes_what_mmdets_resnet_does(training):
    peer = ResNet(50, norm_eval=False, style='pytorch').double()
    ours = RoadmapNet('resnet').double()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    peer.train(), peer(images)  # the statistics of the norms are no longer the initial ones
    ours.load_state_dict(peer.state_dict())
    peer.train(training), ours.train(training)
    assert_same_maps(ours(images), peer(images))


# --- the last step --------------------------------------------------------------------------


@pytest.mark.parametrize('regime', 'TB')
def test_the_last_step_has_the_names_and_shapes_of_convnext(regime):
    arch = {'T': 'tiny', 'B': 'base'}[regime]
    for kind, peer in ((RoadmapNet, ConvNeXt), (RoadmapClassifier, ConvNeXtClassifier)):
        ours, convnext = on_meta(kind, 'convnext', regime), on_meta(peer, arch)
        assert shapes_of(ours) == shapes_of(convnext)
        assert list(ours.state_dict()) == list(convnext.state_dict())


def test_the_last_step_computes_what_convnext_does():
    images = torch.randn(2, 3, 70, 101)
    sizes = find_sizes('convnext', **SMALL)
    peer = scrambled(ConvNeXt(depths=sizes.depths, dims=sizes.dims))
    ours = RoadmapNet('convnext', **SMALL).eval()
    ours.load_state_dict(peer.state_dict())
    for expected, found in zip(peer(images), ours(images), strict=True):
        assert torch.equal(expected, found)
    peer = scrambled(ConvNeXtClassifier(depths=sizes.depths, dims=sizes.dims, num_classes=7))
    ours = RoadmapClassifier('convnext', num_classes=7, **SMALL).eval()
    ours.load_state_dict(peer.state_dict())
    assert torch.equal(peer(images), ours(images))


def test_stochastic_depth_is_that_of_convnext():
    peer, ours = ConvNeXt('atto', drop_path_rate=0.4), RoadmapNet('gelu', drop_path_rate=0.4)
    for net, blocks in ((peer, 12), (ours, 18)):
        rates = [m.rate for m in net.modules() if type(m).__name__ == 'DropPath']
        assert_close(rates, [0.4 * i / (blocks - 1) for i in range(blocks)])
    last, convnext = RoadmapNet(16, drop_path_rate=0.4), ConvNeXt('tiny', drop_path_rate=0.4)
    for a, b in zip(last.modules(), convnext.modules(), strict=False):
        assert getattr(a, 'rate', None) == getattr(b, 'rate', None)


def test_the_convnext_of_the_last_step_shares_its_modules():
    for net, peer in ((RoadmapNet(16, out_indices=(1, 3)), ConvNeXt),
                      (RoadmapClassifier(16, num_classes=5), ConvNeXtClassifier)):  # fmt: skip
        twin = as_convnext(net)
        assert type(twin) is peer
        assert dict(twin.named_parameters()).keys() == dict(net.named_parameters()).keys()
        assert all(a is b for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    with pytest.raises(ValueError, match='no weights are published for the steps between'):
        as_convnext(RoadmapNet('gelu', **SMALL))


# --- every step -----------------------------------------------------------------------------


@pytest.mark.parametrize('regime', 'TB')
@pytest.mark.parametrize('name', NAMES)
def test_every_step_gives_maps_and_trains(name, regime):
    net = RoadmapNet(name, regime, **SMALL)
    maps = net(torch.randn(2, 3, 64, 96))
    sizes = find_sizes(name, regime, **SMALL)
    assert [tuple(x.shape) for x in maps] == [
        (2, sizes.out_channels[i], 16 // 2**i, 24 // 2**i) for i in range(4)
    ]
    assert net.out_channels == sizes.out_channels and net.out_strides == (4, 8, 16, 32)
    assert all(x.is_contiguous() for x in maps)
    sum(x.square().mean() for x in maps).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert RoadmapClassifier(name, regime, num_classes=5, **SMALL)(
        torch.randn(2, 3, 32, 32)
    ).shape == (2, 5)


def layers_of(name, block='layer2.0'):
    """What a transition block of a step consists of, in words."""
    words = []
    for module in on_meta(RoadmapNet, name).get_submodule(block).children():
        if isinstance(module, nn.Conv2d):
            kind = 'depthwise' if module.groups > 1 else 'dense'
            size, stride = module.kernel_size[0], module.stride[0]
            bias = ' with bias' if module.bias is not None else ''
            sizes = f'{module.in_channels} to {module.out_channels}'
            words.append(f'{kind} {size}x{size} / {stride}, {sizes}{bias}')
        elif not isinstance(module, nn.Identity) and 'Drop' not in type(module).__name__:
            words.append(type(module).__name__)
    return words


def test_blocks_are_those_of_the_paper():
    norm, act, end = 'BatchNorm2d', 'ReLU', 'Sequential'
    assert layers_of('stage_ratio') == [
        'dense 1x1 / 1, 256 to 128', norm, act,
        'dense 3x3 / 2, 128 to 128', norm, act,
        'dense 1x1 / 1, 128 to 512', norm, act, end]  # fmt: skip
    assert layers_of('depthwise_conv')[3] == 'depthwise 3x3 / 2, 128 to 128'
    assert layers_of('inverting_dimensions') == [
        'dense 1x1 / 1, 96 to 768', norm, act,
        'depthwise 3x3 / 2, 768 to 768', norm, act,
        'dense 1x1 / 1, 768 to 192', norm, act, end]  # fmt: skip
    assert layers_of('move_up_depthwise_conv') == [
        'depthwise 3x3 / 2, 96 to 96', norm, act,
        'dense 1x1 / 1, 96 to 768', norm, act,
        'dense 1x1 / 1, 768 to 192', norm, act, end]  # fmt: skip
    assert layers_of('kernel_size_11')[0] == 'depthwise 11x11 / 2, 96 to 96'
    assert layers_of('fewer_activations') == [
        'depthwise 7x7 / 2, 96 to 96', norm,
        'dense 1x1 / 1, 96 to 768', norm, 'GELU',
        'dense 1x1 / 1, 768 to 192', norm, end]  # fmt: skip
    assert layers_of('fewer_norms') == [
        'depthwise 7x7 / 2, 96 to 96', norm,
        'dense 1x1 / 1, 96 to 768 with bias', 'GELU',
        'dense 1x1 / 1, 768 to 192 with bias', end]  # fmt: skip
    assert layers_of('layer_norm') == [
        'depthwise 7x7 / 2, 96 to 96 with bias', 'LayerNorm2d',
        'dense 1x1 / 1, 96 to 768 with bias', 'GELU',
        'dense 1x1 / 1, 768 to 192 with bias', end]  # fmt: skip
    # Only blocks that reduce have a convolution in the shortcut of the first stage.
    assert layers_of('increase_width', 'layer1.0')[-1] == end
    assert layers_of('inverting_dimensions', 'layer1.0')[-1] != end


def test_a_block_is_its_formula():
    step = STEPS['fewer_activations']
    block = scrambled(RoadmapBlock(step, 8, 8, 1, layer_scale_init_value=0.5))
    x = torch.randn(2, 8, 10, 12)
    branch = block.bn2(block.conv2(block.bn1(block.conv1(x))))
    branch = block.bn3(block.conv3(nn.functional.gelu(branch)))
    assert_close(block(x), x + block.gamma[None, :, None, None] * branch)


def test_norms_of_layer_norm_have_convnexts_epsilon():
    norms = [m for m in RoadmapNet('layer_norm', **SMALL).modules() if isinstance(m, LayerNorm2d)]
    assert len(norms) == 18 + 3 and {norm.eps for norm in norms} == {1e-6}


def test_the_first_step_never_has_layer_scale_and_others_unless_it_is_off():
    def gammas(*args, **options):
        net = on_meta(RoadmapNet, *args, **options)
        return sum(name.endswith('gamma') for name, _ in net.named_parameters())

    assert gammas('resnet', layer_scale_init_value=1.0) == 0
    assert gammas('enhanced_recipe') == 16 and gammas('convnext') == 18
    assert gammas('enhanced_recipe', layer_scale_init_value=0) == 0
    assert (RoadmapNet('gelu', **SMALL).layer1[0].gamma == 1e-6).all()


# --- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['resnet', 'gelu', 'convnext'])
def test_a_subset_of_maps_is_the_same_and_builds_no_more(name):
    whole = scrambled(RoadmapNet(name, **SMALL))
    part = RoadmapNet(name, out_indices=(0, 2), **SMALL).eval()
    state = {key: whole.state_dict()[key] for key in part.state_dict()}
    part.load_state_dict(state)
    images = torch.randn(1, 3, 64, 64)
    maps = whole(images)
    assert_same_maps(part(images), [maps[0], maps[2]])
    assert not any('layer4' in key or 'stages.3' in key or 'norm1' in key for key in state)


@pytest.mark.parametrize('name', ['resnet', 'gelu', 'convnext'])
def test_frozen_stages_neither_learn_nor_change(name):
    net = RoadmapNet(name, frozen_stages=2, **SMALL).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    sum(x.sum() for x in net(torch.randn(2, 3, 64, 64))).backward()
    frozen = ('conv1', 'bn1', 'layer1', 'layer2', 'stages.0', 'stages.1', 'downsample_layers.0',
              'downsample_layers.1', 'norm0', 'norm1')  # fmt: skip
    for key, parameter in net.named_parameters():
        assert parameter.requires_grad != key.startswith(frozen), key
    for key, value in net.state_dict().items():
        if 'running' in key:
            assert torch.equal(value, before[key]) == key.startswith(frozen), key
    assert all(p.requires_grad for p in RoadmapNet(name, **SMALL).parameters())
    stem = RoadmapNet(name, frozen_stages=0, **SMALL)
    frozen = [key for key, parameter in stem.named_parameters() if not parameter.requires_grad]
    assert frozen and all(key.startswith(('conv1', 'bn1', 'downsample_layers.0')) for key in frozen)


def test_norms_in_evaluation_keep_their_statistics():
    net = RoadmapNet('resnet', norm_eval=True, **SMALL).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.training and net.layer1[0].bn1.weight.requires_grad


@pytest.mark.parametrize('name', ['resnet', 'kernel_size_5', 'convnext'])
def test_memory_formats_give_the_same_maps(name):
    nets = [RoadmapNet(name, channels_last=value, **SMALL).eval() for value in (True, False, None)]
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    images = torch.randn(1, 3, 64, 64)
    for net in nets[1:]:
        assert_same_maps(net(images), nets[0](images))


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(step='resnet50'), ValueError, "did you mean 'resnet'"),
        (dict(regime='S'), ValueError, 'regime out of T, B'),
        (dict(width_factor=0), ValueError, 'width_factor above 0'),
        (dict(width_factor='wide'), TypeError, 'width_factor to be a number'),
        (dict(frozen_stages=5), ValueError, 'frozen_stages to be an integer from -1 to 4'),
        (dict(norm_eval=1), TypeError, 'norm_eval to be True or False'),
        (dict(channels_last='yes'), TypeError, 'channels_last to be True or False'),
        (dict(pretrained='a.pth'), ValueError, 'use init_cfg'),
        (dict(drop_path_rate=1), ValueError, r'drop_path_rate in \[0, 1\)'),
        (dict(layer_scale_init_value='a'), TypeError, 'layer_scale_init_value to be a number'),
        (dict(in_chans=0), ValueError, 'in_chans to be an integer'),
        (dict(out_indices=4), ValueError, 'out_indices'),
    ],
)
def test_wrong_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        RoadmapNet(**{'step': 'gelu', **SMALL, **options})


def test_wrong_inputs_are_refused():
    net = RoadmapNet('resnet', **SMALL)
    with pytest.raises(TypeError, match='expected a tensor'):
        net([1])
    with pytest.raises(ValueError, match=r'shape \(N, 3, H, W\), got \(3, 64, 64\)'):
        net(torch.zeros(3, 64, 64))
    with pytest.raises(ValueError, match='set in_chans'):
        net(torch.zeros(1, 4, 64, 64))
    with pytest.raises(ValueError, match='at least 32 x 32'):
        net(torch.zeros(1, 3, 31, 64))
    assert RoadmapNet('resnet', in_chans=5, **SMALL).eval()(torch.zeros(1, 5, 32, 32))


@torch.no_grad()
@pytest.mark.parametrize('wanted', [None, True, False])
@pytest.mark.parametrize('build', [ConvNeXt, RoadmapNet], ids=lambda build: build.__name__)
def test_images_reach_the_network_in_its_memory_format(build, wanted):
    first = 'atto' if build is ConvNeXt else 'convnext'
    net = build(first, channels_last=wanted)
    seen = []
    stem = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    stem.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    given = torch.randn(1, 3, 32, 64)
    if wanted is False:
        given = given.contiguous(memory_format=torch.channels_last)
    net(given)
    assert seen[0].is_contiguous(
        memory_format=torch.contiguous_format if wanted is False else torch.channels_last
    )
