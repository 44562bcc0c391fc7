"""Hooks for the tests that train: what every step did, written where the test can read it."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from convnext_backbones.models.block import Block


@HOOKS.register_module()
class RecordStepsHook(Hook):
    """Writes ``OUT/start.pth``, the weights before training, and ``OUT/rank{N}.pth`` after it.

    The latter holds, per iteration, the loss of this process (``losses``), the images
    (``files``), the learning rates (``rates``), and how often blocks of the backbone ran
    (``block_calls``); and the number of trained values in this process (``parameters``), and name,
    weight decay and members of the optimizer's groups (``groups``).
    """

    priority = 'VERY_LOW'  # after the schedulers and mmengine's own

    def __init__(self, out: str) -> None:
        self.out = Path(out)
        self.record = dict(losses=[], files=[], rates=[], block_calls=[])
        self._calls = 0

    def before_train(self, runner) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        if not is_model_wrapper(runner.model):
            torch.save(dict(state_dict=runner.model.state_dict()), self.out / 'start.pth')
        self.record['parameters'] = sum(p.numel() for p in runner.model.parameters())
        self.record['groups'] = [
            [group[key] for key in ('group_name', 'weight_decay', 'param_names')]
            for group in runner.optim_wrapper.optimizer.param_groups
        ]
        for module in runner.model.modules():
            if isinstance(module, Block):
                module.register_forward_pre_hook(self._count)

    def _count(self, *_) -> None:
        self._calls += 1

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        samples = data_batch['data_samples']
        self.record['files'].append([Path(sample.img_path).name for sample in samples])
        self.record['rates'].append(runner.optim_wrapper.get_lr()['lr'])
        self._calls = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.record['losses'].append(outputs['loss'].item())
        self.record['block_calls'].append(self._calls)

    def after_train(self, runner) -> None:
        torch.save(self.record, self.out / f'rank{get_rank()}.pth')


@HOOKS.register_module()
class RecordGradientsHook(Hook):
    """Writes ``OUT/gradients{N}.pth`` before training: of one batch, alone and synchronised."""

    def __init__(self, out: str) -> None:
        self.out = Path(out)

    def before_train(self, runner) -> None:
        model = runner.model
        assert is_model_wrapper(model)
        batch = next(iter(runner.train_dataloader))
        self.out.mkdir(parents=True, exist_ok=True)
        with model.no_sync():
            alone = gradients(model, batch)
        record = dict(alone=alone, synchronised=gradients(model, batch))
        torch.save(record, self.out / f'gradients{get_rank()}.pth')


def gradients(model, batch) -> dict[str, torch.Tensor]:
    """Of the loss of ``batch``, by name; the same random numbers each time."""
    torch.manual_seed(0)
    model.train()
    model.zero_grad()
    data = model.module.data_preprocessor(batch, True)
    loss, _ = model.module.parse_losses(model(**data, mode='loss'))
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.module.named_parameters()}
    model.zero_grad()
    return found


@HOOKS.register_module()
class FailingHook(RecordStepsHook):
    """Fails in the first iteration, as a bug would."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        raise ValueError('a bug in a hook')
