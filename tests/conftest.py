"""Shared by all tests: seeds, a network of a few thousand parameters, fresh processes."""

import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def seeds():
    """The same random numbers in every test, whichever tests run before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def untuned(monkeypatch):
    """No times decide what a test computes; tests of the tuner ask for it."""
    monkeypatch.setenv('CONVNEXT_BACKBONES_TUNE', 'off')


@pytest.fixture
def miniature():
    """The smallest ``arch`` with all the parts: four stages, one of them of two blocks."""
    return dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))


@pytest.fixture
def run_python():
    """Run a snippet in a fresh process as ``run_python(code, cwd)``; returns what it printed.

    ``cwd`` should be a temporary directory: the process sees the package as an installed one,
    through PYTHONPATH, and nothing else of the checkout.
    """

    def run(code: str, cwd: Path, timeout: float = 300) -> str:
        path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get('PYTHONPATH')]))
        done = subprocess.run(
            [sys.executable, '-c', textwrap.dedent(code)],
            cwd=cwd,
            env={**os.environ, 'PYTHONPATH': path},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f'exit status {done.returncode}\n{done.stdout}\n{done.stderr}'
        return done.stdout

    return run
