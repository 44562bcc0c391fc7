"""Contenders run in processes of their own, which report memory and failures."""

import pytest
from support.contenders import ALLOCATED, build_absent, build_dying, build_greedy

from convnext_backbones.benchmark.race import race
from convnext_backbones.benchmark.worker import CLEAR_REFS, Contender


def test_processes_report_memory_and_failures():
    builds = dict(greedy=build_greedy, dying=build_dying, absent=build_absent)
    found = race([Contender(name, build) for name, build in builds.items()], 1, rounds=3)
    greedy, dying, absent = found
    assert len(greedy.seconds) == 3 and 0 < greedy.median < 5
    assert greedy.measures == dict(difference=0)
    if CLEAR_REFS.exists():
        assert greedy.memory == pytest.approx(ALLOCATED, rel=0.05)
    assert dying.failure == 'its process ended with status 3'
    assert absent.failure == 'not installed: no_such_package_at_all'
