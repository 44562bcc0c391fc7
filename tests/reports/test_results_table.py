"""The CSV table: its columns, and how it continues."""

import numpy as np
import pytest

from convnext_backbones.reports.results_table import ResultsTable, read_rows, training_columns


def test_columns_may_appear_later(tmp_path):
    path = tmp_path / 'results.csv'
    table = ResultsTable(path)
    table.add(dict(split='train', step=1, loss=0.1234567))
    table.add(dict(split='val', step=1, mIoU=np.float32(0.09)))
    table.add(dict(split='train', step=2, loss=float('nan')))
    assert path.read_text().splitlines() == [
        'split,step,loss,mIoU',
        'train,1,0.1234567,',
        'val,1,,0.09',
        'train,2,nan,',
    ]
    again = ResultsTable(path, until_step=1)
    assert again.rows == table.rows[:1] + [dict(split='val', step=1, mIoU=0.09)]
    again.add(dict(split='train', step=2, loss=5))
    assert path.read_text().splitlines()[2:] == ['val,1,,0.09', 'train,2,5,']


def test_training_columns_are_those_of_all_groups_in_order():
    entry = dict(lr=1, base_lr=2, lowest_lr=3, highest_lr=4, data_time=5, acc=6, loss_cls=7, loss=8)
    entry |= dict(time=9, epoch=10, iter=11, step=12, memory=13)
    expected = dict(loss=8, loss_cls=7, acc=6, highest_lr=4, lowest_lr=3, time=9, data_time=5)
    expected |= dict(memory=13)
    assert list(training_columns(entry).items()) == list(expected.items())
    prefixed = {f'train/{name}': value for name, value in entry.items()}
    assert training_columns(prefixed) == expected


def test_reading_changes_nothing_and_ignores_half_a_line(tmp_path):
    path = tmp_path / 'results.csv'
    text = 'split,step,loss\ntrain,1,0.5\nval,1,\ntrain,2,0.'
    path.write_text(text)
    rows = [dict(split='train', step=1, loss=0.5), dict(split='val', step=1)]
    assert read_rows(path) == (['split', 'step', 'loss'], rows)
    assert path.read_text() == text
    path.write_text('')
    assert read_rows(path) == ([], [])


def test_lines_that_are_too_long_are_refused(tmp_path):
    path = tmp_path / 'results.csv'
    path.write_text('split,step\ntrain,1,0.5\n')
    with pytest.raises(ValueError, match='expected a value for each column of results.csv, got mo'):
        read_rows(path)
