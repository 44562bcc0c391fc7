"""tools/check.py: a line per finding, JSON, and the exit status."""

import json

import pytest
from support.datasets import (
    annotation,
)

from convnext_backbones.checks.findings import ERROR
from tools import check


def test_the_tool_prints_lines_and_its_status_tells(saved, capsys, coco):
    with pytest.raises(SystemExit) as exit_:
        check.main([str(saved), '--cfg-options', 'auto_scale_lr.base_batch_size=16'])
    assert exit_.value.code == 0  # a warning is no error
    out = capsys.readouterr().out
    assert 'auto_scale_lr' in out and '0 errors and 1 warning in ' in out
    annotation(image_id=7)(coco.train)
    coco.config()
    with pytest.raises(SystemExit) as exit_:
        check.main([str(saved)])
    assert exit_.value.code == 1
    assert '1 error and 0 warnings in ' in capsys.readouterr().out


def test_the_tool_prints_json_and_nothing_else(saved, capfd, coco):
    annotation(image_id=7)(coco.train)
    coco.config()
    with pytest.raises(SystemExit) as exit_:
        check.main([str(saved), '--json', '--processes', '3', '--accumulate', '2'])
    assert exit_.value.code == 1
    report = json.loads(capfd.readouterr().out)
    assert report['errors'] == report['warnings'] == 1
    first, second = report['findings']
    assert first['level'] == ERROR and first['where'] == str(coco.folder / 'train.json')
    assert first['examples'] == ['annotation 20: image 7'] and first['count'] == 1
    assert second['what'].startswith('12 images per step of the optimizer (3 processes x 2')


def test_imports_that_fail_are_one_finding(saved, capsys):
    text = saved.read_text().replace("'convnext_backbones'", "'no_such_package'")
    saved.write_text(text)
    with pytest.raises(SystemExit) as exit_:
        check.main([str(saved), '--json'])
    assert exit_.value.code == 1
    (finding,) = json.loads(capsys.readouterr().out)['findings']
    assert 'no_such_package' in finding['what'] and '\n' not in finding['what']
