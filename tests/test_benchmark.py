"""The benchmark: turns, processes, figures, and that all contenders compute the same."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convnext_backbones import ConvNeXt
from convnext_backbones.benchmark import case as benchmark_case
from convnext_backbones.benchmark import contenders, machine, peers, sweep
from convnext_backbones.benchmark import race as benchmark_race
from convnext_backbones.benchmark import report as benchmark_report
from convnext_backbones.benchmark.case import Case
from convnext_backbones.benchmark.race import Contender, ContenderError, Prepared, Result
from dev import benchmark_targets
from tools import benchmark as tool

TOOL = Path(__file__).parent.parent / 'tools/benchmark.py'

ALLOCATED = 200 * benchmark_race.MIB
WEIGHTS = 64 * benchmark_race.MIB


def build_greedy():
    """Holds 64 MiB, and takes another 200 while it runs."""
    weights = np.ones(WEIGHTS, np.uint8)
    return Prepared(lambda: np.ones(ALLOCATED, np.uint8), dict(difference=lambda: weights[0] - 1))


def build_dying():
    return Prepared(partial(os._exit, 3))


def build_absent():
    import no_such_package_at_all  # noqa: F401


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
            if self.name == 'failing' and self.runs == benchmark_race.WARM_UPS + 2:
                raise ContenderError('it broke')
            return float(self.runs)
        return (7, dict(difference=0.5)) if command == 'finish' else None

    def close(self):
        self.turns.append(('close', self.name))


@pytest.fixture
def fake_workers(monkeypatch):
    monkeypatch.setattr(benchmark_race, 'Worker', FakeWorker)
    monkeypatch.setattr(benchmark_race, 'PAUSE', 0)
    monkeypatch.setattr(FakeWorker, 'turns', [])
    return FakeWorker.turns


def test_contenders_take_turns_and_a_failure_stops_nobody_else(fake_workers):
    names = ['a', 'failing', 'b']
    a, failing, b = benchmark_race.race([Contender(name, None) for name in names], 1, rounds=4)
    turns = [name for command, name in fake_workers if command == 'run']
    assert turns == names * (benchmark_race.WARM_UPS + 2) + ['a', 'b'] * 2
    assert a.seconds == b.seconds == [3.0, 4.0, 5.0, 6.0]  # without those of the warm-up
    assert (a.memory, a.measures, a.failure) == (7, dict(difference=0.5), '')
    assert (failing.failure, failing.seconds) == ('it broke', [])
    # The peak is forgotten between the warm-up and the first round, once for each.
    commands = [command for command, name in fake_workers if name == 'a']
    warm_up = ['build', *['run'] * benchmark_race.WARM_UPS, 'forget_peak']
    assert commands == [*warm_up, *['run'] * 4, 'finish', 'close']


@pytest.mark.parametrize(('seconds', 'rounds'), [(1e9, 9), (10, 5), (1, benchmark_race.MIN_ROUNDS)])
def test_slow_contenders_get_fewer_rounds(fake_workers, seconds, rounds):
    # The last warm-up took two seconds.
    (result,) = benchmark_race.race([Contender('a', None)], 1, rounds=9, seconds=seconds)
    assert len(result.seconds) == rounds


def test_processes_report_memory_and_failures():
    builds = dict(greedy=build_greedy, dying=build_dying, absent=build_absent)
    found = benchmark_race.race(
        [Contender(name, build) for name, build in builds.items()], 1, rounds=3
    )
    greedy, dying, absent = found
    assert len(greedy.seconds) == 3 and 0 < greedy.median < 5
    assert greedy.measures == dict(difference=0)
    if benchmark_race.CLEAR_REFS.exists():
        assert greedy.memory == pytest.approx(ALLOCATED, rel=0.05)
    assert dying.failure == 'its process ended with status 3'
    assert absent.failure == 'not installed: no_such_package_at_all'


def test_figures():
    # Each round is twice as slow as the one before, and so are both.
    assert benchmark_race.paired_ratio([3, 6, 12], [1, 2, 4]) == 3
    sizes = [1.0, 2.0, 4.0]
    assert benchmark_race.fit_exponent(sizes, [5 * size**1.25 for size in sizes]) == pytest.approx(
        1.25
    )
    with pytest.raises(ValueError, match='at least two different sizes'):
        benchmark_race.fit_exponent([1, 1], [1, 2])
    results = [
        Result(Contender('peer', None), [2.0, 4.0, 6.0], 100, dict(difference=1e-6)),
        Result(Contender('absent', None), failure='not installed'),
        Result(Contender('ours', None, ours=True), [4.0, 4.0, 4.0]),
        Result(Contender('ours optimized', None, ours=True), [1.0, 2.0, 2.0], 40),
    ]
    peer, _, best = benchmark_race.tabulate(results, flops=8e9, ceilings=dict(fp32=8e9))
    assert (peer['median'], peer['min'], peer['max'], peer['ratio']) == (4, 2, 6, 2)
    assert (peer['flops_per_second'], peer['share']) == (2e9, 0.25)
    assert best['ratio'] == 1 and best['share'] == 0.5

    report = benchmark_report.Report(Case('tiny', (64, 64)), 8e9, dict(fp32=8e9), results)
    judge = partial(benchmark_targets.judge, report=report)
    rivals = ('peer', 'absent')
    timed = judge(benchmark_targets.Target('fast', 'ours optimized', rivals, 2.5))
    assert timed == ('fast', '2000 ms', '4000 ms, difference 1.0e-06', 'peer') + (
        '2.00',
        'at least 2.5: missed',
    )
    assert judge(benchmark_targets.Target('lean', 'ours optimized', rivals, 0.5, 'memory'))[4:] == (
        *('0.40', 'at most 0.5: met'),
    )
    assert judge(benchmark_targets.Target('share', 'ours optimized', (), 0.4))[4:] == (
        '0.50',
        'at least 0.4: met',
    )
    assert (
        judge(benchmark_targets.Target('x', 'ours', ('absent',), 1))[2]
        == 'not measured: not installed'
    )
    assert (
        judge(benchmark_targets.Target('x', 'absent', rivals, 1))[1]
        == 'not measured: not installed'
    )


def test_memory_of_activations_counts_storages_once(miniature):
    x = torch.randn(4, 8, requires_grad=True)
    weight = torch.randn(8, 8, requires_grad=True)

    def forward():
        y = x @ weight  # keeps x and weight
        return y.exp() + y.square() + y.view(8, 4).square().sum()  # keeps y once, and exp(y)

    assert benchmark_case.saved_bytes(forward, [x, weight]) == 2 * 4 * 8 * 4
    assert benchmark_case.saved_bytes(forward, [weight]) == 3 * 4 * 8 * 4
    images = torch.randn(1, 3, 64, 64)
    plain, lean = (
        benchmark_case.saved_bytes(partial(backbone, images), [*backbone.parameters(), images])
        for backbone in (ConvNeXt(miniature), ConvNeXt(miniature, with_cp=True))
    )
    assert lean < plain / 2


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """A case and its folder."""
    case, folder = Case('atto', (64, 96), batch=2), tmp_path_factory.mktemp('case')
    operations = contenders.prepare(case, folder)
    # Stem, stages and downsampling of atto by hand: multiply-adds per position of each stage.
    dims, depths = (40, 80, 160, 320), (2, 2, 6, 2)
    macs, below = 0, 3
    for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        positions = (64 >> 2 + i) * (96 >> 2 + i)
        area = 16 if i == 0 else 4
        macs += positions * (area * below * dim + depth * (49 * dim + 8 * dim * dim))
        below = dim
    assert operations == 2 * 2 * macs
    return case, folder


PEERS = [name for name in peers.PEERS if name != 'torchvision']  # which has no atto


RUNTIMES = ['openvino', 'onnxruntime']


@pytest.mark.parametrize(
    ('name', 'training'),
    [(name, False) for name in (*PEERS, *RUNTIMES, 'ours', 'ours optimized')]
    + [(name, True) for name in (*PEERS, 'ours')],
)
def test_all_compute_the_same(prepared, name, training):
    case, folder = prepared
    case = Case(case.arch, case.shape, case.batch, training)
    available = contenders.list_contenders(case, folder)
    if name in (*PEERS, *RUNTIMES):
        pytest.importorskip(name)
    made = available[name].build()
    made.run()
    assert made.measures['difference']() < 1e-5
    if training:
        assert made.measures['activations']() > 2 * 2 * 16 * 24 * 160 * 4  # two hidden maps


def test_other_weights_are_found_out(prepared):
    _, folder = prepared
    reference = contenders.load_file(folder / benchmark_case.REFERENCE)
    maps = [reference[str(i)].clone() for i in range(4)]
    assert benchmark_case.largest_difference(maps, folder) == 0
    maps[2][0, 0, 0, 0] += maps[2].abs().max() / 100
    assert benchmark_case.largest_difference(maps, folder) == pytest.approx(0.01)
    with pytest.raises(ValueError, match='expected 4 outputs, got 3'):
        benchmark_case.largest_difference(maps[:3], folder)


class WorkerInHere(benchmark_race._Session):
    """Does what a :class:`~convnext_backbones.benchmark.Worker` does, in this process."""

    def __init__(self, contender, threads):
        super().__init__(contender)

    def ask(self, command):
        try:
            return getattr(self, command)()
        except Exception as error:
            raise ContenderError(benchmark_race.describe(error)) from error

    def close(self):
        pass


def test_command_line(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(benchmark_race, 'Worker', WorkerInHere)
    monkeypatch.setattr(machine, 'GEMM_SECONDS', 0.01)
    files = {kind: tmp_path / 'out' / f'report.{kind}' for kind in ('json', 'markdown', 'png')}
    tool.main(
        ['backbone', '--arch=atto', '--shape', '64', '64', '--rounds=3', '--threads=1']
        + ['--contenders', 'ours', 'torchvision']
        + [f'--{kind}={path}' for kind, path in files.items()]
    )
    printed = capfd.readouterr().out
    assert 'torch uses' in printed and 'ConvNeXt atto, inference, 1 x 64 x 64' in printed
    assert 'not on PyPI' in printed
    report = json.loads(files['json'].read_text())
    (race,) = report['races']
    (row,) = [row for row in race['rows'] if row['contender'] == 'ours']
    assert row['ratio'] == 1 and row['difference'] == 0 and len(row['seconds']) == 3
    assert 0 < row['share'] < 1.5 and race['ceilings']['fp32'] > 0
    assert {*race['absent']} == {'torchvision', 'official'}  # torchvision has no atto
    markdown = files['markdown'].read_text()
    assert '| ours' in markdown and '- allocator: default' in markdown
    assert Image.open(files['png']).size[0] > 500


def test_sweeps_are_tabulated_and_drawn():
    def report(side):
        pixels = side * side
        results = [
            Result(Contender('ours', None, ours=True), [pixels * 1e-6] * 3),
            Result(Contender('peer', None), [pixels**1.5 * 1e-9] * 3),
        ]
        return benchmark_report.Report(Case('tiny', (side, side)), 1e9 * pixels, {}, results)

    reports = [report(side) for side in (64, 128, 256)]
    text = benchmark_report.sweep_text('pixels', reports, tool.box.MARKDOWN)
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines()[2:6]]
    assert rows[0] == ['ms by pixels', '4,096', '16,384', '65,536', 'exponent']
    assert rows[2] == ['ours', '4.1', '16.4', '65.5', '1.000']
    assert rows[3][-1] == '1.500'
    axes = benchmark_report.draw_sweep('pixels', reports).axes[0]
    assert [line.get_label() for line in axes.lines] == ['ours', 'peer']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('backbone --contenders tim', "got 'tim'; did you mean 'timm'?"),
        ('backbone --batch 0', 'expected --batch to be at least 1, got 0'),
        ('sweep --over pixels --rounds 0', 'expected --rounds to be at least 1'),
        ('backbone --shape 8 64', 'at least 32 x 32'),
        ('model none.py', 'expected a config file, found none'),
    ],
)
def test_wrong_arguments_get_one_sentence(arguments, message):
    with pytest.raises(SystemExit) as error:
        tool.main(arguments.split())
    assert str(error.value).startswith('benchmark: ') and message in str(error.value)


def test_goals_name_contenders_that_exist(tmp_path, monkeypatch, capsys):
    """The whole command, without the races."""

    def run_case(case, names, dtype, options):
        available = contenders.list_contenders(case, tmp_path)
        assert {*names} <= {*available}
        # The best of ours takes a second, the others three; OpenVINO is absent.
        results = [
            Result(
                available[name],
                [1.0 if name.startswith('ours ') else 3.0] * 3,
                10 if name.startswith('ours ') else 40,
                dict(activations=10 if name.startswith('ours ') else 40),
                'not installed' if name.startswith('openvino') else '',
            )
            for name in names
        ]
        return benchmark_report.Report(case, 1e12, dict(fp32=2e12, bf16=4e12), results)

    monkeypatch.setattr(sweep, 'run_case', run_case)
    tool.main(['targets', '--threads=1', f'--markdown={tmp_path / "goals.md"}'])
    table = (tmp_path / 'goals.md').read_text()
    rows = {
        cells[0]: cells[1:]
        for line in table.splitlines()
        if line.startswith('| ') and len(cells := [c.strip() for c in line.split('|')[1:-1]]) == 6
    }
    assert rows['T, fp32, eager peers'][2:] == ['timm', '3.00', 'at least 2.5: met']
    assert rows['T, bf16, OpenVINO in bf16'][1] == 'not measured: not installed'
    assert rows['T, share of the GEMM ceiling'][3:] == ['0.50', 'at least 0.8: missed']
    assert rows['T, peak memory'][3:] == ['0.25', 'at most 0.5: met']
    assert rows['L, 1 x 800 x 1280, best peers'][3:] == ['3.00', 'at least 1: met']
    assert rows['T, training, 2 x 512 x 512, lean, our normal form'][3:] == [
        *('0.33', 'at most 1.15: met'),
    ]
    assert rows['upernet_convnext_t, 1 x 512 x 2048'][3:] == ['3.00', 'at least 2.2: met']
    assert rows['T, exponent of time over pixels'][3:] == ['0.000', 'at most 1.05: met']
