"""The project's targets: verdicts on figures, and names of contenders that exist."""

from functools import partial

from convnext_backbones.benchmark import contenders, sweep
from convnext_backbones.benchmark import report as benchmark_report
from convnext_backbones.benchmark.case import Case
from convnext_backbones.benchmark.race import Result
from convnext_backbones.benchmark.worker import Contender
from dev import benchmark_targets
from dev.benchmark_targets import Target


def test_verdicts():
    results = [
        Result(Contender('peer', None), [2.0, 4.0, 6.0], 100, dict(difference=1e-6)),
        Result(Contender('absent', None), failure='not installed'),
        Result(Contender('ours', None, ours=True), [4.0, 4.0, 4.0]),
        Result(Contender('ours optimized', None, ours=True), [1.0, 2.0, 2.0], 40),
    ]
    report = benchmark_report.Report(Case('tiny', (64, 64)), 8e9, dict(fp32=8e9), results)
    judge = partial(benchmark_targets.judge, report=report)
    rivals = ('peer', 'absent')
    timed = judge(Target('fast', 'ours optimized', rivals, 2.5))
    assert timed[:4] == ('fast', '2000 ms', '4000 ms, difference 1.0e-06', 'peer')
    assert timed[4:] == ('2.00', 'at least 2.5: missed')
    lean = judge(Target('lean', 'ours optimized', rivals, 0.5, 'memory'))
    assert lean[4:] == ('0.40', 'at most 0.5: met')
    share = judge(Target('share', 'ours optimized', (), 0.4))
    assert share[4:] == ('0.50', 'at least 0.4: met')
    assert judge(Target('x', 'ours', ('absent',), 1))[2] == 'not measured: not installed'
    assert judge(Target('x', 'absent', rivals, 1))[1] == 'not measured: not installed'


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
    monkeypatch.setattr(benchmark_targets, 'run_case', run_case)
    benchmark_targets.main(['--threads=1', f'--markdown={tmp_path / "goals.md"}'])
    table = (tmp_path / 'goals.md').read_text()
    rows = {
        cells[0]: cells[1:]
        for line in table.splitlines()
        if line.startswith('| ') and len(cells := [c.strip() for c in line.split('|')[1:-1]]) == 6
    }
    assert rows['T, fp32, eager peers'][2:] == ['timm', '3.00', 'at least 1.3: met']
    assert rows['T, bf16, bf16 peers'][2:] == ['timm bf16', '3.00', 'at least 2: met']
    assert rows['T, share of the GEMM ceiling'][3:] == ['0.50', 'at least 0.75: missed']
    assert rows['T, peak memory, eager peers'][3:] == ['0.25', 'at most 0.5: met']
    assert rows['L, 1 x 800 x 1280, best peers'][3:] == ['3.00', 'at least 1.3: met']
    assert rows['T, fp32, runtimes'][2:] == ['onnxruntime', '3.00', 'at least 1.3: met']
    assert rows['V2-T, 1 x 512 x 512, best peers'][3:] == ['3.00', 'at least 1: met']
    assert rows['T, training, 2 x 512 x 512, lean, our normal form'][3:] == [
        *('0.33', 'at most 1.15: met'),
    ]
    assert rows['upernet_convnext_t, 1 x 512 x 2048'][3:] == ['3.00', 'at least 2.5: met']
    assert rows['T, exponent of time over pixels'][3:] == ['0.000', 'at most 1.05: met']
