"""The check of training settings: imports, batch size, optimizer and disk space."""

import pytest
import torch
from mmengine.config import Config

from convnext_backbones.checks import training as checks_training
from convnext_backbones.checks.findings import ERROR, WARNING
from convnext_backbones.checks.training import (
    check_batch_size,
    check_disk,
    check_imports,
    check_optimizer,
    checkpoint_size,
    count_checkpoints,
)


def test_forgotten_imports(det):
    assert [*check_imports(det)] == []
    det.pop('custom_imports')
    (finding,) = check_imports(det)
    assert finding.level == WARNING and finding.examples == ("model.backbone.type='ConvNeXt'",)
    assert "custom_imports = dict(imports=['convnext_backbones']" in finding.fix
    det.model.backbone.type = 'mmpretrain.ConvNeXt'
    assert [*check_imports(det)] == []


def test_images_per_step(det):
    det.auto_scale_lr.base_batch_size = 16
    det.optim_wrapper.accumulative_counts = 2
    assert [*check_batch_size(det, processes=4)] == []
    (finding,) = check_batch_size(det, processes=2)
    assert finding.level == WARNING and finding.where == 'auto_scale_lr'
    assert '8 images per step' in finding.what and '0.001 for 16' in finding.what
    assert '0.0005' in finding.fix
    det.auto_scale_lr.enable = True
    assert [*check_batch_size(det, processes=2)] == []


def test_rules_for_no_parameter(det, model):
    keys = {'backbone': dict(lr_mult=0.1), 'bakbone.stages': dict(lr_mult=0.1)}
    det.optim_wrapper.paramwise_cfg = dict(custom_keys=keys)
    (finding,) = check_optimizer(det, model)
    assert finding.level == WARNING and "'bakbone.stages'" in finding.what
    det.optim_wrapper.constructor = 'ConvNeXtLayerDecayConstructor'
    det.optim_wrapper.paramwise_cfg.decay_rate = 0.9
    (finding,) = check_optimizer(det, model)
    assert finding.level == ERROR and 'bakbone.stages, which match none' in finding.what
    det.optim_wrapper.type = 'AmpOptimWrapper'  # needs no GPU to be checked
    del det.optim_wrapper.paramwise_cfg.custom_keys['bakbone.stages']
    assert [*check_optimizer(det, model)] == []


def test_a_work_dir_that_cannot_be(det, model, tmp_path):
    (tmp_path / 'file').touch()
    det.work_dir = str(tmp_path / 'file/work')
    (finding,) = check_disk(det, model)
    assert finding.level == ERROR and finding.where == det.work_dir


@pytest.mark.parametrize(('checkpoints', 'level'), [(0.9, ERROR), (2.5, WARNING), (3.5, None)])
def test_room_for_the_checkpoints(det, model, monkeypatch, checkpoints, level):
    det.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=3)
    det.train_cfg.max_epochs = 5
    free = int(checkpoints * checkpoint_size(det, model))
    usage = type('Usage', (), dict(free=free))
    monkeypatch.setattr(checks_training.shutil, 'disk_usage', lambda folder: usage)
    assert [finding.level for finding in check_disk(det, model)] == [level] * (level is not None)


@pytest.mark.parametrize('optimizer', ['AdamW', 'SGD'])
def test_the_size_of_a_checkpoint_is_that_of_the_file(optimizer, tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.BatchNorm1d(300))
    options = dict(momentum=0.9) if optimizer == 'SGD' else {}
    built = getattr(torch.optim, optimizer)(net.parameters(), lr=0.1, **options)
    net(torch.ones(2, 300)).sum().backward()
    built.step()
    state = dict(state_dict=net.state_dict(), optimizer=built.state_dict())
    torch.save(state, tmp_path / 'checkpoint.pth')
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type=optimizer))))
    size = (tmp_path / 'checkpoint.pth').stat().st_size
    assert checkpoint_size(cfg, net) == pytest.approx(size, rel=0.03)
    cfg.custom_hooks = [dict(type='EMAHook')]
    weights = sum(tensor.nbytes for tensor in net.state_dict().values())
    assert checkpoint_size(cfg, net) == pytest.approx(size + weights, rel=0.03)


@pytest.mark.parametrize(
    ('hook', 'number'),
    [
        (dict(interval=4), 3),
        (dict(interval=4, max_keep_ckpts=2), 2),
        (dict(interval=4, max_keep_ckpts=2, save_best=['a', 'b']), 4),
        (dict(interval=-1, save_best='auto'), 2),
        (dict(interval=50, by_epoch=False), 2),
    ],
)
def test_the_number_of_checkpoints(hook, number):
    settings = dict(train_cfg=dict(max_epochs=10, max_iters=100))
    cfg = Config(dict(settings, default_hooks=dict(checkpoint=hook)))
    assert count_checkpoints(cfg) == number
