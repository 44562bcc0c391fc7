"""A user's own code fails before the training: one sentence, and the traceback where it says."""

import sys
from pathlib import Path

import pytest
from support.miniatures import leave_configs_unformatted, make_data, miniature

from tools import browse_data, evaluate, test, train

DATASET = """
from mmengine.registry import DATASETS
from mmseg.datasets import BaseSegDataset


@DATASETS.register_module(force=True)
class UsersDataset(BaseSegDataset):
    def load_data_list(self):
        raise ValueError('column 3 is not a number')
"""
PLACE = 'ValueError: column 3 is not a number (raised in {}, line 9)'


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config over a dataset that fails, and the file of the dataset."""
    leave_configs_unformatted(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    make_data(tmp_path)
    code = tmp_path / 'users_dataset.py'
    code.write_text(DATASET)
    cfg = miniature('seg', tmp_path / 'work', length=1)
    cfg.custom_imports = dict(
        imports=['convnext_backbones', 'users_dataset'], allow_failed_imports=False
    )
    cfg.train_dataloader.dataset.type = 'UsersDataset'
    cfg.dump('config.py')
    yield code
    sys.modules.pop('users_dataset', None)


def sentence(tool, *args: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        tool.main([*args])
    return str(exit_.value)


def test_training_names_the_place_and_the_log_has_the_traceback(config, capsys):
    text = sentence(train, 'config.py', '--no-check')
    assert PLACE.format(config) in text and '\n' not in text
    (log,) = Path('work').glob('*/*.log')
    assert text.endswith(f'; the traceback is in {log.absolute()}')
    assert 'in load_data_list' in log.read_text()
    assert 'in load_data_list' not in capsys.readouterr().err


def test_the_flag_prints_the_traceback(config, capsys):
    text = sentence(train, 'config.py', '--no-check', '--traceback')
    assert PLACE.format(config) in text and 'the traceback is in' not in text
    assert 'in load_data_list' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('tool', 'args'),
    [
        (test, ['none.py', 'a.pth']),
        (browse_data, ['none.py']),
        (evaluate, ['none.py', 'config.py']),
    ],
)
def test_other_tools_have_the_flag(tool, args, config, capsys):
    message = "expected a config file, found none at 'none.py'"
    assert sentence(tool, *args).endswith(message)
    assert 'Traceback' not in capsys.readouterr().err
    assert sentence(tool, *args, '--traceback').endswith(message)
    assert 'Traceback' in capsys.readouterr().err
