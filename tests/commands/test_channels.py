"""Images of one and four channels, of 8, 16 and 32 bits: checked, trained, evaluated, drawn."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from support.channels import convert_sample
from support.miniatures import leave_configs_unformatted, make_data, miniature
from support.weights import random_state

from convnext_backbones import ConvNeXt
from convnext_backbones.io.statistics import channel_statistics
from tools import browse_data, check, predict, train
from tools import test as evaluate

pytest.importorskip('rasterio')


def prepare(folder: Path, task: str, channels: int, dtype: str) -> Config:
    """Sample data in ``folder``, and a config with one line for their channels."""
    make_data(folder)
    data = folder / 'data/sample' / ('coco' if task == 'det' else 'ade20k')
    images = convert_sample(data, channels, dtype)
    mean, std = channel_statistics(images)
    assert len(mean) == channels
    cfg = miniature(task, folder / 'work', length=1)
    cfg.image_channels = dict(mean=mean, std=std)
    if task == 'seg':
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader'].dataset.img_suffix = '.tif'
        cfg.train_dataloader.dataset.pipeline.insert(-1, dict(type='PhotoMetricDistortion'))
    return cfg


@pytest.mark.parametrize(
    ('task', 'channels', 'dtype'),
    [
        ('det', 4, 'uint16'),
        ('seg', 1, 'float32'),
        pytest.param('det', 1, 'uint8', marks=pytest.mark.slow),
        pytest.param('seg', 4, 'uint8', marks=pytest.mark.slow),
    ],
)
def test_from_files_to_pictures(task, channels, dtype, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cfg = prepare(tmp_path, task, channels, dtype)
    weights = tmp_path / 'rgb.pth'
    rgb = ConvNeXt(cfg.model.backbone.arch)
    torch.save(random_state(rgb), weights)
    cfg.model.backbone.init_cfg = dict(type='PretrainedConvNeXt', checkpoint=str(weights))
    cfg.dump('mine.py')
    leave_configs_unformatted(monkeypatch)

    with pytest.raises(SystemExit, match='False'):
        check.main(['mine.py'])
    assert '0 errors' in capsys.readouterr().out
    browse_data.main(['mine.py', '--number', '1', '--out', 'samples'])
    (sample,) = Path('samples').iterdir()
    assert cv2.imread(str(sample)).std() > 20  # neither black nor white

    train.main(['mine.py'])
    how = 'repeated in turn' if channels > 3 else 'averaged'
    assert how in capsys.readouterr().out
    checkpoint = Path('work/last_checkpoint').read_text()
    evaluate.main(['mine.py', checkpoint, '--work-dir', 'tested'])
    metrics = json.loads(Path('tested/metrics.json').read_text())
    assert 'mIoU' in metrics or 'coco/bbox_mAP' in metrics

    images = 'data/sample/coco/val' if task == 'det' else 'data/sample/ade20k/images/validation'
    predict.main(['mine.py', checkpoint, images, '--out', 'whole', '--score-thr', '0'])
    predict.main(
        ['mine.py', checkpoint, images, '--out', 'tiles', '--score-thr', '0', '--tiles', '128']
        + ['--overlap', '64']
    )
    whole, tiles = (
        json.loads(Path(out, 'predictions.json').read_text()) for out in ('whole', 'tiles')
    )
    assert len(whole['images']) == 3 and not whole['failures'] and not tiles['failures']
    for name, found in whole['images'].items():
        if task == 'det':
            assert len(found['instances']) == len(tiles['images'][name]['instances'])
        else:
            assert found['share'] == tiles['images'][name]['share']
        for out in ('whole', 'tiles'):
            assert cv2.imread(f'{out}/overlays/{name}').std() > 20


@pytest.mark.slow
def test_more_channels_than_opencv_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, 'seg', 6, 'uint16').dump('mine.py')
    leave_configs_unformatted(monkeypatch)
    train.main(['mine.py'])
    checkpoint = Path('work/last_checkpoint').read_text()
    images = 'data/sample/ade20k/images/validation'
    predict.main(['mine.py', checkpoint, images, '--out', 'out'])
    assert len(json.loads(Path('out/predictions.json').read_text())['images']) == 3
    overlay = cv2.imread(str(next(Path('out/overlays').iterdir())))
    assert overlay.shape == (64, 64, 3) and np.ptp(overlay) > 100
