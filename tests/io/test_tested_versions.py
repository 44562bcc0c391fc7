"""The tables of tested versions, and the comparison of versions."""

import pytest

from convnext_backbones.io import tested_versions


@pytest.mark.parametrize(
    ('version', 'specifier', 'expected'),
    [
        ('2.0', '>=2.0.0', True),
        ('2.13.0+cpu', '>=2.0', True),
        ('1.13.1', '>=2.0', False),
        ('4.0.0', '>=3.2,<4', False),
        ('3.10.1', '<4,>=3.2', True),
        ('1.0', '', True),
    ],
)
def test_version_ranges(version, specifier, expected):
    assert tested_versions.is_within(version, specifier) is expected


@pytest.mark.parametrize(
    ('installed', 'wanted', 'expected'),
    [
        ('2.13.0', '2.13.0', True),
        ('2.13.0+cpu', '2.13.0', True),
        ('2.13.0+cpu', '2.13.0+cpu', True),
        ('2.13.0+cu130', '2.13.0+cpu', False),
        ('2.13.0', '2.1', False),
    ],
)
def test_versions_with_a_local_tag(installed, wanted, expected):
    assert tested_versions.is_version(installed, wanted) is expected


@pytest.mark.parametrize('stack', tested_versions.read_stacks())
def test_the_real_tables_are_complete(stack):
    tested = tested_versions.read_table(tested_versions.stack_table(stack))
    names = tested_versions.read_stacks()[stack]
    assert {'mmcv', 'mmdet', 'mmengine', 'mmsegmentation'} <= set(names)
    tools = {'python', 'torch', 'setuptools', 'wheel', 'ninja', 'pytest'}
    assert {*tools, *names.values()} <= set(tested)
    assert not tested_versions.foreign_to(stack) & set(tested), 'nothing else can come in'
