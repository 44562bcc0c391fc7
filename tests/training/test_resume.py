"""Checkpoints to resume from, and the loop and hooks that make resuming exact."""

import errno
import os
import re
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop

from convnext_backbones.training.resume import (
    INTERRUPTED,
    PositionHook,
    ResumableEpochBasedTrainLoop,
    SafeCheckpointHook,
    newest_checkpoint,
    set_resumable,
)


def write(path: Path, time: str, iter: int = 0) -> Path:
    checkpoint = dict(meta=dict(time=time, epoch=0, iter=iter), state_dict=dict(w=torch.rand(1000)))
    torch.save(checkpoint, path)
    return path


def test_the_newest_whole_checkpoint_is_found_and_damaged_ones_are_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        'convnext_backbones.training.resume.print_log', lambda text, *_: said.append(text)
    )
    assert newest_checkpoint(tmp_path) is None
    # The latest is not the one with the highest number, and not the one that was copied last.
    oldest = write(tmp_path / 'epoch_30.pth', '20260101_000000', iter=30)
    old = write(tmp_path / INTERRUPTED, '20260102_000000', iter=7)
    cut = write(tmp_path / 'iter_12.pth', '20260103_000000', iter=12)
    changed = write(tmp_path / 'iter_8.pth', '20260103_000000', iter=8)
    write(tmp_path / 'best_mIoU_iter_8.pth', '20260104_000000')
    (tmp_path / 'iter_9.pth.tmp').write_bytes(b'half')
    (tmp_path / 'last_checkpoint').write_text(str(cut))
    assert newest_checkpoint(tmp_path) == str(cut)
    os.truncate(cut, cut.stat().st_size // 2)
    with changed.open('r+b') as file:
        file.seek(changed.stat().st_size // 2)
        file.write(b'zero')
    assert not said
    assert newest_checkpoint(tmp_path) == str(old)
    assert re.search(r'Skipped a damaged checkpoint: .*iter_12\.pth', said[0])
    assert re.search(r'Skipped a damaged checkpoint: .*iter_8\.pth.* checksum', said[1])
    assert len(said) == 2
    for path in (oldest, old):
        path.write_bytes(b'')
    with pytest.raises(ValueError, match=r'expected an undamaged checkpoint in .*, got 4 damaged'):
        newest_checkpoint(tmp_path)


def test_a_checkpoint_elsewhere_is_found_by_the_pointer(tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    path = write(tmp_path / 'elsewhere/mine_3.pth', '20260101_000000')
    (tmp_path / 'last_checkpoint').write_text(str(path))
    assert newest_checkpoint(tmp_path) == str(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match='mine_3.pth'):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize('full', [False, True])
def test_the_last_checkpoint_goes_when_the_next_is_there(full, tmp_path):
    hook = SafeCheckpointHook(interval=1, max_keep_ckpts=1, save_best='score', rule='greater')
    info = {}
    hub = SimpleNamespace(
        runtime_info=info,
        get_info=info.get,
        update_info=lambda key, value: info.update({key: value}),
    )
    seen = []

    def save(out_dir, filename, *_, **__):
        seen.append(sorted(path.name for path in tmp_path.glob('*.pth')))
        if full and len(seen) == 4:
            raise OSError(errno.ENOSPC, 'full')
        (tmp_path / filename).touch()

    runner = SimpleNamespace(
        work_dir=str(tmp_path), message_hub=hub, logger=SimpleNamespace(info=lambda text: None)
    )
    runner.epoch = runner.iter = 0
    runner.save_checkpoint = save
    hook.before_train(runner)
    hook._save_checkpoint(runner)
    runner.epoch = 1
    hook._save_best_checkpoint(runner, dict(score=1.0))
    (tmp_path / INTERRUPTED).touch()
    if full:
        with pytest.raises(OSError, match='full'):
            hook._save_checkpoint(runner)
        assert (tmp_path / INTERRUPTED).exists()
    else:
        hook._save_checkpoint(runner)
        runner.epoch = 2
        hook._save_best_checkpoint(runner, dict(score=2.0))
    # The first and its best, written twice; then the second, beside the first.
    first = ['best_score_epoch_1.pth', 'epoch_1.pth']
    assert seen[:4] == [[], ['epoch_1.pth'], first, [*first, INTERRUPTED]]
    left = [path.name for path in tmp_path.glob('*.pth')]
    both = ['best_score_epoch_2.pth', 'epoch_2.pth']
    assert sorted(left) == ([*first, INTERRUPTED] if full else both)


def test_only_mmengines_own_loop_and_hook_are_replaced():
    cfg = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=1)))
    set_resumable(cfg)
    assert cfg.train_cfg.type == 'ResumableEpochBasedTrainLoop'
    assert 'by_epoch' not in cfg.train_cfg
    assert cfg.custom_imports.imports == ['convnext_backbones.training']
    assert cfg.default_hooks.checkpoint.interval == 1
    done = deepcopy(cfg.to_dict())
    set_resumable(cfg)
    assert cfg.to_dict() == done
    cfg = Config(dict(train_cfg=dict(by_epoch=False), default_hooks=dict(checkpoint=None)))
    set_resumable(cfg)
    assert cfg.train_cfg == dict(by_epoch=False) and cfg.default_hooks.checkpoint is None
    assert 'custom_imports' not in cfg
    cfg = Config(dict(default_hooks=dict(checkpoint=dict(type=CheckpointHook, interval=3))))
    set_resumable(cfg)
    assert cfg.default_hooks.checkpoint.type == 'SafeCheckpointHook'


@pytest.mark.parametrize('kind', [EpochBasedTrainLoop, ResumableEpochBasedTrainLoop])
def test_the_position_needs_no_loop_of_this_package(kind):
    """A training without set_resumable repeats an epoch that it did not finish."""
    loop = object.__new__(kind)
    runner = SimpleNamespace(cfg=dict(resume=True), train_loop=loop, epoch=1, iter=5)
    hook = PositionHook()
    hook.after_load_checkpoint(runner, dict(meta=dict(seen_batches=3, validated=False)))
    checkpoint = dict(meta=dict(epoch=1, iter=5))
    hook.before_save_checkpoint(runner, checkpoint)
    resumable = kind is ResumableEpochBasedTrainLoop
    assert checkpoint['meta']['seen_batches'] == (3 if resumable else 0)
