"""Makes a resumed run draw the random numbers of the run that was never stopped."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import torch
from mmengine.dataset import worker_init_fn
from mmengine.hooks import Hook


class ResumableRandomnessHook(Hook):
    """Derives random numbers from the seed, the process, the epoch and the iteration.

    mmengine restores weights, optimizer, schedule and the order of the samples. It does not
    restore the states of the random generators, by which augmentation, dropout, stochastic depth
    and the choice of proposals differ after resuming. Nothing has to be stored for them:

    - before every epoch (the only one, in iteration-based training) all generators of the
      process are seeded, and with them data workers that start from then on;
    - before every iteration torch's is seeded again, by which the model draws.

    Iteration-based training resumes by loading the batches that were seen, and mmengine's
    augmentations draw from numpy: those of the batches that follow are the same. Epoch-based
    training resumes at the start of an epoch. The number of processes and of workers has to be
    that of the first run. On the CPU the resumed run is then equal bit for bit; on GPUs, whose
    operations do not all repeat themselves, as far as ``randomness.deterministic`` makes them.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner) -> None:
        """Seed the generators of this process and of the data workers that start from now on."""
        seed = derive_seed(runner.seed, runner.rank, runner.epoch)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        loader = runner.train_dataloader
        # Persistent workers would go on with the generators of the epoch before.
        loader._iterator = None
        if getattr(loader.worker_init_fn, 'func', None) is worker_init_fn:
            # mmengine's, which adds the number of the worker.
            loader.worker_init_fn = partial(loader.worker_init_fn, seed=seed)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Seed torch's generator."""
        torch.manual_seed(derive_seed(runner.seed, runner.rank, runner.epoch, 1 + runner.iter))


def derive_seed(*numbers: int) -> int:
    """One well-mixed seed of several numbers, in [0, 2**31)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) >> 1
