"""From a folder to a trained model: the two commands that the README begins with."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.datasets import Coco, Maps

ROOT = Path(__file__).resolve().parents[2]


def run(folder, tool, *args, status=0):
    process = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / tool), *map(str, args)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    output = process.stdout + process.stderr
    assert process.returncode == status, output
    return output


SHORT = ('--weights', 'none', '--arch', 'atto', '--epochs', 1, '--batch', 2, '--scale', 64, 64)


def test_a_detector_in_two_commands(tmp_path):
    Coco(tmp_path / 'data/mine').config()
    said = run(tmp_path, 'new_config.py', 'data/mine', '--head', 'mask_rcnn', *SHORT)
    assert 'COCO: 3 images to train on, 3 images to validate on, 2 classes' in said
    assert '0 errors and 0 warnings; next: python tools/train.py mine.py' in said
    run(tmp_path, 'train.py', 'mine.py')
    assert (tmp_path / 'work_dirs/mine/epoch_1.pth').is_file()


def test_a_segmentor_in_two_commands(tmp_path):
    Maps(tmp_path / 'data/fields')
    (tmp_path / 'data/fields/maps').rename(tmp_path / 'data/fields/labels')
    said = run(tmp_path, 'new_config.py', 'data/fields', *SHORT, '--out', 'fields.py')
    assert '0 errors and 0 warnings' in said
    run(tmp_path, 'train.py', 'fields.py')
    assert (tmp_path / 'work_dirs/fields/epoch_1.pth').is_file()
