"""Fully sharded data parallelism (FSDP) through mmengine, for models that do not fit one GPU.

Every process keeps a shard of the weights, gradients and optimizer state. Each block of the
backbone is a unit whose weights are gathered when it runs and freed afterwards; everything else
(stem, downsampling, norms, neck and heads) is one more unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import STRATEGIES
from torch import nn
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    StateDictType,
)
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from ..models.block import Block

SHARDED_STRATEGY = 'BlockwiseFSDPStrategy'


@STRATEGIES.register_module(SHARDED_STRATEGY)
class BlockwiseFSDPStrategy(FSDPStrategy):
    """FSDP strategy of mmengine with each block of the backbone as a unit.

    Checkpoints hold the full state under the original names, so every tool can read them.
    ``optim_wrapper.type='AmpOptimWrapper'`` trains in mixed precision as it does without FSDP:
    fp32 weights, autocast operations. FSDP's own mixed precision, which casts whole modules
    including norms and losses, is
    ``model_wrapper=dict(mixed_precision=dict(param_dtype='bfloat16'))``.

    Args:
        model_wrapper: Further arguments for mmengine's ``MMFullyShardedDataParallel``.
        kwargs: Arguments of mmengine's ``FSDPStrategy``.
    """

    def __init__(self, *, model_wrapper: dict | None = None, **kwargs: Any) -> None:
        on_gpu = get_device() != 'cpu'
        wrapper = dict(
            type='MMFullyShardedDataParallel',
            auto_wrap_policy=ModuleWrapPolicy({Block}),  # subclasses of Block as well
            # Parameters of one unit may belong to different optimizer groups.
            use_orig_params=True,
        )
        if not on_gpu:
            # mmengine 0.10.7 passes the index of a GPU.
            wrapper['device_id'] = torch.device('cpu')
        # The first process gathers the state one unit at a time and moves it to the CPU. No offload
        # for a model on the CPU: torch 2.13 would free its tensors before saving.
        gather = dict(rank0_only=True, offload_to_cpu=on_gpu)
        state_dict_cfg = dict(
            state_dict_type=StateDictType.FULL_STATE_DICT,
            state_dict_config=FullStateDictConfig(**gather),
            optim_state_dict_config=FullOptimStateDictConfig(**gather),
        )
        super().__init__(
            model_wrapper=wrapper | (model_wrapper or {}),
            **dict(state_dict_cfg=state_dict_cfg) | kwargs,
        )

    def build_optim_wrapper(self, optim_wrapper: dict, model: nn.Module) -> BaseOptimWrapper:
        """Build the optimizer with the same groups as for a model without shards.

        The groups depend on shapes and names, and sharding changes both: the shard of a matrix is
        a vector, which would get no weight decay, and wrappers add to parameter names.
        """
        full_params = FullyShardedDataParallel.summon_full_params(model, writeback=False)
        with full_params, _blocks_unwrapped(model):
            return super().build_optim_wrapper(optim_wrapper, model)

    def optim_state_dict(self) -> dict:
        """Return the full state of the optimizer and of its wrapper, such as the loss scale.

        torch gathers only the optimizer's; the wrapper's is the same in every process.
        """
        return super().optim_state_dict() | self._added_by_wrapper(self.optim_wrapper.state_dict())

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the result of :meth:`optim_state_dict` into the shards.

        mmengine 0.10.7 passes the arguments in the order of torch 2.0; later versions differ.
        """
        shards = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(shards | self._added_by_wrapper(state_dict))

    @staticmethod
    def _added_by_wrapper(state_dict: dict) -> dict:
        return {k: v for k, v in state_dict.items() if k not in ('state', 'param_groups')}


@contextmanager
def _blocks_unwrapped(model: nn.Module) -> Iterator[None]:
    """Temporarily replace the FSDP wrappers below ``model`` by the modules that they wrap."""
    wrapped = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, FullyShardedDataParallel)
    ]
    for parent, name, child in wrapped:
        setattr(parent, name, child.module)
    try:
        yield
    finally:
        for parent, name, child in wrapped:
            setattr(parent, name, child)
