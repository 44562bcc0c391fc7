"""All contenders of a case compute the same."""

from dataclasses import replace

import pytest
import torch

from convnext_backbones.benchmark import contenders, peers, runtimes
from convnext_backbones.benchmark.case import Case

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


@pytest.mark.parametrize('name', ['timm channels_last', 'ours', 'ours memory_efficient'])
def test_training_in_bf16_is_a_step_under_autocast(prepared, name):
    case, folder = prepared
    if name.startswith('timm'):
        pytest.importorskip('timm')
    available = contenders.list_contenders(replace(case, training=True), folder)
    exact, rounded = (available[one].build() for one in (name, f'{name} bf16'))
    rounded.run()
    # The maps are rounded, but no more than that.
    assert exact.measures['difference']() < 1e-5 < rounded.measures['difference']() < 0.1


def test_parameters_and_gradients_stay_in_fp32(prepared):
    case, folder = prepared
    modules = []

    def build(arch, state):
        modules.append(runtimes.build_ours(arch, state))
        return modules[0]

    runtimes.in_training(case, folder, build, dtype=torch.bfloat16).run()
    for parameter in modules[0].parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all() and parameter.grad.any()


def test_contenders_in_bf16_are_compared_with_its_ceiling(tmp_path):
    def in_bf16(training):
        case = Case('tiny', (64, 64), training=training)
        available = contenders.list_contenders(case, tmp_path).values()
        return {one.name for one in available if one.dtype == 'bf16'}

    both = ('timm', 'torchvision')
    assert in_bf16(training=True) == {
        *(f'{peer} channels_last bf16' for peer in both),
        *('ours bf16', 'ours memory_efficient bf16'),
    }
    assert in_bf16(training=False) == {
        *(f'{peer} bf16' for peer in both),
        *(f'{peer} bf16 compiled' for peer in both),
        *('openvino bf16', 'ours bf16'),
    }


@pytest.mark.parametrize('peer', ['timm', 'torchvision'])
def test_peers_are_compiled_in_bf16(tmp_path, monkeypatch, peer):
    case, prepared = Case('tiny', (64, 64)), []
    monkeypatch.setattr(contenders, 'in_torch', lambda *args, **options: prepared.append(options))
    contenders.list_contenders(case, tmp_path)[f'{peer} bf16 compiled'].build()
    assert prepared == [dict(channels_last=True, dtype=torch.bfloat16, compiled=True)]
