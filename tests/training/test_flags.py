"""What --resume and --checkpointing do to a config; the runs themselves are in test_scale.py."""

import torch
from mmengine.config import Config

from convnext_backbones.engine.runner import backbone_starts_from_scratch
from convnext_backbones.training.flags import set_checkpointing, set_resume


def config(work_dir, **backbone) -> Config:
    model = dict(backbone=dict(type='ConvNeXt', **backbone))
    return Config(dict(model=model, work_dir=str(work_dir), load_from=None))


def test_the_two_forms_of_checkpointing_replace_one_another():
    cfg = config('.', memory_efficient=True)
    set_checkpointing(cfg, 'blocks')
    assert cfg.model.backbone == dict(type='ConvNeXt', with_cp=True)
    set_checkpointing(cfg, 'lean')
    assert cfg.model.backbone == dict(type='ConvNeXt', with_cp=False, memory_efficient=True)


def test_resuming_needs_no_pretrained_weights_and_keeps_the_seed(tmp_path):
    torch.save({'state_dict': {}, 'meta': {'seed': 7}}, tmp_path / 'iter_1.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_1.pth'))
    cfg = config(tmp_path, init_cfg=dict(type='PretrainedConvNeXt', checkpoint='gone'))
    set_resume(cfg, 'auto')
    assert cfg.resume and 'init_cfg' not in cfg.model.backbone
    assert cfg.randomness.seed == 7
    assert not backbone_starts_from_scratch(cfg)


def test_resuming_without_a_checkpoint_is_a_start_with_its_warnings(tmp_path):
    init = dict(type='PretrainedConvNeXt', checkpoint='convnext_tiny_1k_224')
    cfg = config(tmp_path, init_cfg=init)
    set_resume(cfg, 'auto')
    assert not cfg.resume and cfg.model.backbone.init_cfg == init
    cfg = config(tmp_path)
    set_resume(cfg, 'auto')
    assert backbone_starts_from_scratch(cfg)
