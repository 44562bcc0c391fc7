"""Checkpoints are read, never executed."""

import argparse
import copy
import functools
import json
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

from convnext_backbones.io.checkpoint import named_tensors, read_checkpoint, write_safetensors
from convnext_backbones.io.mmengine_patches import read_checkpoints_safely


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
        'global': lambda: os.system,  # named only: whoever calls what was read would run it
        'partial': lambda: functools.partial(os.system, command),
        'import': lambda: Reduced(__import__, 'this'),
        'numpy object': lambda: np.array([Reduced(os.system, command)], dtype=object),
        'in a Namespace': lambda: argparse.Namespace(a=Reduced(os.system, command)),
        'a whole model': lambda: torch.nn.Linear(1, 1),
    }[kind]()


KINDS = (
    *('system', 'exec', 'eval', 'getattr', 'getattr of another class', 'nested', 'global'),
    *('partial', 'import', 'numpy object', 'in a Namespace', 'a whole model'),
)


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('kind', KINDS)
def test_code_in_a_checkpoint_is_refused_and_not_run(kind, zipped, marker, tmp_path):
    path = tmp_path / 'forged.pth'
    contents = {'state_dict': {'w': torch.ones(1)}, 'extra': forged(kind, marker)}
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)
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


def test_the_flags_of_a_training_script_are_read(tmp_path):
    path = tmp_path / 'trained.pth'
    args = argparse.Namespace(model='convnext_tiny', lr=4e-3, layers=[1, 2])
    torch.save({'model': {'w': torch.ones(1)}, 'args': args}, path)
    assert read_checkpoint(path)['args'] == args


def test_a_tar_file_is_not_unpacked(marker, tmp_path):
    path = tmp_path / 'old.tar'
    with tarfile.open(path, 'w') as archive:
        for name in ('storages', 'tensors', 'pickle', f'../{marker.name}'):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(ValueError, match='old.tar'):
        read_checkpoint(path)
    assert not marker.exists() and os.listdir(tmp_path) == ['old.tar']


# --- what is not a checkpoint ---------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('empty', b'', 'the file is empty'),
        ('page', b'\n<!DOCTYPE html><html>404</html>', 'the file is a web page'),
        ('xml', b'<?xml version="1.0"?><Error/>', 'the file is a web page or another text'),
        ('pointer', b'version https://git-lfs.github.com/spec/v1\noid', 'git lfs pull'),
        ('index', b'{\n "metadata": {}}', 'JSON text; name the file with the weights'),
        ('random', bytes(range(256)), 'damaged or not a checkpoint'),
        ('zip', b'PK\x03\x04' + bytes(100), 'damaged or not a checkpoint'),
        ('header', b'\x10' + bytes(7) + b'{' + bytes(100), 'damaged or not a checkpoint'),
    ],
)
def test_what_is_not_a_checkpoint_gets_one_sentence(name, content, message, tmp_path):
    path = tmp_path / f'{name}.pth'
    path.write_bytes(content)
    pattern = f'cannot read the checkpoint .*{name}.pth.*{message}'
    with pytest.raises(ValueError, match=pattern) as error:
        read_checkpoint(path)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('part', [0.05, 0.5, 0.99])
@pytest.mark.parametrize('kind', ['zip', 'pickle', 'safetensors'])
def test_a_truncated_checkpoint_is_said_to_be_damaged(kind, part, tmp_path):
    path = tmp_path / 'cut.pth'
    if kind == 'safetensors':
        write_safetensors(path, {'w': torch.ones(1000)})
    else:
        state = {'state_dict': {'w': torch.ones(1000)}}
        torch.save(state, path, _use_new_zipfile_serialization=kind == 'zip')
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match='damaged') as error:
        read_checkpoint(path)
    assert '\n' not in str(error.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='found nothing at'):
        read_checkpoint(tmp_path / 'none.pth')
    with pytest.raises(ValueError, match='got the folder .*it has none'):
        read_checkpoint(tmp_path)
    (tmp_path / 'model.safetensors').touch()
    with pytest.raises(ValueError, match="got the folder .*such as 'model.safetensors'"):
        read_checkpoint(tmp_path)


@pytest.mark.filterwarnings('ignore:`torch.jit')
def test_a_torchscript_program_is_not_run(tmp_path):
    path = tmp_path / 'program.pt'
    torch.jit.script(torch.nn.Linear(1, 1)).save(path)
    with pytest.raises(ValueError, match='a TorchScript program; save its state_dict'):
        read_checkpoint(path)


# --- archives that are packed to do harm ----------------------------------------------------


@pytest.fixture
def archive(tmp_path):
    """A checkpoint as torch writes it, and a function that packs its members again."""
    path = tmp_path / 'packed.pth'
    torch.save({'w': torch.zeros(100_000)}, path)
    with zipfile.ZipFile(path) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}

    def pack(method: int = zipfile.ZIP_STORED, change=lambda file: None):
        with zipfile.ZipFile(path, 'w', method) as file:
            for name, content in members.items():
                file.writestr(name, content)
            change(file)
        return path

    return pack


def test_an_archive_packed_again_without_compression_is_read(archive):
    assert read_checkpoint(archive())['w'].shape == (100_000,)


def test_torch_s_advice_to_execute_a_file_is_not_passed_on(archive):
    path = archive()
    with zipfile.ZipFile(path, 'a') as file, pytest.warns(UserWarning, match='Duplicate name'):
        # Of two members with one name the later counts; this one has an unknown instruction.
        file.writestr(next(n for n in file.namelist() if n.endswith('data.pkl')), b'\x80\x02\xff.')
    with pytest.raises(ValueError, match='Unsupported operand') as error:
        read_checkpoint(path)
    assert 'weights_only' not in str(error.value)


def double(file: zipfile.ZipFile) -> None:
    """List a member again, under other names: the bytes are there once."""
    largest = max(file.filelist, key=lambda info: info.file_size)
    for number in range(50):
        info = copy.copy(largest)
        info.filename = f'{largest.filename}{number}'
        file.filelist.append(info)


def declare_more(file: zipfile.ZipFile) -> None:
    file.filelist[-1].file_size = 10**12


def declare_less(file: zipfile.ZipFile) -> None:
    file.filelist[-1].file_size = 1


@pytest.mark.parametrize(
    ('method', 'change'),
    [
        (zipfile.ZIP_DEFLATED, lambda file: None),
        (zipfile.ZIP_DEFLATED, declare_less),
        (zipfile.ZIP_STORED, double),
        (zipfile.ZIP_STORED, declare_more),
        (zipfile.ZIP_STORED, declare_less),
    ],
)
def test_members_that_expand_are_refused(method, change, archive):
    with pytest.raises(ValueError, match='refused .*packed.pth.* its members expand'):
        read_checkpoint(archive(method, change))


@pytest.mark.parametrize(
    'name', ['../up', 'a/../../up', '/etc/passwd', '..\\up', 'C:\\up', 'C:up', '\\\\host\\up']
)
def test_members_named_to_be_written_elsewhere_are_refused(name, archive):
    path = archive(change=lambda file: file.writestr(name, b'x'))
    with pytest.raises(ValueError, match='refused .*is named to be written elsewhere'):
        read_checkpoint(path)


def test_names_of_files_may_have_dots_and_colons(tmp_path):
    for name in ('model..v2.pth', 'epoch:1.pth'):  # torch makes them the folder in the archive
        torch.save({'w': torch.ones(1)}, tmp_path / name)
        assert read_checkpoint(tmp_path / name)['w'] == 1


# --- safetensors, mmap, containers ----------------------------------------------------------


def test_safetensors_with_and_without_meta(tmp_path):
    shared = torch.arange(4.0)
    tensors = {'a': shared, 'b': shared[1:], 'c': torch.ones(2, 3).t(), 'd': torch.tensor(7)}
    path = tmp_path / 'weights.safetensors'
    write_safetensors(path, tensors)
    read = read_checkpoint(path)
    assert set(read) == set(tensors) and all(torch.equal(read[n], t) for n, t in tensors.items())
    write_safetensors(path, tensors, {'dataset_meta': {'classes': ('a', 'b')}})
    assert read_checkpoint(path)['meta'] == {'dataset_meta': {'classes': ['a', 'b']}}
    assert torch.equal(read_checkpoint(path)['state_dict']['b'], shared[1:])


def test_safetensors_do_not_hold_objects(tmp_path):
    with pytest.raises(ValueError, match='expected meta of strings, numbers.*ndarray'):
        write_safetensors(tmp_path / 'w', {'a': torch.ones(1)}, {'palette': np.ones(3)})


@pytest.mark.parametrize('first', [0x3C, 0x20, 0x7B])
def test_a_safetensors_header_is_not_taken_for_text(first, tmp_path):
    """The first byte is the length of the header, and may be any: that of '<', a space or '{'."""
    header = json.dumps({'w': {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}}).encode()
    header = header.ljust(0x100 + first)
    path = tmp_path / 'weights.pth'  # the contents tell, whatever the name
    path.write_bytes(len(header).to_bytes(8, 'little') + header + np.float32(1).tobytes())
    assert read_checkpoint(path)['w'] == 1


@pytest.mark.parametrize('zipped', [True, False])
def test_tensors_may_stay_on_the_disk(zipped, tmp_path):
    path = tmp_path / 'large.pth'
    weight = torch.arange(10.0)
    torch.save({'w': weight}, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_checkpoint(path, mmap=True)['w'], weight)


def test_a_lightning_checkpoint(tmp_path):
    contents = {
        'epoch': 3,
        'pytorch-lightning_version': '2.6.0',
        'state_dict': {'model.w': torch.ones(1)},
        'optimizer_states': [{'state': {0: {'step': torch.tensor(1.0)}}}],
        'hyper_parameters': {'lr': 1e-3},
    }
    path = tmp_path / 'last.ckpt'
    torch.save(contents, path)
    assert list(named_tensors(read_checkpoint(path), path)) == ['model.w']


@pytest.mark.parametrize(
    ('contents', 'message'),
    [
        (torch.ones(2), 'expected named tensors in .*, got Tensor'),
        ([torch.ones(2)], 'got list; save model.state_dict'),
        ({}, 'found none; its entries are none'),
        ({'optimizer': {'state': {}}, 'epoch': 1}, 'its entries are optimizer, epoch'),
        ({'state_dict': {}, 'meta': {}}, 'its entries are state_dict, meta'),
        ({'state_dict': {0: torch.ones(1)}}, 'found none'),
    ],
)
def test_checkpoints_without_named_tensors(contents, message):
    with pytest.raises(ValueError, match=message):
        named_tensors(contents, 'file.pth')


def test_a_container_that_holds_itself_holds_no_tensors():
    forged = {}
    forged['state_dict'] = forged
    with pytest.raises(ValueError, match='found none; its entries are state_dict'):
        named_tensors(forged, 'file.pth')


@pytest.mark.parametrize('container', [None, [], {'model': {}}])
def test_averaged_weights_that_are_none(container):
    with pytest.raises(ValueError, match='found none; its entries are model_ema'):
        named_tensors({'model_ema': container}, 'file.pth', ema=True)


# --- mmengine ------------------------------------------------------------------------------


def test_mmengine_reads_through_this_module(marker, tmp_path, monkeypatch):
    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes.copy())
    monkeypatch.setattr(mmengine_checkpoint, 'load_from_http', mmengine_checkpoint.load_from_http)
    read_checkpoints_safely()
    path = tmp_path / 'forged.pth'
    torch.save(forged('system', marker), path)
    with pytest.raises(ValueError, match='posix.system'):
        CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    assert not marker.exists()
