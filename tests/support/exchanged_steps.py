"""Two steps of small models in the processes that torchrun starts: exchanged_steps.py NAMES.

NAMES is a JSON list of architectures. A parameter without a gradient raises an error in the second
step, because DistributedDataParallel waits for all.
"""

import json
import sys

import torch
from mmengine.model import MMDistributedDataParallel
from torch.nn.modules.batchnorm import _BatchNorm

from dev.exchanged_training import ARCHITECTURES, batch, build_miniature

torch.distributed.init_process_group('gloo')
for name in json.loads(sys.argv[1]):
    torch.manual_seed(0)
    model, head = build_miniature(ARCHITECTURES[name])
    for module in model.modules():  # statistics of two images are no part of this
        if isinstance(module, _BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module
    distributed = MMDistributedDataParallel(model, find_unused_parameters=False)
    distributed.train()
    for _ in range(2):
        data = model.data_preprocessor(batch(head.scope, head.needs_masks), True)
        loss, _ = model.parse_losses(distributed(**data, mode='loss'))
        loss.backward()
    total = sum(parameter.grad.abs().sum() for parameter in model.parameters())
    sums = [torch.zeros(()) for _ in range(2)]
    torch.distributed.all_gather(sums, total)
    assert torch.equal(*sums), name
    if torch.distributed.get_rank() == 0:
        print('trained', name, flush=True)
torch.distributed.destroy_process_group()
