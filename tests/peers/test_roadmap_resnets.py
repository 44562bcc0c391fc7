"""The first step of the road is the ResNet of torchvision and of timm, and loads their weights."""

import pytest
import torch

from convnext_backbones import RoadmapClassifier, RoadmapNet


def build_peer(package):
    if package == 'timm':
        return pytest.importorskip('timm').create_model('resnet50')
    return pytest.importorskip('torchvision').models.resnet50()


@pytest.mark.parametrize('package', ['torchvision', 'timm'])
def test_weights_load_and_the_outputs_are_the_same(package):
    torch.manual_seed(0)
    peer, ours = build_peer(package), RoadmapClassifier('resnet')
    images = torch.randn(2, 3, 96, 128)
    peer(images), peer(images)  # the statistics of the norms are no longer the initial ones
    state = peer.state_dict()
    ours.load_state_dict(state)
    assert list(ours.state_dict()) == list(state)
    peer.eval(), ours.eval()
    with torch.no_grad():
        expected, found = peer(images), ours(images)
        scale = expected.abs().max()
        assert (found - expected).abs().max() / scale < 1e-6
        backbone = RoadmapNet('resnet').eval()
        backbone.load_state_dict({k: v for k, v in state.items() if not k.startswith('fc.')})
        pooled = backbone(images)[-1].mean((2, 3))
        assert (ours.fc(pooled) - found).abs().max() / scale < 1e-5  # channels_last sums otherwise


def test_gradients_are_the_same_in_training():
    torch.manual_seed(0)
    peer, ours = build_peer('torchvision').double(), RoadmapClassifier('resnet').double()
    ours.load_state_dict(peer.state_dict())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for net in (peer, ours):
        net.train()
        net(images).square().sum().backward()
    expected = dict(peer.named_parameters())
    for name, parameter in ours.named_parameters():
        scale = expected[name].grad.abs().max()
        assert (parameter.grad - expected[name].grad).abs().max() <= 1e-6 * scale, name


def test_the_initial_values_have_the_same_spread():
    torch.manual_seed(0)
    peer, ours = build_peer('torchvision').state_dict(), RoadmapClassifier('resnet').state_dict()
    for name, tensor in ours.items():
        if tensor.dim() > 1:
            assert abs(tensor.std() / peer[name].std() - 1) < 0.1, name
