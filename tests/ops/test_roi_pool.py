"""RoIPool equals a loop over its definition."""

import mmcv.ops
import pytest
import torch
from support.operator_checks import (
    check_determinism,
    check_layouts,
    check_loop,
    gradcheck,
    loops,
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('case', loops('roi_pool'), ids=str)
def test_equals_a_loop(stand_in, case, dtype):
    check_loop(case, dtype)


def test_gradients(stand_in):
    case = loops('roi_pool')[1]
    gradcheck(case.function, case.inputs, *case.differentiable)


def test_the_first_of_equal_values_gets_the_gradient(stand_in):
    """As mmcv compares with >."""
    features, rois = torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 3, 3]])
    features.requires_grad_()
    mmcv.ops.RoIPool(1)(features, rois).sum().backward()
    assert features.grad.nonzero().tolist() == [[0, 0, 0, 0]]


def test_layouts(stand_in):
    for case in loops('roi_pool'):
        check_layouts(case.of, case.inputs, 0)


def test_determinism(stand_in):
    for case in loops('roi_pool'):
        check_determinism(lambda case=case: case.run(torch.float32))


def test_no_regions(stand_in):
    features = torch.ones(1, 2, 4, 4, requires_grad=True)
    output = mmcv.ops.RoIPool(3)(features, torch.zeros(0, 5))
    output.sum().backward()
    assert output.shape == (0, 2, 3, 3) and not features.grad.any()
