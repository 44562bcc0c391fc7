"""A whole model is found by its folder, or by the name of its repository."""

import time

import pytest
import torch
from huggingface_hub import constants
from support.hub_server import HubServer, running

from convnext_backbones.io import hub
from convnext_backbones.io.download import CACHE_VARIABLE, FOLDERS_VARIABLE, OFFLINE_VARIABLE
from convnext_backbones.weights.model_files import model_files

FILES = ('config.json', 'model.safetensors')


@pytest.fixture(params=[True, False], ids=['huggingface_hub', 'ourselves'])
def machine(request, tmp_path, monkeypatch):
    """A machine with empty caches, with huggingface_hub and without."""
    for variable in (OFFLINE_VARIABLE, 'HF_HUB_OFFLINE', 'HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'huggingface'))
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'huggingface/hub'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    monkeypatch.setattr(hub, 'has_library', lambda: request.param)
    monkeypatch.setenv('no_proxy', '127.0.0.1,localhost')
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / 'cache'))
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path / 'own'))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(machine, monkeypatch):
    with running(HubServer()) as server:
        monkeypatch.setenv('HF_ENDPOINT', server.url)
        torch.save({'w': torch.ones(1)}, machine / 'draft')
        server.files = {
            'org/repo/config.json': b'{"a": 1}',
            'org/repo/model.safetensors': (machine / 'draft').read_bytes(),
        }
        yield server


def leave(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_a_folder(machine):
    leave(machine / 'mine', *FILES)
    assert model_files('mine') == tuple(
        (machine / 'mine' / name).relative_to(machine) for name in FILES
    )
    assert model_files(machine / 'mine')[1] == machine / 'mine' / 'model.safetensors'


@pytest.mark.parametrize('name', ['org/repo', 'hf-hub:org/repo', '{url}/org/repo'])
def test_a_repository(server, name):
    config, weights = model_files(name.format(url=server.url))
    assert config.read_bytes() == b'{"a": 1}'
    assert weights.read_bytes() == server.files['org/repo/model.safetensors']
    server.files.clear()
    assert model_files('hf-hub:org/repo') == (config, weights), 'they are on this machine now'


def test_a_repository_in_a_folder_of_the_user(server, machine):
    leave(machine / 'own/org/repo', *FILES)
    assert model_files('org/repo') == tuple(machine / 'own/org/repo' / name for name in FILES)
    assert not server.asked


def test_a_folder_comes_before_a_repository(server, machine):
    leave(machine / 'org/repo', *FILES)
    assert model_files('org/repo')[0].samefile(machine / 'org/repo/config.json')
    assert not server.asked


def test_a_repository_without_a_config(server):
    del server.files['org/repo/config.json']
    with pytest.raises(FileNotFoundError, match="expected 'config.json' in the repository"):
        model_files('org/repo')


@pytest.mark.parametrize('missing', FILES)
def test_a_folder_that_lacks_a_file(machine, missing):
    leave(machine / 'mine', *{*FILES} - {missing})
    with pytest.raises(FileNotFoundError, match=f'found no {missing} in .*CONFIG and CHECKPOINT'):
        model_files('mine')


@pytest.mark.parametrize('name', ['config.py', 'missing.py', 'org/repo/model.safetensors', '/a/b'])
def test_what_is_no_model_alone(machine, name):
    (machine / 'config.py').touch()
    with pytest.raises(
        FileNotFoundError, match=f"expected CONFIG and CHECKPOINT, .* '{name}' alone"
    ):
        model_files(name)
