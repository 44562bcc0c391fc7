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


def test_exported_detector(folder):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    leave_untrained('det', folder)
    images = folder / 'data/sample/coco/val'
    done = run(
        'export.py', folder, 'det.py', 'det.pth', '--out', 'exported_det', '--images', images
    )
    assert done.returncode == 0, done.stderr
    assert 'exported_det: outputs differ by' in done.stdout and '0.000%' in done.stdout
    found = []
    for checkpoint in ('det.pth', 'exported_det'):
        out = folder / f'det_of_{checkpoint}'
        done = run(
            'predict.py', folder, 'det.py', checkpoint, images, '--out', out, '--score-thr', 0
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads((out / 'predictions.json').read_text())['images'])
        done = run('test.py', folder, 'det.py', checkpoint, '--work-dir', out)
        assert done.returncode == 0, done.stderr
        assert 'coco/segm_mAP' in json.loads((out / 'metrics.json').read_text())
    assert found[0] and found[0].keys() == found[1].keys()
    for name, one in found[0].items():
        other = found[1][name]
        assert len(one['instances']) == len(other['instances']) > 0
        for a, b in zip(one['instances'], other['instances'], strict=True):
            assert a['category'] == b['category']
            assert a['bbox'] == pytest.approx(b['bbox'], abs=0.1)


def test_what_cannot_be_exported_is_said_in_a_sentence(folder):
    options = ['--cfg-options', 'model.data_preprocessor.test_cfg.size_divisor=32']
    done = run('export.py', folder, 'seg.py', 'seg.pth', '--out', 'none', *options)
    assert done.returncode == 1 and not (folder / 'none').exists()
    assert 'expected no test_cfg' in done.stderr and '--part backbone' in done.stderr
    assert 'Traceback' not in done.stderr
