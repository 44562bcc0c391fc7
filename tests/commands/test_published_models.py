"""A model in the layout of the hub predicts what it did before, by folder and by name."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from mmengine.config import Config
from PIL import Image
from support.hub_server import HubServer, running
from support.published_models import leave_trained

from convnext_backbones import ConvNeXt, load_weights
from convnext_backbones.io import hub
from convnext_backbones.io.download import CACHE_VARIABLE, FOLDERS_VARIABLE, OFFLINE_VARIABLE
from tools import predict, publish

TASKS = ['det', 'seg']


@pytest.fixture(scope='module', params=TASKS)
def published(request, tmp_path_factory) -> tuple[Path, Path, Path]:
    """Config, checkpoint, and the folder for the hub."""
    folder = tmp_path_factory.mktemp(request.param)
    config, checkpoint = leave_trained(request.param, folder)
    options = ['--layout', 'huggingface', '--out', str(folder / 'hub')]
    publish.main([str(checkpoint), '--config', str(config), *options])
    return config, checkpoint, folder / 'hub'


@pytest.fixture
def image(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'image.png')
    return tmp_path / 'image.png'


@pytest.fixture(params=[True, False], ids=['huggingface_hub', 'ourselves'])
def server(request, published, tmp_path, monkeypatch):
    """The hub, with the published folder as a repository."""
    for variable in (OFFLINE_VARIABLE, FOLDERS_VARIABLE, 'HF_HUB_OFFLINE', 'HF_TOKEN'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'huggingface'))
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'huggingface/hub'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    monkeypatch.setattr(hub, 'has_library', lambda: request.param)
    monkeypatch.setenv('no_proxy', '127.0.0.1,localhost')
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path)
    with running(HubServer()) as server:
        monkeypatch.setenv('HF_ENDPOINT', server.url)
        server.files = {
            f'me/mine/{path.name}': path.read_bytes() for path in published[2].iterdir()
        }
        yield server


def predicted(out: Path, *arguments: object) -> dict[str, bytes]:
    """The files that tools/predict.py writes."""
    np.random.seed(0)  # mmdet varies its colors
    predict.main([*map(str, arguments), '--score-thr', '0', '--out', str(out)])
    return {path.relative_to(out): path.read_bytes() for path in out.rglob('*') if path.is_file()}


def test_a_folder_predicts_the_same(published, image, tmp_path):
    config, checkpoint, folder = published
    wanted = predicted(tmp_path / 'before', config, checkpoint, image)
    assert json.loads((tmp_path / 'before/predictions.json').read_text())['images']
    assert predicted(tmp_path / 'folder', folder, image) == wanted
    both = (folder / 'config.json', folder / 'model.safetensors')
    assert predicted(tmp_path / 'files', *both, image) == wanted


def test_a_folder_stands_for_a_checkpoint(published, image, tmp_path):
    config, checkpoint, folder = published
    expected = predicted(tmp_path / 'a', config, checkpoint, image)
    assert predicted(tmp_path / 'b', config, folder, image) == expected


def test_a_repository_predicts_the_same(server, published, image, tmp_path):
    wanted = predicted(tmp_path / 'before', *published[:2], image)
    assert predicted(tmp_path / 'name', 'me/mine', image) == wanted
    assert predicted(tmp_path / 'both', published[0], 'me/mine', image) == wanted


def test_its_backbone_is_loaded_by_name(server, published):
    arch = dict(Config.fromfile(published[0]).model.backbone.arch)
    backbone = ConvNeXt(arch, layer_scale_init_value=1.0)
    report = load_weights(backbone, 'me/mine')
    assert not report.surprises and report.dropped
    state = torch.load(published[1], weights_only=True)['state_dict']
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, state[f'backbone.{name}']), name


def test_flags_stand_anywhere(published, image, tmp_path):
    config, checkpoint, folder = published
    out = str(tmp_path / 'out')
    predict.main([str(config), '--out', out, str(checkpoint), '--score-thr', '0', str(image)])
    predict.main([str(folder), '--out', out, str(image)])
    with pytest.raises(SystemExit, match='expected CONFIG and CHECKPOINT, or a folder'):
        predict.main([str(config), str(image), '--out', out])
