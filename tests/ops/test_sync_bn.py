"""mmcv's own synchronized batch normalization equals torch's batch normalization."""

import pytest
import torch
import torch.distributed as dist
from mmcv.ops.sync_bn import SyncBatchNormFunction
from support.operator_checks import check_determinism
from support.operators import TOLERANCES, difference, upstream
from torch import nn

SHAPES = [(3, 4, 5, 6), (2, 4, 7), (8, 4, 1, 1), (1, 4, 3, 3)]


def normalize(x, processes=1, stats_mode='default', momentum=0.3):
    """Outputs, gradients and statistics, as of one of several processes."""
    x = x.clone().requires_grad_()
    weight = torch.tensor([0.5, 1, 2, 3], requires_grad=True)
    bias = torch.tensor([1.0, 0, -1, 2], requires_grad=True)
    mean, variance = torch.full((4,), 0.2), torch.full((4,), 1.5)
    output = SyncBatchNormFunction.apply(
        x, mean, variance, weight, bias, momentum, 1e-3, None, processes, stats_mode
    )
    output.backward(upstream(output))
    gradients = dict(x=x.grad, weight=weight.grad, bias=bias.grad)
    return dict(output=output.detach(), mean=mean, variance=variance, **gradients)


def expected(x, momentum=0.3):
    """The same by torch, in float64."""
    norm = nn.BatchNorm2d(4, eps=1e-3, momentum=momentum).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1, 2, 3]))
        norm.bias.copy_(torch.tensor([1.0, 0, -1, 2]))
        norm.running_mean.fill_(0.2)
        norm.running_var.fill_(1.5)
    x = x.double().reshape(*x.shape[:2], -1, 1).requires_grad_()
    output = norm(x)
    return norm, x, output


def check(actual, x, norm, gradient, output, tolerance):
    wanted = dict(
        output=output.reshape(x.shape),
        mean=norm.running_mean,
        variance=norm.running_var,
        x=gradient.reshape(x.shape),
        weight=norm.weight.grad,
        bias=norm.bias.grad,
    )
    for name, tensor in wanted.items():
        assert difference(actual[name], tensor).relative < tolerance, name


@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('stats_mode', ['default', 'N'])
def test_one_process(stand_in, shape, stats_mode):
    x = torch.randn(shape) * 2 + 1
    norm, given, output = expected(x)
    output.backward(upstream(output))
    check(normalize(x, 1, stats_mode), x, norm, given.grad, output, TOLERANCES[torch.float32])


def test_half_precision(stand_in):
    x = (torch.randn(3, 4, 5, 6) * 2 + 1).half()
    norm, given, output = expected(x)
    output.backward(upstream(output))
    actual = normalize(x)
    assert actual['output'].dtype == actual['x'].dtype == torch.float16
    assert actual['mean'].dtype == torch.float32
    check(actual, x, norm, given.grad, output, TOLERANCES[torch.float16])


@pytest.mark.parametrize('stats_mode', ['default', 'N'])
def test_two_processes(stand_in, monkeypatch, stats_mode):
    """The other process has the same samples, so that a sum over both is twice one's."""
    monkeypatch.setattr(dist, 'all_reduce', lambda tensor, group: tensor.mul_(2))
    x = torch.randn(3, 4, 5, 6) * 2 + 1
    norm, given, output = expected(torch.cat([x, x]))
    halves = upstream(output[:3])
    output.backward(torch.cat([halves, halves]))
    norm.weight.grad /= 2  # mmcv averages over processes
    norm.bias.grad /= 2
    actual = normalize(x, 2, stats_mode)
    check(actual, x, norm, given.grad[:3], output[:3], TOLERANCES[torch.float32])


def test_determinism(stand_in):
    x = torch.randn(4, 4, 30, 30)
    check_determinism(lambda: normalize(x))
