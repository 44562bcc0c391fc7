"""One entry of a config chooses a step of the road, and neck and heads follow."""

import pytest

from convnext_backbones.config.loading import load_config

DETECTOR = """
default_scope = 'mmdet'
model = dict(
    type='FasterRCNN',
    backbone=dict(type='RoadmapNet', step='resnet', **{options}),
    neck=dict(type='FPN', in_channels=[1, 2, 3, 4][:{maps}], out_channels=8, num_outs=5),
)
"""
SEGMENTOR = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='mmseg.RoadmapNet', step='convnext'),
    decode_head=dict(type='UPerHead', in_channels=[1, 2, 3, 4], in_index=[0, 1, 2, 3]),
    auxiliary_head=dict(type='FCNHead', in_channels=1, in_index=2),
)
"""


def load(tmp_path, text, **overrides):
    path = tmp_path / 'config.py'
    path.write_text(text)
    keys = {f'model.backbone.{key}': value for key, value in overrides.items()}
    return load_config(path, keys).model


def detector(options='dict()', maps=4):
    return DETECTOR.format(options=options, maps=maps)


@pytest.mark.parametrize(
    ('overrides', 'channels'),
    [
        ({}, [256, 512, 1024, 2048]),
        (dict(step='increase_width'), [384, 768, 1536, 3072]),
        (dict(step=5, regime='B'), [512, 1024, 2048, 4096]),
        (dict(step='inverting_dimensions'), [96, 192, 384, 768]),
        (dict(step='stage_ratio', regime='B', width_factor=0.25), [84, 168, 336, 672]),
    ],
)
def test_the_neck_follows_the_step(tmp_path, overrides, channels):
    assert load(tmp_path, detector(), **overrides).neck.in_channels == channels


def test_the_neck_follows_out_indices(tmp_path):
    model = load(tmp_path, detector('dict(out_indices=(1, 2, 3))', maps=3), step='convnext')
    assert model.neck.in_channels == [192, 384, 768]


def test_the_heads_follow_the_step(tmp_path):
    model = load(tmp_path, SEGMENTOR, step='depthwise_conv')
    assert model.decode_head.in_channels == [256, 512, 1024, 2048]
    assert model.auxiliary_head.in_channels == 1024


def test_other_backbones_are_left_alone(tmp_path):
    text = detector().replace('RoadmapNet', 'ConvNeXt')
    assert load(tmp_path, text).neck.in_channels == [1, 2, 3, 4]


def test_a_wrong_step_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'kernel_size_7'"):
        load(tmp_path, detector(), step='kernel_7')
    with pytest.raises(ValueError, match='regime out of T, B'):
        load(tmp_path, detector(), regime='C')
    with pytest.raises(ValueError, match='name or number of a step, got None'):
        load(tmp_path, detector(), step=None)
