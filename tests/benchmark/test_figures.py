"""Figures are computed from the results of a race."""

import pytest

from convnext_backbones.benchmark.figures import figure_rows, fit_exponent, paired_ratio
from convnext_backbones.benchmark.race import Result
from convnext_backbones.benchmark.worker import Contender


def test_figures():
    # Each round is twice as slow as the one before, and so are both.
    assert paired_ratio([3, 6, 12], [1, 2, 4]) == 3
    sizes = [1.0, 2.0, 4.0]
    assert fit_exponent(sizes, [5 * size**1.25 for size in sizes]) == pytest.approx(1.25)
    with pytest.raises(ValueError, match='at least two different sizes'):
        fit_exponent([1, 1], [1, 2])
    results = [
        Result(Contender('peer', None), [2.0, 4.0, 6.0], 100, dict(difference=1e-6)),
        Result(Contender('absent', None), failure='not installed'),
        Result(Contender('ours', None, ours=True), [4.0, 4.0, 4.0]),
        Result(Contender('ours optimized', None, ours=True), [1.0, 2.0, 2.0], 40),
    ]
    peer, _, best = figure_rows(results, flops=8e9, ceilings=dict(fp32=8e9))
    assert (peer['median'], peer['min'], peer['max'], peer['ratio']) == (4, 2, 6, 2)
    assert (peer['flops_per_second'], peer['share']) == (2e9, 0.25)
    assert best['ratio'] == 1 and best['share'] == 0.5
