"""Sizes, names, initialization and stochastic depth of backbone and classifier."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from support.backbones import authors_parameters, blocks, build, shapes_of
from torch import nn
from torch.testing import assert_close

from convnext_backbones import VARIANTS, ConvNeXt, ConvNeXtClassifier

# With a head of 1000 classes: the paper's tables say 29M, 50M, 89M, 198M, 350M.
PARAMETERS = {
    'tiny': 28_589_128,
    'small': 50_223_688,
    'base': 88_591_464,
    'large': 197_767_336,
    'xlarge': 350_196_968,
}
# With the blocks of V2: the table of the authors' repository gives these in millions.
PARAMETERS_OF_V2 = {
    'atto': 3_708_400,
    'femto': 5_233_240,
    'pico': 9_066_280,
    'nano': 15_623_800,
    'tiny': 28_635_496,
    'base': 88_717_800,
    'large': 197_956_840,
    'huge': 660_289_640,
}


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


@pytest.mark.parametrize(('arch', 'parameters'), PARAMETERS_OF_V2.items())
def test_classifier_of_v2_has_the_authors_parameter_count(arch, parameters):
    with torch.device('meta'):
        net = ConvNeXtClassifier(arch, use_grn=True)
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


def test_v2_has_two_vectors_more_and_one_less_in_each_block(miniature):
    depths, dims = miniature['depths'], miniature['dims']
    expected = authors_parameters(depths, dims)
    for name in [name for name in expected if name.endswith('.gamma')]:
        channels = expected.pop(name)[0]
        block = name.removesuffix('.gamma')
        expected |= {f'{block}.grn.{leaf}': (4 * channels,) for leaf in ('gamma', 'beta')}
    found = shapes_of(ConvNeXt(miniature, use_grn=True))
    assert {name: shape for name, shape in found.items() if name[:4] != 'norm'} == expected
    # As in mmpretrain, both can be asked for.
    both = shapes_of(ConvNeXt(miniature, use_grn=True, layer_scale_init_value=1.0))
    assert 'stages.0.0.gamma' in both and 'stages.0.0.grn.gamma' in both


@pytest.mark.parametrize(
    ('arch', 'stem_type', 'middle'),
    [
        # timm's atto_ols, femto_ols, pico_ols and nano_ols
        ('atto', 'overlap_tiered', 24),
        ('femto', 'overlap_tiered', 24),
        ('pico', 'overlap_tiered', 32),
        ('nano', 'overlap', 80),
    ],
)
def test_overlapping_stems(arch, stem_type, middle):
    with torch.device('meta'):
        net = ConvNeXt(arch, stem_type=stem_type)
        maps = net(torch.empty(1, 3, 61, 95))
    first, second, norm = net.downsample_layers[0]
    dim = VARIANTS[arch].dims[0]
    assert first.weight.shape == (middle, 3, 3, 3) and second.weight.shape == (dim, middle, 3, 3)
    assert first.stride == second.stride == (2, 2) and first.padding == second.padding == (1, 1)
    assert norm.normalized_shape == (dim,)
    assert net.out_strides == (4, 8, 16, 32)
    assert [tuple(map_.shape[2:]) for map_ in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize('patch_size', [2, 3, 8])
def test_patch_size_is_the_stride_of_the_stem(miniature, patch_size):
    net = ConvNeXt(miniature, patch_size=patch_size)
    assert net.downsample_layers[0][0].weight.shape == (8, 3, patch_size, patch_size)
    assert net.out_strides == tuple(patch_size * 2**i for i in range(4))
    smallest = 8 * patch_size
    assert [map_.shape[2:] for map_ in net(torch.randn(1, 3, smallest, 2 * smallest))] == [
        (8 // 2**i, 16 // 2**i) for i in range(4)
    ]
    with pytest.raises(ValueError, match=f'at least {smallest} x {smallest} pixels'):
        net(torch.randn(1, 3, smallest - 1, smallest))


def test_epsilon_of_the_norms(miniature):
    def epsilons(net):
        return {module.eps for module in net.modules() if isinstance(module, nn.LayerNorm)}

    assert epsilons(ConvNeXt(miniature, norm_eps=1e-3)) == {1e-3}
    with torch.device('meta'):
        assert epsilons(ConvNeXtClassifier('xxlarge')) == {1e-5}
        assert epsilons(ConvNeXt('xxlarge', norm_eps=1e-6)) == {1e-6}
        sizes = VARIANTS['xxlarge']
        assert epsilons(ConvNeXt(depths=sizes.depths, dims=sizes.dims)) == {1e-5}


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


def test_a_classifier_is_built_from_a_config(miniature):
    net = MODELS.build(dict(type='ConvNeXtClassifier', arch=miniature, num_classes=7))
    assert isinstance(net, ConvNeXtClassifier) and net.head.out_features == 7


@pytest.mark.parametrize('model', [ConvNeXt, ConvNeXtClassifier])
def test_all_arguments_but_arch_are_keywords(model):
    with pytest.raises(TypeError, match='takes from 1 to 2 positional arguments but 3 were given'):
        model('atto', 3)


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


def test_a_dropped_sample_is_its_shortcut(miniature):
    block = blocks(build(miniature, drop_path_rate=0.5))[-1]
    x = torch.randn(32, 32, 4, 4)
    branch = block.eval()(x) - x
    out = block.train()(x)
    dropped = torch.tensor([torch.equal(a, b) for a, b in zip(out, x, strict=True)])
    assert 0 < dropped.sum() < len(x)
    assert_close(out[~dropped], (x + branch / 0.5)[~dropped])
