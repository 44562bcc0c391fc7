"""A published file holds weights and classes only, under a name with its digest."""

import hashlib
from pathlib import Path

import pytest
from support.weights import equal, save_classifier, save_detector

from convnext_backbones import ConvNeXtClassifier, load_weights
from convnext_backbones.engine import publishing
from convnext_backbones.io.checkpoint import read_checkpoint
from tools import publish


@pytest.fixture
def official(miniature, tmp_path) -> Path:
    return save_classifier(miniature, tmp_path)


@pytest.fixture
def detector(miniature, tmp_path) -> Path:
    return save_detector(miniature, tmp_path)


def test_publishing_keeps_weights_and_classes_only(detector, tmp_path, capsys):
    publish.main([str(detector), '--out', str(tmp_path / 'new' / 'folder')])
    path = Path(capsys.readouterr().out.strip())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path == tmp_path / 'new' / 'folder' / f'epoch_1-{digest}.safetensors'
    published = read_checkpoint(path)
    assert equal(path, detector)
    classes = {'classes': ['nucleus'], 'palette': [[220, 20, 60]]}
    assert published['meta'] == {'dataset_meta': classes}
    assert b'secret' not in path.read_bytes()
    assert [*path.parent.iterdir()] == [path]
    assert publishing.publish(detector, path.parent) == path, 'the same weights, another file'


def test_a_published_classifier_is_loaded(official, tmp_path, miniature):
    path = publishing.publish(official, tmp_path)
    assert len(load_weights(ConvNeXtClassifier(miniature), path).loaded) == 65
