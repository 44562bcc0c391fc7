"""The comparison with upstream's training compares what it says, and it passes."""

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from dev import compare_training
from dev.compare_training import PAIRS, Choice, Comparison


@pytest.mark.parametrize('name', PAIRS)
def test_both_sides_have_the_same_tensors_and_settings(name, tmp_path):
    """Everything but the backbone, the constructor and how each writes its config."""
    models, configs = [], []
    for side in (PAIRS[name].ours, PAIRS[name].upstream):
        cfg = compare_training.load_side(side)
        compare_training.set_equal(cfg, tmp_path, tmp_path, steps=2, batch_size=3)
        init_default_scope(cfg.default_scope)
        # mmpretrain's backbone does not build on the meta device.
        with torch.device('meta' if side == PAIRS[name].ours else 'cpu'):
            models.append(MODELS.build(cfg.model))
        configs.append(cfg)
    ours, upstream = models
    assert type(ours.backbone).__module__ != type(upstream.backbone).__module__
    renamed = compare_training.to_upstream(ours.state_dict(), upstream)
    assert {k: v.shape for k, v in renamed.items()} == {
        k: v.shape for k, v in upstream.state_dict().items()
    }
    for key in ('param_scheduler', 'train_cfg', 'randomness'):
        assert configs[0][key] == configs[1][key]
    for cfg in configs:
        assert cfg.optim_wrapper.type == 'OptimWrapper'
        assert cfg.train_dataloader.batch_size == 3


def test_sizes_are_divided_and_numbers_of_other_meaning_are_not():
    node = dict(scales=[(480, 1333), [800, 1333]], crop_size=(384, 600), prob=0.5, size=None)
    compare_training.reduce_sizes(node)
    assert node == dict(scales=[(60, 167), [100, 167]], crop_size=(48, 75), prob=0.5, size=None)


def test_choices_differ_by_index_or_by_box():
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    choice = Choice('RPN', ([3], [5]), boxes)
    assert choice.equals(Choice('RPN', ([3], [5]), boxes + 1e-4))
    assert not choice.equals(Choice('RPN', ([3], [6]), boxes))
    assert not choice.equals(Choice('RPN', ([3], [5]), boxes + 1))


@pytest.mark.parametrize(('loss', 'status'), [(2.0001, 0), (2.001, 1)])
def test_status_says_whether_the_losses_agree(loss, status, monkeypatch, capsys):
    monkeypatch.setattr(
        compare_training, 'compare', lambda *_: Comparison([1.0, loss], [1.0, 2.0], [None, 'RPN'])
    )
    assert compare_training.main(['upernet', '--steps', '2']) == status
    printed = capsys.readouterr().out
    assert ('within 0.0001' if status == 0 else 'BEYOND 0.0001') in printed
    assert 'RPN' in printed


@pytest.mark.slow
@pytest.mark.parametrize('name', PAIRS)
def test_twenty_steps_follow_upstream(name, capsys):
    assert compare_training.main([name]) == 0, capsys.readouterr().out
