"""Findings as lines and as data."""

import pytest
from support.datasets import check_files

from convnext_backbones.checks.findings import (
    ERROR,
    WARNING,
    Finding,
    Kind,
    count_levels,
    errors_first,
    group,
    several,
)

KIND = Kind(WARNING, 'boxes without area', 'delete them')


def test_a_finding_about_an_entry_names_the_config():
    finding = Finding(ERROR, 'no classes', 'train_dataloader.dataset.metainfo', 'name them')
    assert str(finding) == 'train_dataloader.dataset.metainfo: error: no classes; name them'
    (noted,) = errors_first([finding], 'my/config.py')
    assert str(noted) == f'my/config.py:{finding}'


def test_a_finding_about_a_file_names_it_and_the_entry():
    finding = Finding(ERROR, 'no list', 'train_dataloader.dataset', 'write one', 'a.json')
    (finding,) = errors_first([finding], 'config.py')
    assert str(finding) == 'a.json:train_dataloader.dataset: error: no list; write one'
    assert finding.as_data() == dict(
        level='error',
        what='no list',
        entry='train_dataloader.dataset',
        fix='write one',
        path='a.json',
        examples=(),
        count=0,
        config='config.py',
        where='a.json',
        places='',
    )


@pytest.mark.parametrize(
    ('count', 'places', 'more'),
    [
        (1, '1 (box 0)', ''),
        (3, '3 (box 0, box 1, box 2)', ': 3 (box 0, box 1, box 2)'),
        (
            12,
            '12 (box 0, box 1, box 2 and 9 more)',
            ': 12 (box 0, box 1, box 2 and 9 more)',
        ),
    ],
)
def test_many_places_are_counted_and_the_first_three_named(count, places, more):
    """A line begins with the first place in the file; a single one is not repeated."""
    (finding,) = group([(KIND, f'box {number}') for number in range(count)], 'a.json', 'data')
    assert str(finding) == f'a.json:box 0: warning: boxes without area{more}, in data; delete them'
    assert finding.as_data()['places'] == places


@pytest.mark.parametrize('name', ['a\nb', '[bold]a[/bold]', 'a\x1b[31mb', '\ud800', 'a\u2028b'])
def test_names_break_no_line(name):
    place = f'{name}.jpg'
    finding = several(KIND, [place], f'entry.{name}', f'data/{name}')
    assert len(str(finding).splitlines()) == 1 and str(finding).isprintable()
    if name.isprintable():
        assert str(finding).count(name) == 3
    finding = Finding(ERROR, f'what {name}', f'entry.{name}', f'fix {name}')
    assert str(finding).isprintable()


def test_paths_are_whole():
    path = '/data' + '/folder' * 30 + '/train.json'
    assert str(several(KIND, [path], 'data', path)).count(path) == 2


def test_the_same_problem_of_two_splits_is_told_apart(coco):
    cfg = coco.config(ann_file='none.json')
    first, second = map(str, check_files(cfg))
    assert first.startswith(f'{coco.folder}/none.json:train_dataloader.dataset.ann_file: error: ')
    assert second.startswith(f'{coco.folder}/none.json:val_dataloader.dataset.ann_file: error: ')


def test_the_level_is_colored_on_demand():
    finding = several(KIND, ['a'], 'data')
    colored = finding.as_line(color=True)
    assert '\x1b[1;33mwarning\x1b[0m: ' in colored
    assert colored.replace('\x1b[1;33m', '').replace('\x1b[0m', '') == str(finding)


def test_errors_come_first_and_are_counted():
    error = Finding(ERROR, 'a', 'b', 'c')
    warnings = [several(KIND, [name], 'data') for name in ('x', 'y')]
    assert errors_first([*warnings, error]) == [error, *warnings]
    assert count_levels([*warnings, error]) == '1 error and 2 warnings'
    assert count_levels(warnings[:1]) == '0 errors and 1 warning'
