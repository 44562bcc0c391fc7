"""Equality with independent implementations from PyPI that live in the main environment.

timm and torchvision need another environment: tests/peers/test_timm_torchvision.py.
"""

import pytest
from support.peer_models import PEERS, TOLERANCE, cases, compare_backbones, compare_classifiers

MAIN = ('transformers', 'mmpretrain')
FAST = {
    **dict.fromkeys(MAIN, ('atto', 'tiny', 'large')),
    'transformers V2': ('atto',),
    'mmpretrain V2': ('atto',),
    'transformers DINOv3': ('tiny',),
}


@pytest.mark.parametrize(('name', 'variant'), cases(FAST))
def test_maps_and_input_gradients_equal(name, variant, record_property):
    peer = PEERS[name]
    found = compare_backbones(peer, variant)
    record_property('largest output difference', max(found.outputs))
    record_property('largest gradient difference', max(found.gradients))
    assert found.tensors == peer.tensors(variant) + 8 * peer.has_output_norms
    assert max(found.outputs) <= TOLERANCE
    assert max(found.gradients) <= TOLERANCE


@pytest.mark.parametrize(
    ('name', 'variant'),
    cases({'transformers': ('tiny',), 'transformers V2': ('atto',), 'mmpretrain V2': ('atto',)})
    + [pytest.param('transformers DINOv3', 'tiny')],
)
def test_logits_and_input_gradients_equal(name, variant):
    peer = PEERS[name]
    found = compare_classifiers(peer, variant)
    assert found.tensors == peer.tensors(variant) + (2 if 'num_classes' in peer.head else 4)
    assert max(found.outputs) <= TOLERANCE
    assert max(found.gradients) <= TOLERANCE
