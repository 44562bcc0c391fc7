"""Equality with independent implementations from PyPI that live in the main environment.

timm and torchvision need another environment: tests/peers/test_timm_torchvision.py.
"""

import pytest
from support.peer_models import PEERS, TOLERANCE, compare_backbones, compare_classifiers

from convnext_backbones import VARIANTS


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('name', ['transformers', 'mmpretrain'])
def test_maps_and_input_gradients_equal(name, variant, record_property):
    found = compare_backbones(PEERS[name], variant)
    record_property('largest output difference', max(found.outputs))
    record_property('largest gradient difference', max(found.gradients))
    assert found.tensors == 9 * sum(VARIANTS[variant].depths) + 24
    assert max(found.outputs) <= TOLERANCE
    assert max(found.gradients) <= TOLERANCE


def test_logits_and_input_gradients_equal_those_of_transformers():
    found = compare_classifiers(PEERS['transformers'], 'tiny')
    assert found.tensors == 182
    assert max(found.outputs) <= TOLERANCE
    assert max(found.gradients) <= TOLERANCE
