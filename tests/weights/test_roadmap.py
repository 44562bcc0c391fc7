"""The ends of the road take published weights: those of ConvNeXt, and of a ResNet."""

import pytest
import torch

from convnext_backbones import (
    ConvNeXt,
    ConvNeXtClassifier,
    PretrainedConvNeXt,
    RoadmapClassifier,
    RoadmapNet,
)
from convnext_backbones.models.roadmap_steps import find_sizes

SMALL = dict(width_factor=1 / 16)


@pytest.fixture
def sizes():
    found = find_sizes('convnext', **SMALL)
    return dict(depths=found.depths, dims=found.dims)


@pytest.fixture
def weights(sizes, tmp_path):
    """A file of a ConvNeXt classifier, and what is in it."""
    path, state = tmp_path / 'weights.pth', ConvNeXtClassifier(**sizes).state_dict()
    torch.save({'model': state}, path)
    return path, state


def init_cfg(path, kind='PretrainedConvNeXt'):
    return dict(type=kind, checkpoint=str(path))


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 2)])
def test_the_last_step_loads_weights_of_convnext(weights, sizes, out_indices):
    path, state = weights
    net = RoadmapNet('convnext', out_indices=out_indices, init_cfg=init_cfg(path), **SMALL)
    peer = ConvNeXt(out_indices=out_indices, init_cfg=init_cfg(path), **sizes)
    for each in (net, peer):
        each.init_weights()
    images = torch.randn(1, 3, 64, 64)
    for a, b in zip(net.eval()(images), peer.eval()(images), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(net.state_dict()['stages.1.0.gamma'], state['stages.1.0.gamma'])


def test_the_classifier_of_the_last_step_loads_them_with_its_head(weights):
    path, state = weights
    net = RoadmapClassifier('convnext', init_cfg=init_cfg(path), **SMALL)
    net.init_weights()
    found = net.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_frozen_stages_are_loaded_and_stay_frozen(weights):
    path, state = weights
    net = RoadmapNet('convnext', frozen_stages=1, init_cfg=init_cfg(path), **SMALL)
    net.init_weights()
    assert torch.equal(net.stages[0][0].pwconv1.weight, state['stages.0.0.pwconv1.weight'])
    assert not net.stages[0][0].pwconv1.weight.requires_grad
    assert net.stages[1][0].pwconv1.weight.requires_grad and not net.stages[0].training


def test_other_steps_refuse_them(weights):
    path, _ = weights
    for step in ('resnet', 'layer_norm'):
        with pytest.raises(ValueError, match=f"expected step='convnext' .*, got '{step}'"):
            PretrainedConvNeXt(str(path))(RoadmapNet(step, **SMALL))


def test_another_initializer_may_not_follow(weights):
    path, _ = weights
    last = dict(type='Constant', layer='Conv2d', val=0)
    net = RoadmapNet('convnext', init_cfg=[init_cfg(path), last], **SMALL)
    with pytest.raises(ValueError, match="at the end of init_cfg, got 'Constant'"):
        net.init_weights()


def test_weights_of_another_size_are_an_error(weights):
    path, _ = weights
    net = RoadmapNet('convnext', width_factor=1 / 8, init_cfg=init_cfg(path))
    with pytest.raises(ValueError, match='nothing of .* fits'):
        net.init_weights()


def test_the_first_step_loads_a_file_in_the_format_of_torchvision(tmp_path):
    state = RoadmapClassifier('resnet', **SMALL).state_dict()
    torch.save(state, tmp_path / 'resnet.pth')
    net = RoadmapNet('resnet', init_cfg=init_cfg(tmp_path / 'resnet.pth', 'Pretrained'), **SMALL)
    net.init_weights()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
