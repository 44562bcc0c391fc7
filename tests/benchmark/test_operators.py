"""Operators are timed with each provider that runs, and the others are named."""

from functools import partial

import pytest

from convnext_backbones.benchmark import operators
from convnext_backbones.benchmark.case import Case
from convnext_backbones.benchmark.contenders import list_contenders
from convnext_backbones.benchmark.race import Result
from convnext_backbones.benchmark.sweep import RaceOptions, select_contenders
from convnext_backbones.benchmark.worker import Contender
from convnext_backbones.ops.providers import PROVIDERS, VARIABLE


@pytest.mark.parametrize('name', operators.OPERATORS)
def test_each_operator_can_be_prepared(name):
    assert callable(operators.OPERATORS[name]())


def test_a_provider_is_forced_before_the_operators_are_imported(monkeypatch):
    seen = []
    monkeypatch.setenv(VARIABLE, 'mmcv')
    monkeypatch.setitem(
        operators.OPERATORS, 'one', lambda: partial(seen.append, operators.os.environ[VARIABLE])
    )
    operators.prepare_operator('one', 'torch').run()
    assert seen == ['torch']


def test_every_provider_takes_turns_at_every_operator(monkeypatch):
    races = []

    def race(contenders, *options):
        races.append(([one.name for one in contenders], options[:2]))
        return [Result(one) for one in contenders]

    monkeypatch.setattr(operators, 'race', race)
    results = operators.race_providers(2, RaceOptions(3, 1.0, print))
    assert list(results) == list(operators.OPERATORS)
    assert races == [(list(PROVIDERS), (2, 3))] * len(results)


def test_the_table_compares_rounds_and_names_who_is_absent():
    mmcv, vision, plain = (Result(Contender(name, None)) for name in PROVIDERS)
    mmcv.seconds, plain.seconds = [0.002, 0.004, 0.008], [0.001, 0.002, 0.004]
    vision.failure = 'not installed: torchvision'
    text = operators.providers_text({'an operator': [mmcv, vision, plain]}, markdown=True)
    row = next(line for line in text.splitlines() if 'an operator' in line)
    assert [cell.strip() for cell in row.strip('|').split('|')] == [
        'an operator', '4.0', '2.00', '-', '-', '2.0'
    ]  # fmt: skip
    assert 'torchvision is absent: not installed: torchvision' in text


def test_whole_models_are_timed_with_a_provider_where_it_is_named(tmp_path):
    case = Case('tiny', (64, 64), config='configs/mask_rcnn_convnext_t.py')
    available = list_contenders(case, tmp_path)
    name = 'operators of torch'
    assert name not in [one.name for one in select_contenders(available, None, 'fp32')]
    assert [one.name for one in select_contenders(available, [name], 'fp32')] == [name]
