"""Equality with timm and torchvision.

Not collected by default: no release of torchvision fits the torch of the main environment. In one
with torch, torchvision, timm, mmengine and pytest: `python -m pytest tests/peers`.
"""

import pytest
from support.peer_models import PEERS, TOLERANCE, cases, compare_backbones, compare_classifiers

CASES = cases(
    {
        'timm': ('atto', 'femto', 'pico', 'nano', 'tiny'),
        'timm V2': ('atto',),
        'timm DINOv3': ('tiny',),
        'torchvision': ('tiny',),
    }
)


@pytest.mark.parametrize(('name', 'variant'), CASES)
def test_maps_and_input_gradients_equal(name, variant):
    peer = PEERS[name]
    found = compare_backbones(peer, variant)
    # These have no output norms: ours are applied to their maps.
    assert found.tensors == peer.tensors(variant)
    assert max(found.outputs) <= TOLERANCE
    assert max(found.gradients) <= TOLERANCE


@pytest.mark.parametrize(
    ('name', 'variant'),
    [('timm', 'tiny'), ('timm V2', 'atto'), ('timm DINOv3', 'tiny'), ('torchvision', 'tiny')],
)
def test_logits_and_input_gradients_equal(name, variant):
    peer = PEERS[name]
    found = compare_classifiers(peer, variant)
    assert found.tensors == peer.tensors(variant) + (2 if 'num_classes' in peer.head else 4)
    assert max(found.outputs) <= TOLERANCE
    assert max(found.gradients) <= TOLERANCE
