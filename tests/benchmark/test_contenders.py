"""All contenders of a case compute the same."""

from dataclasses import replace

import pytest

from convnext_backbones.benchmark import contenders, peers

PEERS = [name for name in peers.PEERS if name != 'torchvision']  # which has no atto


RUNTIMES = ['openvino', 'onnxruntime']


@pytest.mark.parametrize(
    ('name', 'training'),
    [(name, False) for name in (*PEERS, *RUNTIMES, 'ours', 'ours optimized')]
    + [(name, True) for name in (*PEERS, 'ours')],
)
def test_all_compute_the_same(prepared, name, training):
    case, folder = prepared
    case = replace(case, training=training)
    available = contenders.list_contenders(case, folder)
    if name in (*PEERS, *RUNTIMES):
        pytest.importorskip(name)
    made = available[name].build()
    made.run()
    assert made.measures['difference']() < 1e-5
    if training:
        assert made.measures['activations']() > 2 * 2 * 16 * 24 * 160 * 4  # two hidden maps
