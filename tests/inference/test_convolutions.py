"""Fast convolutions and linear layers of necks and heads equal the plain ones."""

import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from support.heads import (
    assert_near,
    fast_copy,
    scramble,
)
from torch import nn
from torch.testing import assert_close

from convnext_backbones.inference.convolutions import (
    InferenceConv2d,
    InferenceConvModule,
    InferenceLinear,
)
from convnext_backbones.inference.heads import optimize_heads

# What mmcv and mmseg advise about the models here is not what is tested.
pytestmark = [
    pytest.mark.filterwarnings('ignore::UserWarning:mm(cv|seg)'),
    pytest.mark.usefixtures('registered'),
]


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(norm_cfg=dict(type='BN')),
        dict(norm_cfg=dict(type='BN', eps=0.1), act_cfg=None),
        dict(norm_cfg=dict(type='BN'), bias=True),
        dict(norm_cfg=dict(type='SyncBN')),
        dict(),
        dict(act_cfg=None),
        dict(bias=False),
        dict(padding=1),
        dict(padding=1, norm_cfg=dict(type='BN'), act_cfg=None),
        dict(stride=2, padding=1, norm_cfg=dict(type='BN')),
        dict(stride=(2, 1), dilation=(1, 3), padding=(0, 2)),
        dict(groups=2, norm_cfg=dict(type='BN')),
        dict(in_channels=4, out_channels=4, groups=4),
        dict(in_channels=1, out_channels=1, norm_cfg=dict(type='BN')),
        dict(efficient_conv_bn_eval=True, norm_cfg=dict(type='BN')),
    ],
    ids=str,
)
def test_conv_module(kwargs, winograds):
    plain = ConvModule(**{'in_channels': 4, 'out_channels': 6, 'kernel_size': 3, **kwargs})
    plain = scramble(plain)
    for module in plain.modules():
        if isinstance(module, nn.SyncBatchNorm):  # which refuses to compute on CPUs in training
            module.running_mean.normal_()
    fast = fast_copy(plain)
    assert type(fast) is InferenceConvModule
    x = torch.randn(2, plain.in_channels, 11, 9)
    before = x.clone()
    for y in (x, x.contiguous(memory_format=torch.channels_last), x[:0]):
        assert_near(fast(y), plain(y))
        for flags in (dict(activate=False), dict(norm=False), dict(activate=False, norm=False)):
            assert_near(fast(y, **flags), plain(y, **flags))
    assert torch.equal(x, before)
    y = x.double()
    assert_close(fast.double()(y), plain.double()(y))
    with torch.no_grad():
        fast.float().conv.weight.mul_(2)
        plain.float().conv.weight.mul_(2)
    assert_near(fast(x), plain(x))
    simple = not {'stride', 'groups', 'dilation'} & kwargs.keys()
    assert bool(winograds.calls) == (winograds.wanted and simple and 'padding' in kwargs)


def test_conv_module_in_training_mode():
    """Batch norm then takes the statistics of the batch, and keeps them."""
    plain = scramble(ConvModule(4, 6, 3, norm_cfg=dict(type='BN')))
    fast = fast_copy(plain)
    x = torch.randn(2, 4, 11, 9)
    with torch.no_grad():
        assert_near(fast.train()(x), plain.train()(x))
        assert_near(fast.bn.running_mean, plain.bn.running_mean)
        assert_near(fast.eval()(x), plain.eval()(x))


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(norm_cfg=dict(type='GN', num_groups=2)),
        dict(norm_cfg=dict(type='IN')),
        dict(norm_cfg=dict(type='BN', track_running_stats=False)),
        dict(norm_cfg=dict(type='BN', affine=False)),
        dict(act_cfg=dict(type='LeakyReLU')),
        dict(act_cfg=dict(type='GELU')),
        dict(padding=1, padding_mode='reflect'),
        dict(order=('act', 'conv', 'norm'), norm_cfg=dict(type='BN')),
        dict(with_spectral_norm=True),
        dict(conv_cfg=dict(type='ConvAWS')),
        dict(conv_cfg=dict(type='DCNv2')),
    ],
    ids=str,
)
def test_other_conv_modules_stay_as_they_are(kwargs):
    if kwargs.get('norm_cfg', {}).pop('affine', None) is False:
        plain = ConvModule(4, 6, 3, norm_cfg=dict(type='BN'))
        plain.bn = nn.BatchNorm2d(6, affine=False)
    elif kwargs.get('norm_cfg', {}).pop('track_running_stats', None) is False:
        plain = ConvModule(4, 6, 3, norm_cfg=dict(type='BN'))
        plain.bn = nn.BatchNorm2d(6, track_running_stats=False)
    else:
        plain = ConvModule(4, 6, 3, **kwargs)
    plain.eval()
    fast = fast_copy(plain)
    assert type(fast) is ConvModule
    x = torch.randn(2, 4, 11, 9)
    for y in (x, x.contiguous(memory_format=torch.channels_last)):
        assert_near(fast(y.clone()), plain(x.clone()))


@pytest.mark.usefixtures('cpu')
def test_linear():
    plain = nn.Linear(6, 5)
    fast = fast_copy(plain)
    assert isinstance(fast, InferenceLinear)
    for shape in ((3, 6), (6,), (0, 6), (2, 0, 6), (2, 3, 4, 6)):
        x = torch.randn(shape)
        assert_near(fast(x), plain(x))
    x = torch.randn(6, 7).t()
    assert_near(fast(x), plain(x))
    assert_close(fast.double()(x.double()), plain.double()(x.double()))


class InBf16:
    """A tuner that chooses bf16, or what is exact, and remembers the layers."""

    def __init__(self, wanted) -> None:
        self.wanted, self.sites = wanted, []

    def choose(self, site, forms, default, reference):
        self.sites.append(site)
        assert {default, reference} <= forms.keys()
        return 'bf16' if self.wanted else reference


@torch.no_grad()
@pytest.mark.usefixtures('cpu')
@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason='oneDNN has no bf16 on this CPU'
)
@pytest.mark.parametrize(
    ('layer', 'kind', 'shape'),
    [
        (nn.Linear(24, 16), InferenceLinear, (3, 5, 24)),
        (nn.Conv2d(8, 16, 3, padding=1), InferenceConv2d, (2, 8, 11, 9)),
        (ConvModule(8, 16, 3, padding=1), InferenceConvModule, (2, 8, 11, 9)),
        (ConvModule(8, 16, 1, norm_cfg=dict(type='BN')), InferenceConvModule, (2, 8, 11, 9)),
        (ConvModule(8, 16, 3, stride=2), InferenceConvModule, (2, 8, 11, 9)),
    ],
    ids=str,
)
def test_layers_in_bf16(layer, kind, shape):
    """They take and return fp32, and differ by the rounding of products only."""
    plain = scramble(layer)
    x = torch.randn(shape)
    expected = plain(x)
    for wanted in (True, False):
        model = copy.deepcopy(nn.Sequential(plain)).requires_grad_(False)
        tuner = InBf16(wanted)
        optimize_heads(model, tuner, torch.bfloat16)
        assert type(model[0]) is kind
        found = model(x)
        assert found.dtype == torch.float32 and found.shape == expected.shape
        assert_near(found, expected, 2e-2 if wanted else 1e-5)
        assert wanted == bool((found - expected).abs().max() > 1e-4)
        assert [site.dtype for site in tuner.sites] == [torch.bfloat16]


@torch.no_grad()
@pytest.mark.usefixtures('cpu')
def test_maps_of_one_column_stay_in_fp32():
    model = nn.Sequential(scramble(ConvModule(8, 16, 1))).requires_grad_(False)
    x = torch.randn(2, 8, 11, 1)
    expected = model(x)
    tuner = InBf16(True)
    optimize_heads(model, tuner, torch.bfloat16)
    assert_near(model(x), expected)
    assert not tuner.sites
