"""The steps of the road take turns, and each is compared with the one before it."""

import pytest
import torch
from rich import box

from convnext_backbones.benchmark.race import Result
from convnext_backbones.benchmark.roadmap_figure import draw_times
from convnext_backbones.benchmark.roadmap_speed import (
    make_road_case,
    prepare_step,
    road_rows,
    road_text,
    verdict,
)
from convnext_backbones.benchmark.worker import Contender
from convnext_backbones.models.roadmap_steps import STEPS


def result(name, seconds, macs=10**9, failure=''):
    return Result(Contender(name, None), seconds, 2**20, dict(macs=macs), failure)


@pytest.fixture
def case():
    return make_road_case('T', None, (64, 96), batch=2)


def test_each_step_is_compared_with_the_one_that_it_follows(case):
    results = [
        result('resnet', [1.0, 2.0, 4.0]),
        result('kernel_size_7', [2.0, 4.0, 8.0]),
        result('kernel_size_9', [3.0, 6.0, 12.0]),
        result('gelu', [1.0, 2.0, 4.0]),
        result('convnext', [], failure='it broke'),
    ]
    rows = road_rows(case, results)
    assert [row['before'] for row in rows] == [
        None, 'resnet', 'kernel_size_7', 'kernel_size_7', None]  # fmt: skip
    assert [row['ratio'] for row in rows[1:4]] == [2.0, 1.5, 0.5]
    assert rows[3]['gained'] == pytest.approx(80.62 - 80.57)
    assert rows[0]['flops_per_second'] == 2e9 / 2.0
    text = road_text(case, rows, box.MARKDOWN)
    assert 'ResNet-50 to ConvNeXt-T, inference, 2 x 64 x 96, 3 rounds' in text
    (row,) = (line for line in text.splitlines() if line.startswith('| gelu'))
    assert [cell.strip() for cell in row.strip('|').split('|')] == [
        'gelu', '2000.0', 'kernel_size_7', '0.50', '0.50 to 0.50', 'unclear', '1.00', '1', '1',
        '+0.05',
    ]  # fmt: skip
    assert 'convnext is absent: it broke' in text
    figure = draw_times('title', rows[:4])
    assert [bar.get_width() for bar in figure.axes[0].patches] == [2000, 4000, 6000, 2000]


def test_a_step_whose_predecessor_failed_is_compared_with_the_one_before_that(case):
    results = [result('fewer_norms', [1.0]), result('layer_norm', [], failure='x')]
    rows = road_rows(case, [*results, result('convnext', [3.0])])
    assert rows[2]['before'] == 'fewer_norms' and rows[2]['quartiles'] == (3.0, 3.0)


def test_the_verdict_needs_rounds_on_one_side():
    assert [verdict([1.01] * n) for n in (0, 1, 5, 6)] == ['unclear'] * 3 + ['slower']
    assert verdict([0.99] * 7) == 'faster'
    assert verdict([1.5] * 6 + [0.9]) == 'unclear'  # 16 in 128 by chance
    assert verdict([1.1] * 8 + [0.9]) == 'slower'  # 20 in 512
    assert verdict([1.0] * 9 + [1.1] * 5) == 'unclear'  # ties say nothing


def test_a_training_step_counts_as_three_passes():
    case = make_road_case('B', None, (64, 64), training=True)
    (row,) = road_rows(case, [result('gelu', [2.0])])
    assert row['flops_per_second'] == 3e9


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('step', ['resnet', 'gelu', 'convnext'])
def test_steps_run_and_count_what_they_run(step, training):
    case = make_road_case('T', [step], (32, 64), batch=2, training=training, width_factor=1 / 16)
    made = prepare_step(case, step)
    maps = made.run()
    macs = made.measures['macs']()
    assert (maps is None) == training
    double = make_road_case('T', [step], (32, 128), batch=2, width_factor=1 / 16)
    assert prepare_step(double, step).measures['macs']() == 2 * macs > 0
    if not training:
        assert [tuple(x.shape[2:]) for x in maps] == [(8 // 2**i, 16 // 2**i) for i in range(4)]
        assert all(torch.equal(a, b) for a, b in zip(maps, made.run(), strict=True))


def test_cases_are_checked():
    assert make_road_case('T', None, (224, 224)).steps == tuple(STEPS)
    assert make_road_case('T', ['16', 'resnet'], (32, 32)).steps == ('resnet', 'convnext')
    for steps, shape, sizes, message in (
        (['gelus'], (64, 64), {}, "did you mean 'gelu'"),
        (['17'], (64, 64), {}, 'from 0 to 16'),
        (None, (31, 64), {}, 'at least 32 x 32'),
        (None, (64, 64), dict(batch=0), '--batch to be at least 1, got 0'),
        (None, (64, 64), dict(threads=0), '--threads to be at least 1'),
    ):
        with pytest.raises(ValueError, match=message):
            make_road_case('T', steps, shape, **sizes)
