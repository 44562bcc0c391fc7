"""CARAFE equals a loop over its definition."""

import pytest
import torch
from mmcv.ops.carafe import CARAFEPack
from support.operator_checks import (
    check_determinism,
    check_layouts,
    check_loop,
    gradcheck,
    loops,
)
from support.operator_loops import carafe_naive
from support.operators import TOLERANCES, assert_same, upstream

CASES = loops('carafe')


@pytest.mark.parametrize('dtype', [*TOLERANCES], ids=str)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_equals_a_loop(stand_in, case, dtype):
    check_loop(case, dtype)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_gradients(stand_in, case):
    gradcheck(case.function, case.inputs, *case.differentiable)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_naive(stand_in, case):
    """mmcv's layer refuses its gradient on a CPU, so the operator itself is asked for it."""
    from mmcv.ops.carafe import ext_module

    expected = case.run()
    features, masks = (tensor.double() for tensor in case.inputs.values())
    options = case.function.keywords
    output = carafe_naive(features, masks, **options)
    gradients = torch.zeros_like(features), torch.zeros_like(masks)
    ext_module.carafe_naive_backward(upstream(output), features, masks, *gradients, **options)
    names = 'gradient of features', 'gradient of masks'
    actual = dict(output=output, **dict(zip(names, gradients, strict=True)))
    assert_same(actual, expected, TOLERANCES[torch.float64])


def test_layouts(stand_in):
    for case in CASES:
        check_layouts(case.of, case.inputs, TOLERANCES[torch.float32])


def test_determinism(stand_in):
    for case in CASES:
        check_determinism(lambda case=case: case.run(torch.float32))


def test_pack(stand_in):
    """The upsampling layer of FPN-CARAFE."""
    pack = CARAFEPack(8, 2, compressed_channels=4)
    x = torch.randn(1, 8, 5, 6, requires_grad=True)
    output = pack(x)
    output.square().sum().backward()
    assert output.shape == (1, 8, 10, 12)
    assert x.grad.any() and all(parameter.grad.any() for parameter in pack.parameters())
