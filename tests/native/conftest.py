"""The kernels, and numbers of threads."""

import pytest
import torch

from convnext_backbones.native.compiler import load


@pytest.fixture
def library():
    return load()


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
