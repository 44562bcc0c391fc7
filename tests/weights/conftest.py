"""Files of weights of a miniature, as the authors and trainings write them."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger
from support.weights import Detector, random_state

from convnext_backbones import ConvNeXt, ConvNeXtClassifier
from convnext_backbones.io.download import CACHE_VARIABLE, FOLDERS_VARIABLE, OFFLINE_VARIABLE


@pytest.fixture
def classifier(miniature):
    """The weights of an ImageNet file of the authors."""
    return random_state(ConvNeXtClassifier(miniature))


@pytest.fixture
def backbone(miniature):
    return ConvNeXt(miniature)


@pytest.fixture
def save(tmp_path):
    """Write a checkpoint and return its path."""

    def save(checkpoint, name: str = 'weights.pth'):
        torch.save(checkpoint, tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def warnings():
    """What is logged as a warning, a string per record."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.fixture
def published(tmp_path, monkeypatch, miniature):
    """A machine without a network, on which one published file was put by hand."""
    monkeypatch.setenv(OFFLINE_VARIABLE, '1')
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / 'cache'))
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path))
    state = random_state(ConvNeXtClassifier(miniature))
    torch.save({'model': state}, tmp_path / 'convnext_tiny_1k_224.pth')
    return state


@pytest.fixture
def detector(miniature):
    return random_state(Detector(miniature))
