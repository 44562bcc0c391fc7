"""The loss on the validation set, as an option of a training.

After each validation, the model's own loss is computed on the validation samples in evaluation
mode. ``tools/train.py --val-loss`` turns it on, and so does ``dict(type='ValidationLossHook')`` in
the custom hooks of a config. It does not change the training, which stays the same bit for bit.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook, IterTimerHook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner, set_random_seed
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import DataLoader

from ..config.walk import annotated_dataset
from ..reports.results_table import VAL_LOSS_PREFIX

SEED = 0  # for random choices within a loss, such as the proposals that a detector samples


@HOOKS.register_module()
class ValidationLossHook(Hook):
    """Add ``val/loss`` and its terms to the metrics of each validation.

    The log, the records and ``CheckpointHook(save_best='val/loss', rule='less')`` use them.
    """

    # Before the hooks that log metrics.
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self.dataloader: DataLoader | None = None

    def before_train(self, runner: Runner) -> None:
        """Build the data loader, so that missing annotations are an error now and not later."""
        self._build_dataloader(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Drop the values of the last validation: mmengine would average them with the new."""
        self._build_dataloader(runner)
        log_scalars = runner.message_hub.log_scalars
        for name in [name for name in log_scalars if name.startswith(f'val/{VAL_LOSS_PREFIX}')]:
            del log_scalars[name]

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Compute the losses and add them to ``metrics``, in place."""
        assert metrics is not None  # mmengine's validation loops always pass them
        losses = mean_losses(runner.model, self._build_dataloader(runner))
        metrics.update({f'{VAL_LOSS_PREFIX}{name}': loss for name, loss in losses.items()})
        for hook in runner.hooks:
            if isinstance(hook, IterTimerHook):
                # Otherwise this time counts as data loading time of the next training iteration.
                hook.t = time.time()

    def _build_dataloader(self, runner: Runner) -> DataLoader:
        if self.dataloader is None:
            dataset = annotated_dataset(runner.cfg)
            # Persistent workers would stay idle from one validation to the next.
            settings = dict(runner.cfg.val_dataloader, dataset=dataset, persistent_workers=False)
            # Without a seed, its sampler would draw one from the training's random numbers.
            self.dataloader = runner.build_dataloader(settings, seed=SEED)
        return self.dataloader


@torch.no_grad()
def mean_losses(model: nn.Module, dataloader: Iterable[dict]) -> dict[str, float]:
    """Return the model's loss and its terms, each averaged over the samples of all processes.

    A batch is weighted by its number of samples. Random choices within a loss are the same for
    every call.

    Args:
        model: A detector or segmentor, or a distributed wrapper of one; it is left unchanged.
        dataloader: Batches with annotations.

    Returns:
        The means by name, ``loss`` included.

    Raises:
        ValueError: The samples lack annotations that the loss needs.
    """
    module: BaseModel = model.module if is_model_wrapper(model) else model
    totals: dict[str, float] = defaultdict(float)
    samples = 0
    with undisturbed(module):
        for batch in dataloader:
            set_random_seed(SEED)
            # In training mode, because only that pads labels along with images.
            data = module.data_preprocessor(batch, training=True)
            try:
                losses = model(**data, mode='loss')
            except AttributeError as error:
                if not isinstance(error.obj, BaseDataElement):
                    raise
                raise ValueError(
                    f'expected samples with the annotations that the loss needs, got one without '
                    f'{str(error.name).lstrip("_")}; load in val_dataloader what train_dataloader '
                    'loads'
                ) from error
            size = len(data['data_samples'])
            samples += size
            for name, value in module.parse_losses(losses)[1].items():
                if 'loss' in name:
                    totals[name] += size * value.item()
    sums = torch.tensor([*totals.values(), samples], dtype=torch.float64)
    all_reduce(sums)
    return dict(zip(totals, (sums[:-1] / sums[-1]).tolist(), strict=True))


@contextmanager
def undisturbed(model: BaseModel) -> Iterator[None]:
    """Put ``model`` in evaluation mode within a block, without any effect on later training.

    Norms, dropout and stochastic depth are in evaluation mode, and the preprocessor does not
    augment. Afterwards the modes, the states of the random generators and the buffers (in which
    some losses keep statistics) are restored.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    augments = getattr(model.data_preprocessor, 'batch_augments', None)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            model.eval()
            model.data_preprocessor.batch_augments = None
            yield
        finally:
            model.data_preprocessor.batch_augments = augments
            for module, training in modes:
                module.training = training
            for buffer, value in buffers:
                buffer.copy_(value)
            random.setstate(python_state)
            np.random.set_state(numpy_state)
