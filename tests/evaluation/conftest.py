"""Test runs whose predictions several modules evaluate again."""

import pytest
from support.noisy_runs import CASES, Online, run_online


@pytest.fixture(scope='session')
def detected(tmp_path_factory) -> Online:
    return run_online('det', tmp_path_factory.mktemp('det'))


@pytest.fixture(scope='session')
def segmented(tmp_path_factory) -> Online:
    return run_online('seg', tmp_path_factory.mktemp('seg'))


@pytest.fixture(params=CASES)
def online(request, detected, segmented) -> Online:
    return {'det': detected, 'seg': segmented}[request.param]
