"""The sample configs at a size at which an iteration takes a fraction of a second."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
DIMS = [8, 16, 24, 32]
CHANNELS = 16
CONFIGS = {
    'det': ROOT / 'configs/sample/mask_rcnn_convnext_sample.py',
    'seg': ROOT / 'configs/sample/upernet_convnext_sample.py',
}
SIZE, SCALE = 64, (96, 96)  # of the files, and of the images that the network gets
TRAIN, VAL = 4, 3  # images
NUMBERS = itertools.count()

# For tests with several processes.
gloo_only = pytest.mark.skipif(
    torch.cuda.is_available(), reason='gloo stands in for NCCL where no GPU is'
)


def leave_configs_unformatted(monkeypatch) -> None:
    """mmengine formats the config for every log and checkpoint, which here takes most time."""
    never = property(lambda config: False, lambda config, wanted: None)
    monkeypatch.setattr(Config, '_format_python_code', never, raising=False)


def make_data(folder: Path) -> None:
    """Sample data in ``folder/data/sample``, where the sample configs look for them."""
    tool = ROOT / 'tools/make_sample_data.py'
    flags = [f'--train={TRAIN}', f'--val={VAL}', f'--size={SIZE}']
    command = [sys.executable, str(tool), str(folder / 'data/sample'), *flags]
    subprocess.run(command, check=True, capture_output=True)


def miniature(task: str, work_dir: Path, length: int) -> Config:
    """A sample config in which two batches of two images are an epoch.

    Args:
        task: ``det`` or ``seg``.
        work_dir: Of the training.
        length: Of the training: epochs of a detector, iterations of a segmentor.
    """
    cfg = Config.fromfile(CONFIGS[task])
    cfg.work_dir = str(work_dir)
    cfg.launcher = 'none'
    # mmengine keeps the logs and visualizers of a process by name.
    cfg.experiment_name = cfg.visualizer.name = f'{task}{next(NUMBERS)}'
    cfg.model.backbone.arch = dict(depths=[1] * 4, dims=DIMS)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        for transform in loader.dataset.pipeline:
            for key in {'scale', 'crop_size'} & {*transform}:
                transform[key] = SCALE
    if task == 'det':
        cfg.model.neck.update(in_channels=DIMS, out_channels=CHANNELS)
        cfg.model.rpn_head.update(in_channels=CHANNELS, feat_channels=CHANNELS)
        heads = cfg.model.roi_head
        heads.bbox_roi_extractor.out_channels = heads.mask_roi_extractor.out_channels = CHANNELS
        heads.bbox_head.update(in_channels=CHANNELS, fc_out_channels=32)
        heads.mask_head.update(in_channels=CHANNELS, conv_out_channels=CHANNELS)
        cfg.model.test_cfg.rcnn.max_per_img = 10
        cfg.train_cfg.update(max_epochs=length, val_interval=1)
    else:
        cfg.model.data_preprocessor.size = SCALE
        cfg.model.decode_head.update(in_channels=DIMS, channels=CHANNELS)
        cfg.model.auxiliary_head.update(in_channels=DIMS[2], channels=CHANNELS)
        cfg.val_dataloader.batch_size = 1
        cfg.train_cfg.update(max_iters=length, val_interval=2)
        cfg.default_hooks.checkpoint.interval = 2
    cfg.default_hooks.logger.interval = 1
    return cfg
