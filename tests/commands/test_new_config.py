"""From a folder to a trained model: the two commands that the README begins with."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from support.datasets import Coco, Maps

from tools import new_config

ROOT = Path(__file__).resolve().parents[2]
SHORT = ('--weights', 'none', '--arch', 'atto', '--epochs', 1, '--batch', 2, '--scale', 64, 64)
CLEAN = '0 errors and 0 warnings; next: python tools/train.py mine.py'


@pytest.fixture
def write(tmp_path, monkeypatch, capsys):
    """Run the command in a fresh directory; what it printed, after checking its exit status."""
    monkeypatch.chdir(tmp_path)

    def run(*args, status=0):
        with pytest.raises(SystemExit) as end:
            new_config.main(list(map(str, args)))
        printed = capsys.readouterr()
        is_sentence = isinstance(end.value.code, str)
        assert is_sentence if status == 'sentence' else end.value.code == status, printed
        return end.value.code if is_sentence else printed.out

    return run


def train(folder: Path) -> None:
    command = [sys.executable, str(ROOT / 'tools/train.py'), 'mine.py']
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stdout + process.stderr
    assert (folder / 'work_dirs/mine/epoch_1.pth').is_file()


def test_a_detector_in_two_commands(write, tmp_path):
    Coco(tmp_path / 'data/mine').config()
    said = write('data/mine', '--head', 'mask_rcnn', *SHORT)
    assert 'COCO: 3 images to train on, 3 images to validate on, 2 classes' in said
    assert CLEAN in said
    train(tmp_path)


def test_a_segmentor_in_two_commands(write, tmp_path):
    Maps(tmp_path / 'data/mine')
    (tmp_path / 'data/mine/maps').rename(tmp_path / 'data/mine/labels')
    assert CLEAN in write('data/mine', *SHORT)
    train(tmp_path)


def test_a_file_of_the_user_is_never_overwritten(write, tmp_path):
    Coco(tmp_path / 'data/mine').config()
    (tmp_path / 'mine.py').write_text('mine')
    assert "found 'mine.py', which is not overwritten" in write('data/mine', status='sentence')
    assert (tmp_path / 'mine.py').read_text() == 'mine'


def test_a_refusal_writes_nothing(write, tmp_path):
    Coco(tmp_path / 'data/mine').config()
    said = write('data/mine', '--head', 'upernet', status='sentence')
    assert 'found data for detection in the layout of COCO' in said
    assert 'or a head for detection' in said
    assert [path.name for path in tmp_path.iterdir()] == ['data']


@pytest.mark.parametrize(
    'args, words',
    [
        (('--batch', 100), 'expected at most 2 images per step'),
        (('--out', 'mine'), 'expected a name that ends in .py for --out'),
        (('--data-out', 'data/mine/new'), 'expected a folder outside of the data'),
        (('--out', 'data/mine/train.json/mine.py'), 'cannot write .*; name another with --out'),
    ],
)
def test_a_refusal_leaves_no_split_data_behind(write, tmp_path, args, words):
    Coco(tmp_path / 'data/mine').config()
    (tmp_path / 'data/mine/val.json').unlink()
    assert re.search(words, write('data/mine', *args, status='sentence'))
    assert sorted(path.name for path in tmp_path.rglob('*mine*')) == ['mine']


def test_a_class_without_a_name_is_refused_before_anything_is_written(write, tmp_path):
    coco = Coco(tmp_path / 'data/mine')
    coco.content['train']['categories'][0]['name'] = ' '
    coco.config()
    (tmp_path / 'data/mine/val.json').unlink()
    assert 'expected names' in write('data/mine', status='sentence')
    assert [path.name for path in tmp_path.rglob('*mine*')] == ['mine']


@pytest.mark.parametrize('flag', ['--scale 0 64', '--scale -5 64', '--batch x', '--epochs 0'])
def test_numbers_that_cannot_be_are_refused(write, flag, tmp_path):
    Coco(tmp_path / 'data/mine').config()
    write('data/mine', *flag.split(), status=2)


@pytest.mark.parametrize('place, data', [('mine', '.'), ('mine/train', '..'), ('', 'mine/')])
def test_data_are_split_beside_them_from_wherever_the_command_runs(
    write, tmp_path, monkeypatch, place, data
):
    Coco(tmp_path / 'data/mine').config()
    (tmp_path / 'data/mine/val.json').unlink()
    before = sorted((tmp_path / 'data/mine').rglob('*'))
    monkeypatch.chdir(tmp_path / 'data' / place)
    write(data, *SHORT, '--out', tmp_path / 'configs/new/mine.py')
    assert sorted((tmp_path / 'data/mine').rglob('*')) == before
    assert (tmp_path / 'data/mine_converted/val.json').is_file()


def test_folders_that_a_config_cannot_name_are_refused(write, tmp_path):
    name = os.fsdecode(b'lat\xe9n')
    Coco(tmp_path / 'data').config()
    (tmp_path / 'data').rename(tmp_path / name)
    assert 'expected names in UTF-8' in write(name, status='sentence')


def test_errors_of_the_check_come_before_training(write, tmp_path):
    Coco(tmp_path / 'data/mine').config()
    (tmp_path / 'data/mine/val/2.jpg').write_bytes(b'no image')
    said = write('data/mine', *SHORT, status=1)
    assert 'next: mend the errors' in said and 'tools/train.py' not in said


def test_weights_that_nobody_knows_are_refused_before_anything_is_written(write, tmp_path):
    Coco(tmp_path / 'data/mine').config()
    assert "'no.pth'" in write('data/mine', '--weights', 'no.pth', status='sentence')
    assert [path.name for path in tmp_path.iterdir()] == ['data']


def test_the_same_command_writes_the_same_config(write, tmp_path):
    Coco(tmp_path / 'data/mine').config()
    write('data/mine', *SHORT)
    first = (tmp_path / 'mine.py').read_text()
    (tmp_path / 'mine.py').unlink()
    write('data/mine', *SHORT)
    assert (tmp_path / 'mine.py').read_text() == first
    assert first.startswith('# Written by tools/new_config.py data/mine --weights none')


def test_images_are_split_where_there_is_nothing_to_validate_on(write, tmp_path):
    Coco(tmp_path / 'data/mine').config()
    (tmp_path / 'data/mine/val.json').unlink()
    before = sorted(path for path in (tmp_path / 'data').rglob('*'))
    said = write('data/mine', *SHORT)
    assert 'the images were split, into data/mine_converted' in said
    cfg = Config.fromfile(tmp_path / 'mine.py')
    files = {cfg[f'{split}_dataloader'].dataset.ann_file for split in ('train', 'val')}
    assert len(files) == 2
    assert before == [
        p for p in sorted((tmp_path / 'data').rglob('*')) if '_converted' not in str(p)
    ]
    (tmp_path / 'mine.py').unlink()
    assert '--data-out' in write('data/mine', *SHORT, status='sentence')
