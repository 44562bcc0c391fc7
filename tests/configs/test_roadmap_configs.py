"""The configs of the road build and count at every step, and train a step and predict."""

import warnings
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from support.miniatures import leave_configs_unformatted

from convnext_backbones.benchmark.counting import count_parts
from convnext_backbones.config.loading import load_config
from convnext_backbones.engine.build import build_on_meta
from convnext_backbones.engine.runner import build_runner
from convnext_backbones.models.roadmap_steps import STEPS, find_sizes
from tools.make_sample_data import Options, make_sample_data

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / 'configs' / 'roadmap').glob('*.py'))
SAMPLES = [path for path in CONFIGS if path.stem.endswith('_sample')]

of_config = pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)


def test_there_is_a_detector_and_a_segmentor_and_a_sample_of_each():
    assert [path.stem for path in CONFIGS] == [
        'mask_rcnn_roadmap', 'mask_rcnn_roadmap_sample', 'upernet_roadmap',
        'upernet_roadmap_sample']  # fmt: skip


@of_config
def test_the_channels_in_the_file_are_those_of_its_step(path):
    """So that the config is right for programs that do not read it as ours do."""
    from mmengine.config import Config

    plain, ours = Config.fromfile(path).model, load_config(path).model
    for part in ('neck', 'decode_head', 'auxiliary_head'):
        if part in ours:
            assert plain[part].in_channels == ours[part].in_channels
    assert path.read_text().count('model.backbone.step=') == 1


@of_config
@pytest.mark.parametrize('regime', 'TB')
def test_every_step_builds_and_is_counted(path, regime):
    macs = {}
    for step in STEPS if regime == 'T' else ('resnet', 'stage_ratio', 'convnext'):
        options = {'model.backbone.step': step, 'model.backbone.regime': regime}
        cfg = load_config(path, options)
        assert cfg.optim_wrapper.get('constructor') != 'ConvNeXtLayerDecayConstructor'
        init_default_scope(cfg.default_scope)
        model = build_on_meta(cfg)
        assert (model.backbone.step, model.backbone.regime) == (step, regime)
        factor = cfg.model.backbone.get('width_factor', 1.0)
        channels = find_sizes(step, regime, factor).out_channels
        assert model.backbone.out_channels == channels
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            parts = count_parts(model, (64, 64))
        macs[step] = sum(part.macs for part in parts if part.name.startswith('backbone'))
    if regime == 'B':
        assert macs['stage_ratio'] < macs['resnet'] < macs['convnext']
        return
    assert macs['kernel_size_7'] < macs['kernel_size_9'] < macs['kernel_size_11']
    assert macs['depthwise_conv'] < macs['convnext'] < macs['increase_width']


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('road') / 'sample'
    make_sample_data(folder, Options(train=8, val=2, size=96, seed=0))
    return folder


@pytest.mark.parametrize('step', ['resnet', 'fewer_norms', 'convnext'])
@pytest.mark.parametrize('path', SAMPLES, ids=lambda path: path.stem)
def test_the_samples_train_a_step_and_predict(path, step, data_root, tmp_path, monkeypatch):
    leave_configs_unformatted(monkeypatch)
    cfg = load_config(path, {'model.backbone.step': step, 'model.backbone.width_factor': 1 / 16})
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = loader.dataset.data_root.replace('data/sample', str(data_root))
    cfg.train_dataloader.batch_size = 4
    if 'max_iters' in cfg.train_cfg:
        cfg.train_cfg.update(max_iters=1, val_interval=1)
        metric = 'mIoU'
    else:
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
        cfg.model.test_cfg.rcnn.score_thr = 0.0
        for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
            evaluator.ann_file = evaluator.ann_file.replace('data/sample', str(data_root))
        metric = 'coco/segm_mAP'
    cfg.default_hooks.checkpoint.interval = -1
    cfg.work_dir, cfg.launcher = str(tmp_path), 'none'
    runner = build_runner(cfg)
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert torch.isfinite(torch.tensor(scalars['train/loss'].current()))
    assert f'val/{metric}' in scalars
