"""Errors that a config causes: one sentence on the screen, and the traceback where it says."""

import importlib
import logging
import sys

import pytest
from mmengine.logging import MMLogger

from convnext_backbones.config.errors import ConfigError, config_errors, exit_with

USERS_DATASET = """
def read():
    raise ValueError('column 3 is not a number')
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """A function of a user's dataset, which fails."""
    (tmp_path / 'users_dataset.py').write_text(USERS_DATASET)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module('users_dataset').read
    del sys.modules['users_dataset']


def test_any_error_of_another_package_names_its_place(read):
    with pytest.raises(ConfigError) as caught, config_errors():
        read()
    text = str(caught.value)
    assert 'overrides ask for: ValueError: column 3 is not a number' in text
    assert 'users_dataset.py, line 3)' in text and '\n' not in text
    assert isinstance(caught.value.__cause__, ValueError)
    message = r'KeyError: .*a.*raised in .*test_errors.py'
    with pytest.raises(ConfigError, match=message), config_errors():
        {}['a']
    with pytest.raises(ConfigError, match='AssertionError: no detail'), config_errors():
        raise AssertionError


def test_contexts_within_one_another_wrap_once(read):
    with pytest.raises(ConfigError) as caught, config_errors(), config_errors():
        read()
    assert str(caught.value).count('overrides ask for') == 1


def test_what_says_enough_passes():
    from convnext_backbones.config.classes import read_classes

    message = '^expected names for the setting classes'
    with pytest.raises(ValueError, match=message), config_errors():
        read_classes([])
    with pytest.raises(FileNotFoundError, match='^a.json$'), config_errors():
        raise FileNotFoundError('a.json')


def test_after_the_config_is_used_everything_passes(read):
    with pytest.raises(ValueError, match='^column 3'), config_errors(lambda: True):
        read()
    with pytest.raises(KeyError), config_errors(lambda: True):
        {}['a']


def fail(read, show_traceback: bool) -> str:
    """What a command that fails says last."""
    with pytest.raises(SystemExit) as exit_:
        try:
            with config_errors():
                read()
        except ValueError as error:
            exit_with('train', error, show_traceback)
    return str(exit_.value)


@pytest.fixture
def no_run(monkeypatch):
    """No log file of an earlier test."""
    monkeypatch.setattr(MMLogger, '_instance_dict', type(MMLogger._instance_dict)())


def test_the_traceback_is_a_flag_away(read, no_run, capsys):
    text = fail(read, show_traceback=False)
    assert text.startswith('train: cannot set up')
    assert text.endswith('; --traceback prints the traceback')
    assert capsys.readouterr().err == ''
    text = fail(read, show_traceback=True)
    assert 'prints the traceback' not in text and '\n' not in text
    printed = capsys.readouterr().err
    assert printed.count('Traceback (most recent call last):') == 2  # the cause's, and ours
    assert 'in read' in printed and 'ConfigError' in printed


@pytest.mark.parametrize('level', ['INFO', 'ERROR'])
def test_the_log_of_the_run_has_the_traceback_whatever_its_level(read, no_run, tmp_path, level):
    path = tmp_path / 'run.log'
    logger = MMLogger.get_instance('run', log_file=str(path), log_level=level)
    text = fail(read, show_traceback=False)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()
    assert text.endswith(f'; the traceback is in {path}')
    log = path.read_text()
    assert 'DEBUG' in log and 'Traceback (most recent call last):' in log and 'in read' in log


def test_errors_of_our_own_need_no_traceback(no_run):
    with pytest.raises(SystemExit, match='^train: expected a config$'):
        exit_with('train', ValueError('expected a config'), False)
    with pytest.raises(SystemExit, match='^train: the disk is full$'):
        exit_with('train', OSError(28, 'No space'), False, 'the disk is full')
