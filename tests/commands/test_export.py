"""From a checkpoint to an exported model, its predictions and its metrics."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.miniatures import make_data
from support.untrained import leave_untrained

TOOLS = Path(__file__).parents[2] / 'tools'


def run(tool, folder, *arguments):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.run(
        [sys.executable, TOOLS / tool, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Sample data, and an untrained segmentor beside them."""
    path = tmp_path_factory.mktemp('export')
    make_data(path)
    leave_untrained('seg', path)
    return path


def test_exported_segmentor(folder):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    done = run('export.py', folder, 'seg.py', 'seg.pth', '--out', 'exported')
    assert done.returncode == 0, done.stderr
    assert 'exported: outputs differ by' in done.stdout
    images = folder / 'data/sample/ade20k/images/validation'
    metrics, maps = [], []
    for checkpoint in ('seg.pth', 'exported'):
        out = folder / f'of_{checkpoint}'
        done = run('predict.py', folder, 'seg.py', checkpoint, images, '--out', out)
        assert done.returncode == 0, done.stderr
        found = sorted((out / 'label_maps').iterdir())
        maps.append([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in found])
        done = run('test.py', folder, 'seg.py', checkpoint, '--work-dir', out)
        assert done.returncode == 0, done.stderr
        metrics.append(json.loads((out / 'metrics.json').read_text()))
    assert maps[0] and len(maps[0]) == len(maps[1])
    for a, b in zip(*maps, strict=True):
        assert np.mean(a != b) < 1e-3
    assert metrics[0].keys() == metrics[1].keys() and 'mIoU' in metrics[0]
    for name in ('mIoU', 'aAcc', 'mAcc'):
        assert metrics[1][name] == pytest.approx(metrics[0][name], abs=0.1)  # percent


def test_what_cannot_be_exported_is_said_in_a_sentence(folder):
    leave_untrained('det', folder)
    done = run('export.py', folder, 'det.py', 'det.pth', '--out', 'none')
    assert done.returncode == 1 and not (folder / 'none').exists()
    assert 'boxes cannot be exported' in done.stderr and '--part backbone' in done.stderr
    assert 'Traceback' not in done.stderr
