"""Several trainings in the processes that torchrun starts: distributed_steps.py COMMANDS.

COMMANDS is a JSON list with the arguments of ``tools/train.py`` for each of them.
"""

import json
import sys

import pytest
import torch

from support.miniatures import leave_configs_unformatted
from tools import train

leave_process_group = train.leave_process_group
# A second group would meet the addresses that the first one left in torchrun's store.
train.leave_process_group = torch.distributed.barrier
leave_configs_unformatted(pytest.MonkeyPatch())
for command in json.loads(sys.argv[1]):
    train.main([*command, '--launcher', 'pytorch'])
leave_process_group()
