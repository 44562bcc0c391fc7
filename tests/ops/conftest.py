"""Every operator by every provider that runs here."""

import pytest
from support.operators import computed_by, skip_unless_it_runs

STAND_INS = ['torchvision', 'torch']


@pytest.fixture(params=['mmcv', *STAND_INS])
def provider(request):
    """The name of a provider, which computes mmcv's operators during the test."""
    skip_unless_it_runs(request.param)
    with computed_by(request.param):
        yield request.param


@pytest.fixture(params=STAND_INS)
def stand_in(request):
    """The same without compiled mmcv: for what it lacks on CPUs, and for comparisons with it."""
    skip_unless_it_runs(request.param)
    with computed_by(request.param):
        yield request.param


@pytest.fixture
def compiled():
    """Nothing; tests that use it need compiled mmcv."""
    skip_unless_it_runs('mmcv')
