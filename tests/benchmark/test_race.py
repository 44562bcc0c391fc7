"""Contenders take turns, and slow or failing ones do not disturb the others."""

import pytest

from convnext_backbones.benchmark import race as race_module
from convnext_backbones.benchmark.worker import Contender, ContenderError


class FakeWorker:
    """Takes the turns of :class:`~convnext_backbones.benchmark.Worker` without a process."""

    turns: list[tuple[str, str]] = []

    def __init__(self, contender, threads):
        self.name = contender.name
        self.runs = 0

    def ask(self, command):
        self.turns.append((command, self.name))
        if command == 'run':
            self.runs += 1
            if self.name == 'failing' and self.runs == race_module.WARM_UPS + 2:
                raise ContenderError('it broke')
            return float(self.runs)
        return (7, dict(difference=0.5)) if command == 'finish' else None

    def close(self):
        self.turns.append(('close', self.name))


@pytest.fixture
def fake_workers(monkeypatch):
    monkeypatch.setattr(race_module, 'Worker', FakeWorker)
    monkeypatch.setattr(race_module, 'PAUSE', 0)
    monkeypatch.setattr(FakeWorker, 'turns', [])
    return FakeWorker.turns


def test_contenders_take_turns_and_a_failure_stops_nobody_else(fake_workers):
    names = ['a', 'failing', 'b']
    a, failing, b = race_module.race([Contender(name, None) for name in names], 1, rounds=4)
    turns = [name for command, name in fake_workers if command == 'run']
    assert turns == names * (race_module.WARM_UPS + 2) + ['a', 'b'] * 2
    assert a.seconds == b.seconds == [3.0, 4.0, 5.0, 6.0]  # without those of the warm-up
    assert (a.memory, a.measures, a.failure) == (7, dict(difference=0.5), '')
    assert (failing.failure, failing.seconds) == ('it broke', [])
    # The peak is forgotten between the warm-up and the first round, once for each.
    commands = [command for command, name in fake_workers if name == 'a']
    warm_up = ['build', *['run'] * race_module.WARM_UPS, 'forget_peak']
    assert commands == [*warm_up, *['run'] * 4, 'finish', 'close']


@pytest.mark.parametrize(('seconds', 'rounds'), [(1e9, 9), (10, 5), (1, race_module.MIN_ROUNDS)])
def test_slow_contenders_get_fewer_rounds(fake_workers, seconds, rounds):
    # The last warm-up took two seconds.
    (result,) = race_module.race([Contender('a', None)], 1, rounds=9, seconds=seconds)
    assert len(result.seconds) == rounds
