"""Checkpoints are read, never executed."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from convnext_backbones.checkpoint import read_checkpoint, read_checkpoints_safely


class Reduced:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.fixture
def marker(tmp_path):
    """A file that the malicious checkpoints try to create."""
    return tmp_path / 'executed'


def forged(kind: str, marker) -> object:
    command = f'touch {marker}'
    return {
        'system': lambda: Reduced(os.system, command),
        'exec': lambda: Reduced(exec, f'open({str(marker)!r}, "w")'),
        'eval': lambda: Reduced(eval, f'open({str(marker)!r}, "w")'),
        # getattr is what a true HistoryBuffer names; it must not open anything else.
        'getattr': lambda: Reduced(getattr, HistoryBuffer, '__init__'),
        'getattr of another class': lambda: Reduced(getattr, torch.nn.Module, 'forward'),
        'nested': lambda: {'state_dict': OrderedDict(a=[{'b': (Reduced(os.system, command),)}])},
    }[kind]()


KINDS = ('system', 'exec', 'eval', 'getattr', 'getattr of another class', 'nested')


@pytest.mark.parametrize('kind', KINDS)
def test_code_in_a_checkpoint_is_refused_and_not_run(kind, marker, tmp_path):
    path = tmp_path / 'forged.pth'
    torch.save({'state_dict': {'w': torch.ones(1)}, 'extra': forged(kind, marker)}, path)
    with pytest.raises(ValueError, match='refused the checkpoint .*forged.pth.*would execute'):
        read_checkpoint(path)
    assert not marker.exists()


def test_a_bare_pickle_is_refused_and_not_run(marker, tmp_path):
    path = tmp_path / 'bare.pkl'
    path.write_bytes(pickle.dumps(forged('system', marker), protocol=2))
    with pytest.raises(ValueError, match='bare.pkl'):
        read_checkpoint(path)
    assert not marker.exists()


def test_mmengine_training_state_is_read_back(tmp_path):
    buffer = HistoryBuffer([0.5, 1.5], [1, 1])
    state = {
        'meta': {'epoch': 1, 'dataset_meta': {'classes': ('a', 'b')}},
        'state_dict': OrderedDict(w=torch.arange(3.0)),
        'message_hub': {'log_scalars': OrderedDict(loss=buffer)},
        'numpy': {
            'float32': np.float32(0.25),
            'int64': np.int64(3),
            'bool': np.array([True, False]),
        },
    }
    path = tmp_path / 'trained.pth'
    torch.save(state, path)
    loaded = read_checkpoint(path)
    assert torch.equal(loaded['state_dict']['w'], state['state_dict']['w'])
    read = loaded['message_hub']['log_scalars']['loss']
    assert isinstance(read, HistoryBuffer) and read.mean() == buffer.mean() == 1.0
    assert loaded['numpy']['float32'] == np.float32(0.25)
    # mmengine's inferencers call torch.load themselves: importing the package is enough for them.
    assert torch.load(path)['meta'] == state['meta']


@pytest.mark.parametrize(
    ('name', 'content'),
    [('empty', b''), ('page', b'<!DOCTYPE html><html>404</html>'), ('random', bytes(range(256)))],
)
def test_what_is_not_a_checkpoint_gets_one_sentence(name, content, tmp_path):
    path = tmp_path / f'{name}.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f'cannot read the checkpoint .*{name}.pth') as error:
        read_checkpoint(path)
    assert '\n' not in str(error.value)


def test_a_truncated_checkpoint_is_said_to_be_damaged(tmp_path):
    path = tmp_path / 'cut.pth'
    torch.save({'state_dict': {'w': torch.ones(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match='damaged'):
        read_checkpoint(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='found nothing at'):
        read_checkpoint(tmp_path / 'none.pth')
    with pytest.raises(ValueError, match='got the folder'):
        read_checkpoint(tmp_path)


def test_mmengine_reads_through_this_module(marker, tmp_path, monkeypatch):
    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes.copy())
    read_checkpoints_safely()
    path = tmp_path / 'forged.pth'
    torch.save(forged('system', marker), path)
    with pytest.raises(ValueError, match='posix.system'):
        CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    assert not marker.exists()
