"""tools/check.py: a line per finding, JSON, and the exit status."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.datasets import image

from convnext_backbones.checks.findings import ERROR
from tools import check

ROOT = Path(__file__).resolve().parents[2]


def test_the_tool_prints_lines_and_its_status_tells(saved, capsys, coco):
    with pytest.raises(SystemExit) as exit_:
        check.main([str(saved), '--cfg-options', 'auto_scale_lr.base_batch_size=16'])
    assert exit_.value.code == 0  # a warning is no error
    out = capsys.readouterr().out
    assert 'auto_scale_lr' in out and '0 errors and 1 warning in ' in out
    coco.train['annotations'][0]['image_id'] = 7
    coco.config()
    with pytest.raises(SystemExit) as exit_:
        check.main([str(saved)])
    assert exit_.value.code == 1
    assert '1 error and 0 warnings in ' in capsys.readouterr().out


def test_the_tool_prints_json_and_nothing_else(saved, capfd, coco):
    coco.train['annotations'][0]['image_id'] = 7
    coco.config()
    with pytest.raises(SystemExit) as exit_:
        check.main([str(saved), '--json', '--processes', '3', '--accumulate', '2'])
    assert exit_.value.code == 1
    report = json.loads(capfd.readouterr().out)
    assert report['errors'] == report['warnings'] == 1
    first, second = report['findings']
    assert first['level'] == ERROR and first['where'] == str(coco.folder / 'train.json')
    assert first['examples'] == ['annotation 10: image 7'] and first['count'] == 1
    assert second['what'].startswith('12 images per step of the optimizer (3 processes x 2')


def test_imports_that_fail_are_one_finding(saved, capsys):
    text = saved.read_text().replace("'convnext_backbones'", "'no_such_package'")
    saved.write_text(text)
    with pytest.raises(SystemExit) as exit_:
        check.main([str(saved), '--json'])
    assert exit_.value.code == 1
    (finding,) = json.loads(capsys.readouterr().out)['findings']
    assert 'no_such_package' in finding['what'] and '\n' not in finding['what']


def test_in_a_narrow_pipe_every_finding_is_one_whole_line(saved, coco):
    name = f'[red]{"x" * 200}\n.jpg'
    image(file_name=name)(coco.train)
    coco.config()
    command = [sys.executable, ROOT / 'tools/check.py', saved, '--cfg-options']
    run = subprocess.run(
        [*command, 'auto_scale_lr.base_batch_size=16'],
        env={**os.environ, 'COLUMNS': '80', 'PYTHONPATH': str(ROOT)},
        cwd=saved.parent,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1, run.stderr
    error, warning, summary = run.stdout.splitlines()
    assert error == (
        f'{coco.folder}/train.json:image 2: {coco.folder}/train/[red]{"x" * 200}\\n.jpg: error: '
        'images that do not exist, in train_dataloader.dataset; check data_root and data_prefix'
    )
    assert warning.startswith(f'{saved}:auto_scale_lr: warning: 2 images per step')
    assert re.fullmatch(r'1 error and 1 warning in \d+\.\d s', summary)


class Terminal(io.TextIOWrapper):
    """A terminal that knows ASCII only."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding='ascii')

    def isatty(self):
        return True


@pytest.mark.parametrize('no_color', ['', '1'])
def test_levels_are_colored_on_a_terminal(tmp_path, monkeypatch, no_color):
    monkeypatch.setattr(sys, 'stdout', Terminal())
    monkeypatch.setenv('NO_COLOR', no_color)
    with pytest.raises(SystemExit):
        check.main([str(tmp_path / 'größe.py')])
    sys.stdout.seek(0)
    first, summary = sys.stdout.read().splitlines()
    level = 'error' if no_color else '\x1b[1;31merror\x1b[0m'
    assert first.startswith(f'{tmp_path}/gr\\xf6\\xdfe.py: {level}: expected a config file')
    assert summary.startswith('1 error and 0 warnings')
