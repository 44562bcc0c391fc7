"""Equality with timm and torchvision.

Not collected by default: no release of torchvision fits the torch of the main environment. In one
with torch, torchvision, timm, mmengine and pytest: `python -m pytest tests/peers`.
"""

import pytest
from support.peer_models import PEERS, TOLERANCE, compare_backbones, compare_classifiers

from convnext_backbones import VARIANTS

CASES = [(name, variant) for name in ('timm', 'torchvision') for variant in PEERS[name].variants]


@pytest.mark.parametrize(('name', 'variant'), CASES)
def test_maps_and_input_gradients_equal(name, variant):
    found = compare_backbones(PEERS[name], variant)
    # These have no output norms: ours are applied to their maps.
    assert found.tensors == 9 * sum(VARIANTS[variant].depths) + 16
    assert max(found.outputs) <= TOLERANCE
    assert max(found.gradients) <= TOLERANCE


@pytest.mark.parametrize('name', ['timm', 'torchvision'])
def test_logits_and_input_gradients_equal(name):
    found = compare_classifiers(PEERS[name], 'tiny')
    assert found.tensors == 182
    assert max(found.outputs) <= TOLERANCE
    assert max(found.gradients) <= TOLERANCE
