"""Names in messages: few, on one line, and the others counted."""

import pytest

from convnext_backbones.io.wording import first_names


@pytest.mark.parametrize(
    ('names', 'options', 'text'),
    [
        ([], {}, 'none'),
        ('abc', {}, 'a, b, c'),
        ('abcde', {}, 'a, b, c and 2 more'),
        (iter('abcde'), {'shown': 1}, 'a and 4 more'),
        (['a b', 'c'], {'quoted': True}, "'a b', 'c'"),
        (['a\nb', 'c\x1b[2J'], {}, r'a\nb, c\x1b[2J'),
        ([1, None], {}, '1, None'),
    ],
)
def test_the_first_names(names, options, text):
    assert first_names(names, **options) == text
