"""Arguments and inputs that the models refuse, and the messages."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from convnext_backbones import ConvNeXt, ConvNeXtClassifier

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
        (dict(layer_scale_init_value='1'), TypeError, 'layer_scale_init_value to be a number'),
        (dict(use_grn=1), TypeError, 'use_grn to be True or False, got 1 of type int'),
        (dict(stem_type='tiered'), ValueError, "one of patch, overlap, .*got 'tiered'"),
        (dict(stem_type=['patch']), ValueError, r"stem_type to be one of .*got \['patch'\]"),
        (dict(patch_size=0), ValueError, 'patch_size to be an integer from 1 to 20000, got 0'),
        (dict(patch_size=8, stem_type='overlap'), ValueError, "patch_size=4 with .*'overlap'.*8"),
        (dict(norm_eps=0), ValueError, 'norm_eps above 0, got 0: a constant map'),
        (dict(norm_eps=1e-60), ValueError, 'norm_eps above 0, got 1e-60: a constant map'),
        (dict(norm_eps='1e-5'), TypeError, "norm_eps to be a number, got '1e-5'"),
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
        (dict(num_classes=-1), ValueError, 'num_classes to be an integer of at least 0, got -1'),
        (dict(dropout=1.0), ValueError, r'dropout in \[0, 1\), got 1.0'),
        (dict(head_norm_first=0), TypeError, 'head_norm_first to be True or False, got 0'),
        (dict(head_hidden_size=0), ValueError, 'head_hidden_size to be an integer from 1 to'),
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
