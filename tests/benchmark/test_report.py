"""Races and sweeps are reported as tables and pictures."""

from rich import box

from convnext_backbones.benchmark import report as benchmark_report
from convnext_backbones.benchmark.case import Case
from convnext_backbones.benchmark.race import Result
from convnext_backbones.benchmark.worker import Contender


def test_sweeps_are_tabulated_and_drawn():
    def report(side):
        pixels = side * side
        results = [
            Result(Contender('ours', None, ours=True), [pixels * 1e-6] * 3),
            Result(Contender('peer', None), [pixels**1.5 * 1e-9] * 3),
        ]
        return benchmark_report.Report(Case('tiny', (side, side)), 1e9 * pixels, {}, results)

    reports = [report(side) for side in (64, 128, 256)]
    text = benchmark_report.sweep_text('pixels', reports, box.MARKDOWN)
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines()[2:6]]
    assert rows[0] == ['ms by pixels', '4,096', '16,384', '65,536', 'exponent']
    assert rows[2] == ['ours', '4.1', '16.4', '65.5', '1.000']
    assert rows[3][-1] == '1.500'
    axes = benchmark_report.draw_sweep('pixels', reports).axes[0]
    assert [line.get_label() for line in axes.lines] == ['ours', 'peer']
