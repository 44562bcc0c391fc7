"""The tree shows its architecture: rooms with a stated purpose, and files of one screenful each."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / 'convnext_backbones'
ROOMS = sorted(path.parent for path in PACKAGE.glob('*/__init__.py'))
SOURCES = sorted(
    path for folder in (PACKAGE, ROOT / 'tools', ROOT / 'dev') for path in folder.rglob('*.py')
)
MOST_LINES = 400  # of a module
MOST_FUNCTION_LINES = 60


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize('path', SOURCES, ids=name)
def test_modules_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= MOST_FUNCTION_LINES, f'{node.name}, line {node.lineno}: {lines} lines'


@pytest.mark.parametrize('room', ROOMS, ids=lambda room: room.name)
def test_a_room_says_what_it_is_for_and_what_it_may_import(room):
    module = ast.parse((room / '__init__.py').read_text())
    purpose, imports = [line for line in ast.get_docstring(module).splitlines() if line]
    assert purpose.endswith('.')
    assert imports.startswith('Imports ')
    # Configs name two rooms: one registers their types, from the other they import functions.
    assert len(module.body) == 1 or room.name in ('training', 'config')


@pytest.mark.parametrize('room', ROOMS, ids=lambda room: room.name)
def test_tests_mirror_the_rooms(room):
    assert list((ROOT / 'tests' / room.name).glob('test_*.py'))


@pytest.mark.parametrize('path', sorted((ROOT / 'tests').rglob('*.py')), ids=name)
def test_tests_import_by_name(path):
    """Nothing is loaded by file path: what a test needs is importable."""
    names = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text()))}
    assert not {'importlib.util.spec_from_file_location', 'sys.path'} & names
