"""What a CPU cannot run is replaced, said, and nothing else is touched."""

import pytest
from mmengine.config import Config
from torch.distributed import is_initialized

from convnext_backbones.engine import hardware


def recipe(**entries) -> Config:
    sync_bn = dict(type='SyncBN', requires_grad=True)
    model = dict(
        decode_head=dict(norm_cfg=dict(sync_bn)),
        roi_head=dict(bbox_head=[dict(norm_cfg=dict(sync_bn)), dict(norm_cfg=dict(type='GN'))]),
    )
    optim_wrapper = dict(
        type='AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(type='AdamW', lr=1e-4)
    )
    return Config(dict(model=model, optim_wrapper=optim_wrapper, launcher='none', **entries))


def test_on_a_cpu_sync_bn_and_amp_are_replaced_and_named(monkeypatch):
    monkeypatch.setattr(hardware, 'get_device', lambda: 'cpu')
    cfg = recipe()
    assert hardware.adapt_to_hardware(cfg) == ['SyncBN became BN', 'mixed precision is off']
    assert cfg.model.decode_head.norm_cfg == dict(type='BN', requires_grad=True)
    assert [h.norm_cfg.type for h in cfg.model.roi_head.bbox_head] == ['BN', 'GN']
    assert cfg.optim_wrapper == dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4))
    assert hardware.adapt_to_hardware(cfg) == []


def test_on_a_gpu_nothing_changes(monkeypatch):
    monkeypatch.setattr(hardware, 'get_device', lambda: 'cuda')
    cfg = recipe()
    assert hardware.adapt_to_hardware(cfg) == []
    assert cfg.to_dict() == recipe().to_dict()


def test_slurm_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(hardware, 'get_device', lambda: 'cpu')
    cfg = recipe()
    cfg.launcher = 'slurm'
    with pytest.raises(ValueError, match="expected launcher 'none' or 'pytorch'.*'slurm'"):
        hardware.adapt_to_hardware(cfg)


def test_a_config_for_several_processes_is_adapted_without_joining_them(monkeypatch):
    monkeypatch.setattr(hardware, 'get_device', lambda: 'cpu')
    cfg = recipe()
    cfg.launcher = 'pytorch'  # as in the config that a distributed run leaves behind
    assert 'processes talk over gloo' in hardware.adapt_to_hardware(cfg)
    assert cfg.model_wrapper_cfg.type == 'CPUDistributedDataParallel'
    assert not is_initialized()
