"""Fully sharded data parallelism (FSDP) for models that outgrow one GPU, through mmengine.

Every process keeps a share of the weights, gradients and optimizer state. Each block of the
backbone is a unit that is gathered when it runs and let go afterwards; what remains (stem,
downsampling, norms, neck and heads) is one more unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

from ..models.convnext import Block

SHARDED_STRATEGY = 'BlockwiseFSDPStrategy'


@STRATEGIES.register_module(SHARDED_STRATEGY)
class BlockwiseFSDPStrategy(FSDPStrategy):
    """mmengine's FSDP with each block of the backbone as a unit.

    Checkpoints hold the whole state under the original names, so that every tool reads them.
    ``optim_wrapper.type='AmpOptimWrapper'`` trains in mixed precision as without FSDP: fp32
    weights, autocast operations. FSDP's own mixed precision, which casts whole modules, norms and
    losses included, is ``model_wrapper=dict(mixed_precision=dict(param_dtype='bfloat16'))``.

    Args:
        model_wrapper: Further arguments of mmengine's ``MMFullyShardedDataParallel``.
        kwargs: Those of mmengine's ``FSDPStrategy``.
    """

    def __init__(self, *, model_wrapper: dict | None = None, **kwargs) -> None:
        on_gpu = get_device() != 'cpu'
        wrapper = dict(
            type='MMFullyShardedDataParallel',
            auto_wrap_policy=ModuleWrapPolicy({Block}),
            # Parameters of one unit may belong to different groups of the optimizer.
            use_orig_params=True,
        )
        if not on_gpu:
            # mmengine 0.10.7 hands over the number of a GPU.
            wrapper['device_id'] = torch.device('cpu')
        # The first process gathers the state a unit at a time and moves it to the CPU. What is
        # there already, torch 2.13 would free before it is saved.
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
        """Build the optimizer of the model as it would be without shards.

        A shard of a matrix is a vector, and vectors have no weight decay; a wrapper is part of the
        names by which parameters are sorted into groups.
        """
        whole = FullyShardedDataParallel.summon_full_params(model, writeback=False)
        with whole, _blocks_unwrapped(model):
            return super().build_optim_wrapper(optim_wrapper, model)

    def optim_state_dict(self) -> dict:
        """The whole state of the optimizer, and what its wrapper adds, such as the loss scale.

        torch gathers the former only; the latter is the same in every process.
        """
        return super().optim_state_dict() | self._added_by_wrapper(self.optim_wrapper.state_dict())

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load what :meth:`optim_state_dict` gave into the shards.

        mmengine 0.10.7 would give torch the arguments in the order of torch 2.0.
        """
        shards = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(shards | self._added_by_wrapper(state_dict))

    @staticmethod
    def _added_by_wrapper(state_dict: dict) -> dict:
        return {k: v for k, v in state_dict.items() if k not in ('state', 'param_groups')}


@contextmanager
def _blocks_unwrapped(model: FullyShardedDataParallel) -> Iterator[None]:
    """Let the wrapped modules below ``model`` stand in the place of their wrappers."""
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
