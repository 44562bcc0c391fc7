"""Contenders that processes import by name: one takes memory, one dies, one cannot be built."""

import os
from functools import partial

import numpy as np

from convnext_backbones.benchmark.figures import MIB
from convnext_backbones.benchmark.worker import Prepared

ALLOCATED = 200 * MIB
WEIGHTS = 64 * MIB


def build_greedy():
    """Holds 64 MiB, and takes another 200 while it runs."""
    weights = np.ones(WEIGHTS, np.uint8)
    return Prepared(lambda: np.ones(ALLOCATED, np.uint8), dict(difference=lambda: weights[0] - 1))


def build_dying():
    return Prepared(partial(os._exit, 3))


def build_absent():
    import no_such_package_at_all  # noqa: F401
