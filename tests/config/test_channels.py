"""One line makes a config fit images of other channels and bits, in every place."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from convnext_backbones.config.channels import set_channels
from convnext_backbones.config.loading import load_config
from convnext_backbones.config.plain import plain_config
from convnext_backbones.config.walk import type_name, walk

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
DET, SEG = CONFIGS / 'mask_rcnn_convnext_t.py', CONFIGS / 'upernet_convnext_t.py'
FOUR = dict(mean=[1.0, 2, 3, 4], std=[2.0, 2, 4, 4])


@pytest.mark.parametrize('path', [DET, SEG])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_the_setting_reaches_every_place(path, channels):
    setting = {key: values[:channels] for key, values in FOUR.items()}
    cfg = load_config(path, dict(image_channels=setting))
    names = [f'{split}_dataloader' for split in ('train', 'val', 'test')]
    names += ['tta_pipeline'] if 'tta_pipeline' in cfg else []
    for name in names:
        parts = [part for _, part in walk(cfg[name])]
        (loader,) = [part for part in parts if type_name(part) == 'LoadImageFromFile']
        assert loader.color_type == 'unchanged' and loader.imdecode_backend == 'rasterio'
        assert loader.to_float32
        assert 'PhotoMetricDistortion' not in [type_name(part) for part in parts]
    assert cfg.model.backbone.in_chans == channels
    before = cfg.to_dict()
    set_channels(cfg)  # a saved config has the setting and its effect
    assert cfg.to_dict() == before


@pytest.mark.parametrize('path', [DET, SEG])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_images_are_normalized_channel_by_channel(path, channels):
    setting = {key: values[:channels] for key, values in FOUR.items()}
    cfg = load_config(path, dict(image_channels=setting))
    cfg.model.data_preprocessor.pop('size', None)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        preprocessor = MODELS.build(cfg.model.data_preprocessor)
    image = torch.rand(channels, 32, 32) * 60_000
    if cfg.default_scope == 'mmdet':
        from mmdet.structures import DetDataSample

        sample = DetDataSample(metainfo=dict(img_shape=(32, 32)))
    else:
        from mmseg.structures import SegDataSample

        sample = SegDataSample(metainfo=dict(img_shape=(32, 32)))
    found = preprocessor(dict(inputs=[image], data_samples=[sample]))['inputs'][0]
    loaded = image[[2, 1, 0]] if channels == 3 else image  # three channels are loaded as BGR
    mean, std = (torch.tensor(setting[key]).view(-1, 1, 1) for key in ('mean', 'std'))
    assert torch.allclose(found, (loaded - mean) / std)


def test_the_pipeline_of_the_last_epochs_loads_all_channels():
    cfg = load_config(CONFIGS / 'heads/rtmdet_convnext_t.py', dict(image_channels=FOUR))
    (hook,) = [one for one in cfg.custom_hooks if one.type == 'PipelineSwitchHook']
    names = [type_name(transform) for transform in hook.switch_pipeline]
    assert names[0] == 'LoadImageFromFile' and 'YOLOXHSVRandomAug' not in names
    assert hook.switch_pipeline[0].imdecode_backend == 'rasterio'


def test_a_published_config_has_the_effect(tmp_path):
    plain = plain_config(load_config(DET, dict(image_channels=FOUR)))
    (tmp_path / 'plain.json').write_text(json.dumps(plain))
    cfg = load_config(tmp_path / 'plain.json')
    assert cfg.model.backbone.in_chans == len(cfg.model.data_preprocessor.mean) == 4
    assert cfg.test_dataloader.dataset.pipeline[0].imdecode_backend == 'rasterio'


def test_nothing_changes_without_the_setting():
    assert load_config(SEG).to_dict() == Config.fromfile(SEG).to_dict()


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        (4, 'expected image_channels=dict.* got 4'),
        (dict(mean=[1.0]), 'with a number for each channel'),
        (dict(mean=[1.0, 2], std=[1.0]), 'with a number for each channel'),
        (dict(mean=['a'], std=[1.0]), 'with a number for each channel'),
        (dict(mean=[], std=[]), 'with a number for each channel'),
        (dict(mean=[1.0], std=[0]), 'expected a std above 0'),
    ],
)
def test_other_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        load_config(SEG, dict(image_channels=setting))
