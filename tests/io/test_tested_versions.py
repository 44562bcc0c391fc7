"""The tables of tested versions, and the comparison of versions."""

import re
import sys

import pytest

from convnext_backbones.io import tested_versions

TABLES = [tested_versions.TABLE, *tested_versions.FORKS.values()]


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


def test_mmcv_has_one_version_with_and_without_its_ops():
    """They have the same files, which pip lets overwrite each other."""
    tested = tested_versions.read_table(tested_versions.TABLE.read_text())
    assert tested[tested_versions.LITE] == tested['mmcv']


TABLE = """\
# python==3.11 3.10
numpy==2.2.6; python_version < "3.11"
numpy==2.4.6; python_version >= "3.11"
tomli==2.5.0; python_version < "3.11"
typing_extensions==4.16.0
onedl-mmcv==2.3.6; python_version >= "3.11"  # instead of mmcv
"""


def test_versions_that_differ_by_python_have_markers():
    new = tested_versions.read_table(TABLE, '3.13')
    assert (new['numpy'], new['typing-extensions'], new['onedl-mmcv']) == (
        '2.4.6',
        '4.16.0',
        '2.3.6',
    )
    old = tested_versions.read_table(TABLE, '3.10')
    assert (old['numpy'], old['tomli'], old['typing-extensions']) == ('2.2.6', '2.5.0', '4.16.0')
    assert 'tomli' not in new and 'onedl-mmcv' not in old
    assert old['python'] == new['python'] == '3.11', 'the one on which all tests run'
    this = '{}.{}'.format(*sys.version_info)
    assert tested_versions.read_table(TABLE) == tested_versions.read_table(TABLE, this)


@pytest.mark.parametrize('path', TABLES, ids=lambda path: path.name)
def test_every_line_of_the_real_tables_is_understood(path):
    """By the pattern of this module, and one version for each Python."""
    text = path.read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith('# ')]
    form = re.compile(r'[\w.-]+==[\w.]+(; python_version (<|>=) "3\.\d+")?(  # instead of [\w-]+)?')
    assert [line for line in lines if not form.fullmatch(line)] == []
    pythons = tested_versions.tested_pythons()
    assert set(pythons) >= {'3.10', '3.11', '3.12', '3.13'}
    for python in pythons:
        met = [
            name
            for name, _, marker in tested_versions.PIN.findall(text)
            if tested_versions.is_within(python, marker.replace('"', ''))
        ]
        assert len(met) == len(set(met))


def test_the_tested_pythons_begin_with_the_main_one():
    table = tested_versions.read_table(tested_versions.TABLE.read_text())
    assert tested_versions.tested_pythons()[0] == table['python']
