"""tools/report.py: where the report goes, and what it says of folders that are no runs."""

import re
from pathlib import Path

import pytest
from support.training_records import write_run

from tools import report


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_report_of_a_run_is_in_its_work_dir(folder, capsys):
    write_run(folder / 'run')
    report.main(['run'])
    assert 'Training run' in (folder / 'run' / 'report.html').read_text()
    assert 'The report is in run/report.html' in capsys.readouterr().out


def test_the_comparison_of_runs_is_here_or_where_it_is_wanted(folder):
    for name in ('one', 'two'):
        write_run(folder / name)
    report.main(['one', 'two'])
    assert '2 trainings' in (folder / 'report.html').read_text()
    assert not (folder / 'one' / 'report.html').exists()
    report.main(['one', 'two', '--out', 'other.html'])
    assert (folder / 'other.html').read_bytes() == (folder / 'report.html').read_bytes()


@pytest.mark.parametrize('arguments', [['empty'], ['run', 'absent'], ['run', '--out', 'no/a.html']])
def test_errors_are_one_sentence(folder, arguments):
    write_run(folder / 'run')
    (folder / 'empty').mkdir()
    with pytest.raises(SystemExit) as stop:
        report.main(arguments)
    assert re.fullmatch('report: .+', stop.value.code)  # in one line
    assert not (folder / 'report.html').exists()
