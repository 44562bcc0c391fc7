"""Deformable RoIPool equals a loop over its definition."""

import mmcv.ops
import pytest
import torch
from support.operator_cases import normal, random
from support.operator_checks import (
    check_determinism,
    check_layouts,
    check_loop,
    gradcheck,
    loops,
)
from support.operators import TOLERANCES, difference

CASES = loops('deform_roi_pool')


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_equals_a_loop(stand_in, case, dtype):
    check_loop(case, dtype)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(stand_in, dtype):
    """Points depend on rounded coordinates, so the reference is the same in float32."""
    case = CASES[1]
    inputs = {name: tensor.to(dtype) for name, tensor in case.inputs.items()}
    actual = case.of(inputs)
    expected = case.of({name: tensor.float() for name, tensor in inputs.items()})
    for name, tensor in expected.items():
        assert actual[name].dtype == dtype
        assert difference(actual[name], tensor).relative < TOLERANCES[dtype]


def test_gradients(stand_in):
    for case in CASES:
        if 'offset' in case.differentiable:
            gradcheck(case.function, case.inputs, *case.differentiable)


def test_layouts(stand_in):
    for case in CASES:
        check_layouts(case.of, case.inputs, TOLERANCES[torch.float32])


def test_determinism(stand_in):
    for case in CASES:
        check_determinism(lambda case=case: case.run(torch.float32))


def test_no_regions(stand_in):
    layer = mmcv.ops.DeformRoIPool((3, 2))
    assert layer(torch.zeros(1, 4, 8, 8), torch.zeros(0, 5)).shape == (0, 4, 3, 2)


@pytest.mark.parametrize('layer', [mmcv.ops.DeformRoIPoolPack, mmcv.ops.ModulatedDeformRoIPoolPack])
def test_packs(stand_in, layer):
    """The layers of configs begin without offsets; the modulated one with masks of 0.5."""
    options = dict(spatial_scale=0.5, sampling_ratio=2)
    pack = layer((3, 3), 4, deform_fc_channels=8, **options)
    features = normal(random('packs'), 1, 4, 8, 8).requires_grad_()
    rois = torch.tensor([[0.0, 1, 2, 10, 12], [0, 3, 3, 9, 8]])
    expected = mmcv.ops.DeformRoIPool((3, 3), **options)(features, rois)
    if layer is mmcv.ops.ModulatedDeformRoIPoolPack:
        expected = expected / 2
    output = pack(features, rois)
    assert difference(output, expected).relative < TOLERANCES[torch.float32]
    output.square().sum().backward()
    assert features.grad.any()
    assert pack.offset_fc[-1].bias.grad.any()
