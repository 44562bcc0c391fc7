"""A training starts from detectors that were trained with another project's ConvNeXt."""

from types import SimpleNamespace

import pytest
import torch
from support.weights import Detector
from torch import nn

from convnext_backbones.training.foreign_names import ForeignNamesHook
from convnext_backbones.weights.layouts import LAYOUTS
from convnext_backbones.weights.names import export

BACKBONE = 'backbone.'


@pytest.fixture
def trained(miniature):
    """A detector with random weights, also in its norms."""
    model = Detector(miniature)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model


def foreign(model: nn.Module) -> dict:
    """The weights of a detector as mmpretrain names those of its backbone."""
    state = model.state_dict()
    own = {
        name.removeprefix(BACKBONE): tensor
        for name, tensor in state.items()
        if name.startswith(BACKBONE)
    }
    exported, left = export(own, LAYOUTS['mmpretrain'])
    assert not left
    others = {name: tensor for name, tensor in state.items() if not name.startswith(BACKBONE)}
    return {f'{BACKBONE}{name}': tensor for name, tensor in exported.items()} | others


def test_names_of_mmpretrain_become_ours(trained):
    checkpoint = dict(state_dict=foreign(trained))
    assert set(checkpoint['state_dict']) != set(trained.state_dict())
    ForeignNamesHook().after_load_checkpoint(SimpleNamespace(model=trained), checkpoint)
    assert set(checkpoint['state_dict']) == set(trained.state_dict())
    for name, tensor in trained.state_dict().items():
        assert torch.equal(checkpoint['state_dict'][name], tensor)


def test_our_own_checkpoints_and_other_models_are_left_alone(trained):
    state = trained.state_dict()
    checkpoint = dict(state_dict=dict(state))
    ForeignNamesHook().after_load_checkpoint(SimpleNamespace(model=trained), checkpoint)
    assert checkpoint['state_dict'].keys() == state.keys()
    other = dict(foreign(trained))
    ForeignNamesHook().after_load_checkpoint(SimpleNamespace(model=nn.Linear(1, 1)), other)
    assert other.keys() == foreign(trained).keys()
