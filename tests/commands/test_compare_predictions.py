"""tools/compare_predictions.py on files of predictions as a user has them."""

import cv2
import numpy as np
import pytest
import torch

from convnext_backbones.evaluation.predictions import DUMP_FORMAT
from tools.compare_predictions import main


def write(path, first_row):
    """Predictions of one image, whose first row of pixels has the label ``first_row``."""
    labels = np.zeros((20, 30), np.uint8)
    labels[0] = first_row
    image = dict(name='one.jpg', labels=torch.from_numpy(cv2.imencode('.png', labels)[1]))
    torch.save(dict(format=DUMP_FORMAT, classes=('sky', 'sea'), images=[image]), path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write(tmp_path / 'a.pt', 0)
    write(tmp_path / 'b.pt', 1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_summary_a_page_and_numbers(folder, capsys):
    main(['a.pt', 'b.pt', '--json', 'changes.json'])
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        'images that changed: 1 of 1',
        'pixels with another label: 5.00 % (30 of 600)',
        'most changed: one.jpg',
        'The changes are in changes.html',
    ]
    assert '<title>Comparison of segmentations</title>' in (folder / 'changes.html').read_text()
    assert '"changed": 30' in (folder / 'changes.json').read_text()


def test_the_same_file_twice(folder, capsys):
    main(['a.pt', 'a.pt', '--out', 'none.html'])
    assert capsys.readouterr().out.startswith('Nothing changed: A and B are the same.\n')
    assert (folder / 'none.html').is_file()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['a.pt', 'gone.pt'], "expected kept predictions, found no file at 'gone.pt'"),
        (['a.pt', 'b.pt', '--config', 'gone.py'], 'expected a config file, found none'),
        (['a.pt', 'text.pt'], 'text.pt'),
        (['a.pt', 'b.pt', '--out', 'a.pt/changes.html'], 'a.pt'),
    ],
)
def test_errors_are_one_sentence(arguments, message, folder):
    (folder / 'text.pt').write_text('no predictions')
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    sentence = caught.value.code
    assert sentence.startswith('compare_predictions: ') and message in sentence
    assert '\n' not in sentence
