"""The demo prints what a person reads; the output of its commands goes to logs."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from rich.console import Console

from dev import demo, steps

ROOT = Path(__file__).resolve().parents[2]
# Stands in for every tool: a noisy one that leaves the files that the demo reads.
STUB = """
import json, os, sys
from pathlib import Path

import cv2
import numpy as np

name = Path(sys.argv[0]).stem
print('\\n'.join(f'{name} says {i}' for i in range(1000)), flush=True)
if name == os.environ.get('FAILS'):
    print('ValueError: the last words of ' + name, file=sys.stderr)
    sys.exit(7)
folder = Path(sys.argv[sys.argv.index('--out' if name == 'predict' else '--work-dir') + 1]) \\
    if name != 'make_sample_data' else None
if name == 'train':
    for epoch in range(1, 37):
        for i in (50, 100):
            print(f'11/26 19:29:38 - mmengine - INFO - Epoch(train)  [{epoch}][{i:3d}/100]  '
                  f'lr: 1e-3  loss: {1 / epoch:.4f}  loss_rpn_cls: 0.1')
        print(f'11/26 19:29:38 - mmengine - INFO - Epoch(val) [{epoch}][10/10]  eta: 0:00:00')
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_36.pth'))
elif name == 'test':
    (folder / 'metrics.json').write_text(os.environ['METRICS'])
elif name == 'predict':
    (folder / 'overlays').mkdir(parents=True)
    for i in range(6):
        cv2.imwrite(str(folder / f'overlays/{i}.jpg'), np.zeros((9, 9, 3), np.uint8))
"""
METRICS = """{"coco/bbox_mAP": 0.7, "coco/bbox_mAP_50": 0.9, "coco/bbox_mAP_75": 0.8,
"coco/segm_mAP": 0.65, "coco/segm_mAP_50": 0.9, "coco/segm_mAP_75": 0.8,
"mIoU": %s, "mAcc": 80, "aAcc": 90}"""


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    """Stubs in place of the tools, and a folder for results."""
    tools = tmp_path / 'tools'
    tools.mkdir()
    for name in ('make_sample_data', 'train', 'test', 'predict'):
        (tools / f'{name}.py').write_text(STUB)
    monkeypatch.setattr(demo, 'TOOLS', tools)
    monkeypatch.setenv('METRICS', METRICS % 70)
    return tmp_path / 'out'


def test_success_prints_progress_metrics_and_paths(stubs, capsys):
    assert demo.main(['--out', str(stubs)]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert len(lines) < 60
    assert [line for line in lines if line.startswith('[')] == [
        '[1/7] make the sample data',
        '[2/7] train the detector',
        '[3/7] evaluate the detector',
        '[4/7] draw predictions of the detector',
        '[5/7] train the segmentor',
        '[6/7] evaluate the segmentor',
        '[7/7] draw predictions of the segmentor',
    ]
    assert sum('epoch' in line and '%' in line for line in lines) >= 10
    assert 'coco/bbox_mAP' in printed and '0.700' in printed
    assert f'pictures: {stubs}/predictions.jpg' in printed and (stubs / 'predictions.jpg').is_file()
    assert ' says ' not in printed
    for log in ('detector/logs/train.log', 'segmentor/logs/predict.log', 'data.log'):
        assert (stubs / log).read_text().count(' says ') == 1000


def test_a_metric_that_is_too_low_fails_the_demo(stubs, capsys, monkeypatch):
    monkeypatch.setenv('METRICS', METRICS % 64.9)
    assert demo.main(['--out', str(stubs)]) == 1
    assert 'below the least value' in capsys.readouterr().out


def test_failure_prints_the_tail_and_the_log(stubs, capsys, monkeypatch):
    monkeypatch.setenv('FAILS', 'test')
    assert demo.main(['--out', str(stubs)]) == 1
    lines = capsys.readouterr().out.splitlines()
    log = stubs / 'detector/logs/test.log'
    assert lines[-1].startswith('demo: [3/7] evaluate the detector: failed with status 7')
    assert lines[-1].endswith(str(log))
    assert lines[-2] == 'ValueError: the last words of test'
    assert [line for line in lines if ' says ' in line] == [
        f'test says {i}' for i in range(971, 1000)
    ]
    assert not any('[4/7]' in line for line in lines)


def test_interruption_stops_the_command(stubs, tmp_path):
    (tmp_path / 'tools' / 'make_sample_data.py').write_text(
        textwrap.dedent(f"""
            import os, time
            from pathlib import Path
            Path({str(tmp_path)!r}, 'pid').write_text(str(os.getpid()))
            time.sleep(600)
        """)
    )
    code = f"""
import signal, sys
from pathlib import Path
from dev import demo
# A shell's background jobs ignore it, and so do their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
demo.TOOLS = Path({str(tmp_path / 'tools')!r})
sys.exit(demo.main(['--out', {str(stubs)!r}]))
"""
    process = subprocess.Popen(
        [sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    pid_file = tmp_path / 'pid'
    deadline = time.monotonic() + 60
    while not (pid_file.is_file() and pid_file.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and output.splitlines()[-1].startswith('demo: interrupted')
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_positions_are_read_from_mmengines_log():
    start = '11/26 19:29:38 - mmengine - INFO - '
    train = f'{start}Epoch(train)  [3][ 50/100]  lr: 1.0e-06  loss: 4.5175  loss_rpn_cls: 0.7'
    assert steps.read_position(train, 5) == ('train', 0.5, 'epoch 3 of 5, loss 4.5175')
    iterations = f'{start}Iter(train) [ 50/2000]  base_lr: 1.0e-06  eta: 0:00:12'
    assert steps.read_position(iterations, 1) == ('train', 0.025, '50 of 2000')
    test = f'{start}Epoch(test) [ 50/100]    eta: 0:00:00'
    assert steps.read_position(test, 1) == ('test', 0.5, '50 of 100')
    assert steps.read_position(f'{start}Epoch(val) [3][50/50]  eta: 0:00:00', 5)[0] == 'val'
    assert steps.read_position("max_epochs=36, type='EpochBasedTrainLoop'", 5) is None


def test_a_terminal_gets_a_bar(tmp_path):
    (tmp_path / 'quick.py').write_text(
        "print('x - INFO - Iter(train) [ 50/100]  loss: 0.5', flush=True)"
    )
    console = Console(force_terminal=True, record=True, width=120, file=io.StringIO())
    step = steps.Step('train', [tmp_path / 'quick.py'], tmp_path / 'train.log')
    steps.run_step(step, tmp_path, console)
    assert '100%' in console.export_text()
