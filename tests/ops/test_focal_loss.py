"""Focal losses equal loops over their definitions."""

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
from support.operators import TOLERANCES

CASES = loops('sigmoid_focal_loss', 'softmax_focal_loss')
LOSSES = [mmcv.ops.sigmoid_focal_loss, mmcv.ops.softmax_focal_loss]


@pytest.mark.parametrize('dtype', [*TOLERANCES], ids=str)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_equals_a_loop(stand_in, case, dtype):
    check_loop(case, dtype)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_gradients(stand_in, case):
    if 'none' not in case.setting:  # mmcv's weighting of the gradients is per element
        gradcheck(case.function, case.inputs, *case.differentiable)


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
def test_certain_scores(stand_in, loss, dtype):
    """Where a probability is 1 or 0 after rounding, losses and gradients are finite."""
    x = torch.tensor([[100.0, -100, 0], [-100, 100, 0]], dtype=dtype, requires_grad=True)
    for target in ([0, 1], [1, 0]):
        x.grad = None
        value = loss(x, torch.tensor(target), 2.0, 0.25, None, 'sum')
        value.backward()
        assert value.isfinite() and x.grad.isfinite().all()


def test_certain_and_right_costs_nothing(stand_in):
    x = torch.tensor([[40.0, -40, -40]], requires_grad=True)
    for loss in LOSSES:
        x.grad = None
        value = loss(x, torch.tensor([0]))
        value.backward()
        assert value == 0 and not x.grad.any()


@pytest.mark.parametrize('loss', LOSSES)
def test_no_rows(stand_in, loss):
    """A batch without objects."""
    x = torch.zeros(0, 3, requires_grad=True)
    value = loss(x, torch.zeros(0).long(), 2.0, 0.25, None, 'sum')
    value.backward()
    assert value == 0 and x.grad.shape == (0, 3)


def test_layouts(stand_in):
    for case in CASES:
        check_layouts(case.of, case.inputs, TOLERANCES[torch.float32])


def test_determinism(stand_in):
    for case in CASES:
        check_determinism(lambda case=case: case.run(torch.float32))


def test_modules(stand_in):
    """The layers of configs."""
    x, target = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    for layer, loss in zip(
        (mmcv.ops.SigmoidFocalLoss, mmcv.ops.SoftmaxFocalLoss), LOSSES, strict=True
    ):
        weight = torch.tensor([1.0, 2, 3])
        expected = loss(x, target, 1.5, 0.3, weight, 'mean')
        assert torch.equal(layer(1.5, 0.3, weight)(x, target), expected)
