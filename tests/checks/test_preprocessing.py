"""The check of mean and std."""

from pathlib import Path

import pytest
from mmengine.config import Config

from convnext_backbones.checks.findings import WARNING
from convnext_backbones.checks.preflight import find_problems
from convnext_backbones.checks.preprocessing import check_preprocessing
from convnext_backbones.experiments import EXPERIMENTS
from convnext_backbones.weights.published import preprocessing

CLIP = 'timm/convnext_base.clip_laion2b_augreg_ft_in12k_in1k'
V2 = 'convnextv2_base_1k_224_fcmae'
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def start_from(name: str, **changes) -> Config:
    """A config whose backbone starts from published weights of ImageNet's mean and std."""
    usual = preprocessing(V2)
    init = dict(type='PretrainedConvNeXt', checkpoint=name)
    return Config(
        dict(
            model=dict(
                type='A',
                data_preprocessor=dict(usual, type='B', pad_size_divisor=32, **changes),
                backbone=dict(type='ConvNeXt', init_cfg=init),
            )
        )
    )


def test_weights_with_the_mean_and_std_of_the_config():
    assert [*check_preprocessing(start_from(V2))] == []
    assert [*check_preprocessing(start_from(CLIP, **rounded(CLIP)))] == []
    assert [*check_preprocessing(start_from('weights.pth'))] == []


def rounded(name: str) -> dict:
    """Mean and std as people write them."""
    return {
        key: [round(number, 2) for number in value]
        for key, value in preprocessing(name).items()
        if key != 'bgr_to_rgb'
    }


def test_weights_of_clip_in_a_config_of_imagenet():
    (finding,) = check_preprocessing(start_from(CLIP))
    assert (finding.level, finding.entry) == (WARNING, 'model.data_preprocessor')
    assert CLIP in finding.what
    assert finding.fix == (
        'write model.data_preprocessor.mean=[122.7709,116.746,104.0937] '
        'model.data_preprocessor.std=[68.50053,66.63216,70.32316]'
    )
    cfg = start_from(CLIP)
    for flag in finding.fix.split()[1:]:
        key, value = flag.split('=')
        cfg.merge_from_dict({key: [float(number) for number in value.strip('[]').split(',')]})
    assert [*check_preprocessing(cfg)] == []


@pytest.mark.parametrize('value', [False, None])
def test_channels_in_the_order_of_files(value):
    (finding,) = check_preprocessing(start_from(V2, bgr_to_rgb=value))
    assert finding.fix == 'write model.data_preprocessor.bgr_to_rgb=True'


def test_no_mean_at_all():
    (finding,) = check_preprocessing(start_from(V2, mean=None))
    assert finding.fix == 'write model.data_preprocessor.mean=[123.675,116.28,103.53]'


def test_no_preprocessor_at_all():
    cfg = start_from(V2)
    del cfg.model.data_preprocessor
    (finding,) = check_preprocessing(cfg)
    assert finding.entry == 'model.data_preprocessor'
    assert finding.fix.startswith('give the model one of mmdet or mmseg with model.data_pre')


def test_other_numbers_of_channels_are_the_users():
    four = [1.0, 2.0, 3.0, 4.0]
    assert [*check_preprocessing(start_from(CLIP, mean=four, std=four, bgr_to_rgb=False))] == []


def test_the_numbers_of_image_channels_are_the_users():
    cfg = start_from(CLIP)
    cfg.image_channels = dict(mean=[9000.0] * 3, std=[4000.0] * 3)
    assert [*check_preprocessing(cfg)] == []


def test_load_from_and_lists_of_initializers():
    cfg = start_from('weights.pth')
    cfg.load_from = CLIP
    (finding,) = check_preprocessing(cfg)
    assert CLIP in finding.what
    cfg = start_from(CLIP)
    cfg.model.backbone.init_cfg = [dict(type='Other'), cfg.model.backbone.init_cfg]
    assert len([*check_preprocessing(cfg)]) == 1


def test_preprocessors_that_hold_others_or_stand_beside_the_model():
    cfg = start_from(CLIP)
    inner = cfg.model.data_preprocessor
    cfg.model.data_preprocessor = dict(type='MultiBranch', data_preprocessor=inner)
    (finding,) = check_preprocessing(cfg)
    assert finding.entry == 'model.data_preprocessor.data_preprocessor'
    cfg.data_preprocessor = inner  # of no effect
    assert len([*check_preprocessing(cfg)]) == 1
    del cfg.model.data_preprocessor
    (finding,) = check_preprocessing(cfg)
    assert finding.entry == 'data_preprocessor'


def test_a_file_that_has_its_published_name():
    (finding,) = check_preprocessing(start_from(f'/data/{CLIP.rpartition("/")[2]}.safetensors'))
    assert 'mean=[122.7' in finding.fix


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_the_configs_of_the_package_agree_with_their_weights(name):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    assert cfg.model.backbone.init_cfg.checkpoint
    assert [*check_preprocessing(cfg)] == []


def test_the_check_of_a_config_reports_it(det, no_weights_here):
    det.model.backbone.init_cfg = dict(type='PretrainedConvNeXt', checkpoint=CLIP)
    found = find_problems(det, thorough=False)
    assert [one.fix for one in found if 'colors' in one.what and 'mean=[122.7' in one.fix]
