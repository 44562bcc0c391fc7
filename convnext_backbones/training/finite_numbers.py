"""Stop a training before NaN or infinity reaches the weights.

mmengine computes losses, gradients and the optimizer step in a single call, and hooks run only
before or after that call. By then one NaN gradient has turned every weight into NaN. The hook in
this module therefore wraps the model and the optimizer, and checks each step before it is taken.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, update_wrapper
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from ..engine.batch_files import FILES_SHOWN, NotFiniteError, file_names
from ..io.wording import first_names
from .validation_loss import mean_losses

# Dynamic loss scaling halves the scale at every overflow: from torch's initial 65536 down to 1
# takes 16. A fixed scale never changes, so overflows are counted as well.
MOST_OVERFLOWS_IN_A_ROW = 30


@dataclass
class Batch:
    """One of the batches that make up the current optimizer step, and its losses by name."""

    data: dict
    losses: Mapping[str, Tensor]


@HOOKS.register_module()
class FiniteNumbersHook(Hook):
    """Take optimizer steps only if losses and gradients are finite in every process.

    Otherwise either all processes skip the step, or all of them stop. When they stop, one message
    gives the iteration, the loss terms, the parameters and the files, and the state before the
    step is saved to ``WORK_DIR/nonfinite_iter_N.pth``.

    With loss scaling, non-finite gradients of a finite loss are an fp16 overflow: the scaler skips
    the step and lowers its scale, and the training continues. It is treated as divergence when the
    scale has reached 1, or after :data:`MOST_OVERFLOWS_IN_A_ROW` overflows in a row.

    Args:
        most_skips_in_a_row: The number of consecutive steps that may be skipped; 0 stops at the
            first.

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
        """Wrap ``parse_losses`` and ``step`` so that each step is checked first."""
        self.runner = runner
        self.model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.model.parse_losses = partial(self._parse_losses, self.model.parse_losses)
        step = runner.optim_wrapper.step
        # Copies the attribute by which mmengine's schedulers recognize a method they have wrapped.
        runner.optim_wrapper.step = update_wrapper(partial(self._step, step), step)

    def after_train(self, runner: Runner) -> None:
        """Remove the wrappers, and log how many steps were not taken."""
        del self.model.parse_losses
        runner.optim_wrapper.step = runner.optim_wrapper.step.__wrapped__
        if self.skips or self.overflows:
            runner.logger.warning(
                f'Steps not taken: {self.skips} because losses or gradients were not finite, '
                f'{self.overflows} because gradients overflowed fp16.'
            )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Remember the batch and, at the start of a step, the model's buffers (norm statistics)."""
        self.data = data_batch
        if not self.batches:
            self.buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Forget the batch: any losses computed from here on belong to a validation."""
        self.data = None

    def _parse_losses(self, parse: Callable, losses: dict) -> tuple[Tensor, Mapping[str, Tensor]]:
        total, terms = parse(losses)
        if self.data is not None:
            self.batches.append(Batch(self.data, terms))
        return total, terms

    def _step(self, step: Callable[..., None], **kwargs: Any) -> None:
        """Take the step, leave it to the loss scaler, or refuse it."""
        parameters = [
            parameter
            for group in self.runner.optim_wrapper.optimizer.param_groups
            for parameter in group['params']
            if parameter.grad is not None
        ]
        # All norms in one call, as torch's gradient clipping does: there may be hundreds.
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
        """Let the loss scaler handle the overflow: it skips the step and lowers its scale."""
        before = self._loss_scale
        step()
        self.overflows += 1
        self.overflows_in_a_row += 1
        self.runner.logger.info(
            f'The gradients of {self._place()} overflowed at a loss scale of {before:g}, which '
            f'is now {self._loss_scale:g}; no step was taken (overflow {self.overflows} so far).'
        )

    def _refuse(self, bad_parameters: set[int]) -> None:
        """Skip the step, or stop the training.

        Args:
            bad_parameters: The ids of the parameters whose gradients are not finite here.
        """
        for buffer, value in self.buffers:
            buffer.copy_(value)
        batches = [
            dict(
                files=file_names(batch.data),
                losses={name: x.item() for name, x in batch.losses.items() if 'loss' in name},
            )
            for batch in self.batches
        ]
        names = [name for name, p in self.model.named_parameters() if id(p) in bad_parameters]
        records = all_gather_object(dict(batches=batches, parameters=names))
        record = dict(
            batches=[batch for record in records for batch in record['batches']],
            parameters=list(dict.fromkeys(sum((r['parameters'] for r in records), []))),
        )
        problem = f'{self._place()}: {describe_problem(**record)}'
        if self.skips_in_a_row == self.most_skips_in_a_row:
            self._stop(problem, record)
        self.skips += 1
        self.skips_in_a_row += 1
        self.runner.logger.warning(
            f'Skipped the step of {problem} Skipped {self.skips} so far, {self.skips_in_a_row} in '
            f'a row of at most {self.most_skips_in_a_row}.'
        )

    def _stop(self, problem: str, record: dict) -> None:
        """Save the state before the step, and raise NotFiniteError in all processes."""
        name = f'nonfinite_iter_{self.runner.iter + 1}.pth'
        path = os.path.join(self.runner.work_dir, name)
        try:
            meta = dict(nonfinite=record)
            self.runner.save_checkpoint(self.runner.work_dir, name, meta=meta, by_epoch=False)
            saved = f'The state before the step is in {path}.'
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError on a full disk
            saved = f'The state before the step could not be saved to {path}: {error}.'
        skipped = f' after {self.skips_in_a_row} skipped steps' if self.skips_in_a_row else ''
        message = (
            f'Stopped{skipped} at {problem} {self._diagnosis(record)}{saved} Look at these images '
            'and their annotations, lower the learning rate or warm up longer; --skip-bad-steps '
            'continues without such steps.'
        )
        if is_main_process():
            self.runner.logger.error(message)
        barrier()  # a launcher may kill the other processes as soon as the first one ends
        raise NotFiniteError(message)

    def _diagnosis(self, record: dict) -> str:
        """Return a sentence on whether fp16 is the cause; empty if fp16 is not in use."""
        # An AmpOptimWrapper without a dtype uses autocast's default, fp16.
        if getattr(self.runner.optim_wrapper, 'cast_dtype', '') not in (None, torch.float16):
            return ''
        if all(map(losses_are_finite, record['batches'])):
            return (
                f'At a loss scale of {self._loss_scale:g}, after {self.overflows_in_a_row} '
                'overflows in a row, this is divergence and not a passing overflow of fp16. '
            )
        bad = [batch for batch in self.batches if not batch.losses['loss'].isfinite()]
        # A collective operation: every process takes part, even if its own losses are finite.
        loss = mean_losses(self.runner.model, [(bad or self.batches)[0].data])['loss']
        if math.isfinite(loss):
            return (
                f'In fp32 the loss is {loss:.4g}: fp16 overflowed in the forward pass; train with '
                '--precision bf16 or fp32. '
            )
        return 'In fp32 it is not finite either: the training diverged, or the data are bad. '

    def _place(self) -> str:
        """Return the position in the training, counted as in the log."""
        place = f'iteration {self.runner.iter + 1}'
        if isinstance(self.runner.train_loop, EpochBasedTrainLoop):
            place += f' (epoch {self.runner.epoch + 1})'
        return place


def losses_are_finite(batch: dict) -> bool:
    """Whether all losses of a batch are finite; ``batch`` is an entry of the saved record."""
    return all(map(math.isfinite, batch['losses'].values()))


def describe_problem(batches: list[dict], parameters: list[str]) -> str:
    """Return sentences that say what is not finite, to be placed after a colon.

    Args:
        batches: ``files`` and ``losses`` of the batches of a step.
        parameters: Names of the parameters whose gradients are not finite.
    """
    bad = [batch for batch in batches if not losses_are_finite(batch)]
    text = 'the loss is not finite' if bad else 'the gradients are not finite, unlike the loss'
    parts = []
    for batch in bad or batches:
        losses = ', '.join(f'{name}={value:.4g}' for name, value in batch['losses'].items())
        files = f' of {first_names(batch["files"], FILES_SHOWN)}' if batch['files'] else ''
        parts.append(losses + files)
    text += f' ({"; ".join(parts)}).'
    if parameters:
        text += f' Parameters with such gradients: {first_names(parameters)}.'
    return text
