"""Configs read as text, and what differs between them."""

import pytest
from mmengine.config import Config

from convnext_backbones.config.loading import load_config
from convnext_backbones.reports.config_entries import (
    config_diff,
    config_lines,
    differing_lines,
    read_config_text,
)


@pytest.mark.parametrize('name', ['mask_rcnn', 'upernet'])
def test_a_dumped_config_reads_as_what_it_was(name):
    cfg = load_config(f'configs/sample/{name}_convnext_sample.py')
    assert read_config_text(cfg.pretty_text) == cfg.to_dict()


def test_nothing_is_executed(tmp_path):
    marker = tmp_path / 'executed'
    text = f"""
import os
a = open({str(marker)!r}, 'w')
b = [1, -2.5, dict(x=(1,)), dict(**c)]
c = {{'k': a + 1, 3: None}}
d = dict([('x', 1)])
__import__('os').system('touch {marker}')
"""
    values = read_config_text(text)
    assert not marker.exists()
    assert repr(values['a']).startswith('open(')
    assert repr(values['b']) == "[1, -2.5, {'x': (1,)}, dict(**c)]"
    assert repr(values['c']) == "{'k': a + 1, 3: None}"
    assert repr(values['d']) == "dict([('x', 1)])"
    assert set(values) == set('abcd')


@pytest.mark.parametrize(
    'text', ['a = (', 'a = \0', 'a = ' + '(' * 5000, 'a = ' + '-' * 20000 + '1']
)
def test_text_that_is_no_python_is_refused(text):
    with pytest.raises(ValueError, match='expected a Python config, got text that does not parse'):
        read_config_text(text)


def test_lines_are_dotted_names_and_pipelines_have_a_line_for_each_item():
    config = dict(b=dict(d='x', c=(1,), e={}), a=[dict(type='A', to=(1, 2)), [dict(x=[])]])
    assert config_lines(config) == [
        ('a[]', "dict(type='A', to=(1, 2))"),
        ('a[]', '[dict(x=[])]'),
        ('b.c', '(1,)'),
        ('b.d', "'x'"),
        ('b.e', 'dict()'),
    ]


def test_a_diff_has_whole_names_and_no_context():
    base = dict(a=1, b=dict(c=2, d=[dict(type='X'), dict(type='Z')]), e=3)
    changed = dict(e=3, b=dict(d=[dict(type='X'), dict(type='Y'), dict(type='Z')], c=5), f='g')
    assert config_diff(base, changed).splitlines() == [
        '-a = 1',
        '-b.c = 2',
        '+b.c = 5',
        "+b.d[] = dict(type='Y')",
        "+f = 'g'",
    ]
    assert config_diff(base, dict(base)) == ''


def test_differences_of_several_configs():
    one = dict(lr=1, same=2, steps=[dict(a=1), dict(b=2)], order=[dict(a=1), dict(b=2)])
    two = dict(lr=3, same=2, steps=[dict(a=1), dict(c=3)], order=[dict(b=2), dict(a=1)])
    three = dict(same=2, steps=[dict(a=1)], order=[dict(a=1), dict(b=2)])
    assert differing_lines([one, two, three]) == [
        ('lr', ['1', '3', None]),
        ('order[]', ['dict(a=1)\ndict(b=2)', 'dict(b=2)\ndict(a=1)', 'dict(a=1)\ndict(b=2)']),
        ('steps[]', ['dict(b=2)', 'dict(c=3)', None]),
    ]
    assert differing_lines([one, dict(one)]) == []
    assert Config(one).to_dict() == one
