"""tools/check.py --fix: copies as a whole or nothing, and a list of every change."""

import json
import shlex

import pytest
from support.datasets import annotation

from convnext_backbones.checks import repair as repairing
from tools import check


def run(capsys, *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit_:
        check.main([*map(str, words)])
    return int(exit_.value.code), capsys.readouterr().out


@pytest.fixture
def broken(coco, saved):
    """A config of a training file with one wrong box and one short polygon, and a val file."""
    coco.train['annotations'][0].update(bbox=None)
    annotation(segmentation=[[1, 2, 3, 4]])(coco.train)
    del coco.content['val']['annotations'][2]['iscrowd']
    coco.config()
    return saved


def test_the_fixed_files_pass_and_the_originals_stay(broken, coco, tmp_path, capsys):
    before = (coco.folder / 'train.json').read_bytes()
    status, _ = run(capsys, broken)
    assert status == 1
    out = tmp_path / 'fixed'
    status, text = run(capsys, broken, '--fix', out)
    assert status == 0 and (coco.folder / 'train.json').read_bytes() == before
    assert f'{coco.folder}/train.json: fixed: boxes taken from the mask' in text
    assert ': 1 (annotation 20)\n' in text and '0 errors and ' in text
    assert sorted(path.name for path in out.rglob('*')) == [
        'changes.json',
        'train.json',
        'val.json',
    ]
    # Training takes the words that are printed.
    options = shlex.split(text.splitlines()[-1].partition('add: ')[2])
    assert options[0] == '--cfg-options' and len(options) == 4
    status, text = run(capsys, broken, *options, '--fix', tmp_path / 'again')
    assert status == 0 and 'nothing to fix' in text and not (tmp_path / 'again').exists()


def test_every_change_is_listed(broken, coco, tmp_path, capsys):
    status, text = run(capsys, broken, '--fix', tmp_path / 'out', '--json')
    report = json.loads(text)['fix']
    assert status == 0 and report == json.loads((tmp_path / 'out/changes.json').read_text())
    changes = [(one['place'], one['before'], one['after']) for one in report['changes']]
    assert ('annotation 10', None, [5, 6, 10, 8]) in changes
    assert ('annotation 30', None, 0) in changes
    dropped = [before for place, before, after in changes if place == 'annotation 20' and not after]
    assert dropped[0] == [[1, 2, 3, 4]] and dropped[1]['id'] == 20
    assert report['left'] == []
    assert {file['file'] for file in report['changes']} == {
        str(coco.folder / 'train.json'),
        str(coco.folder / 'val.json'),
    }
    assert report['cfg_options']['val_evaluator.ann_file'] == str(tmp_path / 'out/val.json')


def test_what_is_left_is_printed_and_found(coco, saved, tmp_path, capsys):
    for entry in coco.train['annotations']:
        entry['iscrowd'] = 1
    coco.config()
    status, text = run(capsys, saved, '--fix', tmp_path / 'out')
    assert status == 1 and 'train.json: left: iscrowd of 1 in all' in text
    assert 'nothing to fix' in text and 'none of 3 annotations remains' in text


@pytest.mark.parametrize('name', ['full', 'a file', 'with,a comma', 'a space'])
def test_folders_that_are_refused(broken, tmp_path, capsys, name):
    out = tmp_path / name
    if name == 'full':
        out.mkdir()
        (out / 'mine.txt').write_text('mine')
    elif name == 'a file':
        out.write_text('mine')
    before = sorted(tmp_path.rglob('*'))
    status, text = run(capsys, broken, '--fix', out)
    assert status == 1 and 'error: expected ' in text and name in text
    assert sorted(tmp_path.rglob('*')) == before


def test_an_empty_folder_is_taken(broken, tmp_path, capsys):
    (tmp_path / 'out').mkdir()
    status, _ = run(capsys, broken, '--fix', tmp_path / 'out')
    assert status == 0 and (tmp_path / 'out/train.json').exists()


def test_nothing_is_half_written(broken, tmp_path, monkeypatch, capsys):
    def full_disk(path, content):
        raise OSError(28, 'No space left on device', str(path))

    monkeypatch.setattr(repairing, 'write_atomically', full_disk)
    before = sorted(tmp_path.rglob('*'))
    status, text = run(capsys, broken, '--fix', tmp_path / 'out')
    assert status == 1 and 'No space left on device' in text
    assert sorted(tmp_path.rglob('*')) == before
