"""Stops a training before numbers that are not finite reach its weights.

mmengine computes the losses, their gradients and the step of the optimizer in one call, and its
hooks run before or after. By then a single NaN among the gradients has made every weight NaN. So
the hook of this module puts itself between the gradients and the step.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, update_wrapper

import torch
from mmengine.dist import all_gather_object, all_reduce, barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from ..engine.batch_files import FILES_SHOWN, NotFiniteError, file_names, listed
from .validation_loss import mean_losses

# Dynamic loss scaling halves its scale at every overflow: torch's 65536 is down to 1 after 16. A
# fixed scale stays what it is, so that overflows are counted as well.
PARAMETERS_SHOWN = 3  # in a message; the saved state has all
MOST_OVERFLOWS_IN_A_ROW = 30


@dataclass
class Batch:
    """A batch since the last step of the optimizer, and its losses by name."""

    data: dict
    losses: Mapping[str, Tensor]


class FiniteNumbersHook(Hook):
    """Lets the optimizer step only if losses and gradients are finite in every process.

    Otherwise all processes stop together, with the place in the training, the terms of the loss,
    parameters and files in one message, and the state before the step in
    ``WORK_DIR/nonfinite_iter_N.pth``; or all of them skip the step. Under loss scaling, gradients
    that are not finite though the loss is are an overflow of fp16: the scaler takes no step and
    lowers its scale, and the training goes on, unless the scale is down to 1 or the overflows do
    not end.

    Args:
        most_skips_in_a_row: How many steps may be skipped one after the other; with 0 the training
            stops at the first.

    Raises:
        ValueError: ``most_skips_in_a_row`` is negative.
    """

    def __init__(self, most_skips_in_a_row: int = 0) -> None:
        if most_skips_in_a_row < 0:
            raise ValueError(f'expected --skip-bad-steps of 0 or more, got {most_skips_in_a_row}')
        self.most_skips_in_a_row = most_skips_in_a_row
        self.skips = self.skips_in_a_row = 0
        self.overflows = self.overflows_in_a_row = 0
        self.data: dict | None = None  # of the current iteration
        self.batches: list[Batch] = []
        self.buffers: list[tuple[Tensor, Tensor]] = []

    def before_train(self, runner: Runner) -> None:
        """Step between mmengine, the losses of the model, and the optimizer."""
        self.runner = runner
        self.model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.model.parse_losses = partial(self._parse_losses, self.model.parse_losses)
        step = runner.optim_wrapper.step
        # With the mark by which mmengine's schedulers know that they have seen it.
        runner.optim_wrapper.step = update_wrapper(partial(self._step, step), step)

    def after_train(self, runner: Runner) -> None:
        """Step aside, and say how many steps were not taken."""
        del self.model.parse_losses
        runner.optim_wrapper.step = runner.optim_wrapper.step.__wrapped__
        if self.skips or self.overflows:
            runner.logger.warning(
                f'Steps not taken: {self.skips} as losses or gradients were not finite, '
                f'{self.overflows} as gradients overflowed fp16.'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Note the batch and, before the first one of a step, the statistics of norms."""
        self.data = data_batch
        if not self.batches:
            self.buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """The iteration is over: losses that follow are those of a validation."""
        self.data = None

    def _parse_losses(self, parse: Callable, losses: dict) -> tuple[Tensor, Mapping[str, Tensor]]:
        total, terms = parse(losses)
        if self.data is not None:
            self.batches.append(Batch(self.data, terms))
        return total, terms

    def _step(self, step: Callable[..., None], **kwargs) -> None:
        """Take the step, or leave it to the loss scaling, or refuse it."""
        parameters = [
            parameter
            for group in self.runner.optim_wrapper.optimizer.param_groups
            for parameter in group['params']
            if parameter.grad is not None
        ]
        # All norms at once, as in torch's own clipping: there may be hundreds.
        norms = torch.stack(torch._foreach_norm([parameter.grad for parameter in parameters]))
        losses = torch.stack([batch.losses['loss'].detach() for batch in self.batches])
        finite = torch.stack([losses.isfinite().all(), norms.isfinite().all().to(losses.device)])
        finite = finite.int()
        all_reduce(finite, 'min')
        losses_finite, gradients_finite = finite.tolist()
        if losses_finite and gradients_finite:
            self.skips_in_a_row = self.overflows_in_a_row = 0
            step(**kwargs)
        elif losses_finite and self._may_be_overflow():
            self._overflow(partial(step, **kwargs))
        else:
            self._refuse({id(parameters[i]) for i in (~norms.isfinite()).nonzero()})
        self.batches.clear()

    @property
    def _loss_scale(self) -> float:
        scaler = getattr(self.runner.optim_wrapper, 'loss_scaler', None)
        return 1.0 if scaler is None else scaler.get_scale()

    def _may_be_overflow(self) -> bool:
        return self._loss_scale > 1 and self.overflows_in_a_row < MOST_OVERFLOWS_IN_A_ROW

    def _overflow(self, step: Callable[[], None]) -> None:
        """Let the loss scaling do its work: it takes no step, and lowers its scale."""
        before = self._loss_scale
        step()
        self.overflows += 1
        self.overflows_in_a_row += 1
        self.runner.logger.info(
            f'The gradients of {self._place()} overflowed at a loss scale of {before:g}, which '
            f'is now {self._loss_scale:g}; no step was taken (overflow {self.overflows} so far).'
        )

    def _refuse(self, infinite: set[int]) -> None:
        """Skip the step, or stop; ``infinite`` are the ids of parameters with such gradients."""
        for buffer, value in self.buffers:
            buffer.copy_(value)
        batches = [
            dict(
                files=file_names(batch.data),
                losses={name: x.item() for name, x in batch.losses.items() if 'loss' in name},
            )
            for batch in self.batches
        ]
        names = [name for name, p in self.model.named_parameters() if id(p) in infinite]
        records = all_gather_object(dict(batches=batches, parameters=names))
        record = dict(
            batches=[batch for record in records for batch in record['batches']],
            parameters=list(dict.fromkeys(sum((r['parameters'] for r in records), []))),
        )
        trouble = f'{self._place()}: {describe(**record)}'
        if self.skips_in_a_row == self.most_skips_in_a_row:
            self._stop(trouble, record)
        self.skips += 1
        self.skips_in_a_row += 1
        self.runner.logger.warning(
            f'Skipped the step of {trouble} Skipped {self.skips} so far, {self.skips_in_a_row} in '
            f'a row of at most {self.most_skips_in_a_row}.'
        )

    def _stop(self, trouble: str, record: dict) -> None:
        """Save the state before the step, and raise NotFiniteError in all processes."""
        name = f'nonfinite_iter_{self.runner.iter + 1}.pth'
        path = os.path.join(self.runner.work_dir, name)
        try:
            meta = dict(nonfinite=record)
            self.runner.save_checkpoint(self.runner.work_dir, name, meta=meta, by_epoch=False)
            saved = f'The state before the step is in {path}.'
        except (OSError, RuntimeError) as error:  # torch makes the latter of a full disk
            saved = f'The state before the step could not be saved to {path}: {error}.'
        skipped = f' after {self.skips_in_a_row} skipped steps' if self.skips_in_a_row else ''
        message = (
            f'Stopped{skipped} at {trouble} {self._verdict(record)}{saved} Look at these images '
            'and their annotations, lower the learning rate or warm up longer; --skip-bad-steps '
            'goes on without such steps.'
        )
        if is_main_process():
            self.runner.logger.error(message)
        barrier()  # the first process that ends may take the others with it
        raise NotFiniteError(message)

    def _verdict(self, record: dict) -> str:
        """Whether fp16 is at problem, where it is in use."""
        # Autocast takes fp16 where an AmpOptimWrapper names no type.
        if getattr(self.runner.optim_wrapper, 'cast_dtype', '') not in (None, torch.float16):
            return ''
        if all(map(losses_are_finite, record['batches'])):
            return (
                f'At a loss scale of {self._loss_scale:g}, after {self.overflows_in_a_row} '
                'overflows in a row, this is divergence and not a passing overflow of fp16. '
            )
        infinite = [batch for batch in self.batches if not batch.losses['loss'].isfinite()]
        # Every process takes part, whether or not its own losses are finite.
        loss = mean_losses(self.runner.model, [(infinite or self.batches)[0].data])['loss']
        if math.isfinite(loss):
            return (
                f'In fp32 the loss is {loss:.4g}: fp16 overflowed in the forward pass; train with '
                '--precision bf16 or fp32. '
            )
        return 'In fp32 it is not finite either: the training diverged, or the data are bad. '

    def _place(self) -> str:
        """Where in the training this is, counted as in the log."""
        place = f'iteration {self.runner.iter + 1}'
        if isinstance(self.runner.train_loop, EpochBasedTrainLoop):
            place += f' (epoch {self.runner.epoch + 1})'
        return place


def losses_are_finite(batch: dict) -> bool:
    """Of a batch as the saved state records it."""
    return all(map(math.isfinite, batch['losses'].values()))


def describe(batches: list[dict], parameters: list[str]) -> str:
    """What is not finite, in sentences that follow a colon.

    Args:
        batches: ``files`` and ``losses`` of the batches of a step.
        parameters: The names of those whose gradients are not finite.
    """
    infinite = [batch for batch in batches if not losses_are_finite(batch)]
    text = 'the loss is not finite' if infinite else 'the gradients are not finite, unlike the loss'
    parts = []
    for batch in infinite or batches:
        losses = ', '.join(f'{name}={value:.4g}' for name, value in batch['losses'].items())
        parts.append(f'{losses} of {listed(batch["files"], FILES_SHOWN)}')
    text += f' ({"; ".join(parts)}).'
    if parameters:
        text += f' Parameters with such gradients: {listed(parameters, PARAMETERS_SHOWN)}.'
    return text
