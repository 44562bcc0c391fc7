"""Two processes train one of each kind of architecture, and no parameter is waited for in vain."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A segmentor with two maps; a dense detector, one with RoI heads, a transformer, one of masks, and
# a segmentor with one map.
QUICK = ('PSPNet',)
SLOW = ('RetinaNet', 'Faster R-CNN', 'DINO', 'Mask2Former', 'FCN')


@pytest.mark.parametrize('names', [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)])
def test_two_processes_train_without_unused_parameters(names):
    paths = f'{ROOT}:{ROOT / "tests"}'
    command = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    script = ROOT / 'tests/support/exchanged_steps.py'
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *command, str(script), json.dumps(names)],
        capture_output=True,
        text=True,
        timeout=900,
        env=dict(os.environ, PYTHONPATH=paths, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line for line in done.stdout.splitlines() if line.startswith('trained')] == [
        f'trained {name}' for name in names
    ]
