"""What FSDP takes for a unit; trainings with it are in tests/commands."""

from torch import nn

from convnext_backbones import ConvNeXt
from convnext_backbones.training.sharding import BlockwiseFSDPStrategy


def test_every_block_is_a_unit_and_so_are_blocks_of_subclasses(miniature):
    model = ConvNeXt(miniature)
    block = model.stages[0][0]
    kind = type(block)
    block.__class__ = type('OtherBlock', (kind,), {})
    policy = BlockwiseFSDPStrategy().model_wrapper['auto_wrap_policy']
    units = [
        name
        for name, module in model.named_modules()
        if policy(module=module, recurse=False, nonwrapped_numel=0)
    ]
    assert units == ['stages.0.0', 'stages.1.0', 'stages.2.0', 'stages.2.1', 'stages.3.0']
    assert not policy(module=nn.Conv2d(1, 1, 1), recurse=False, nonwrapped_numel=0)
