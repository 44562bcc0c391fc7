"""Deformable convolutions, v1 and v2, are those of compiled mmcv, forward and backward."""

import mmcv.ops
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import stored_references
from support.operator_cases import (
    deform_conv,
    deformed,
    modulated_deform_conv,
    normal,
    random,
)
from support.operator_checks import (
    cases,
    check_determinism,
    check_layouts,
    check_stored,
    gradcheck,
)
from support.operators import TOLERANCES, assert_same, computed_by, difference

OPERATORS = 'deform_conv', 'modulated_deform_conv'
FUNCTIONS = [deform_conv, modulated_deform_conv]


@pytest.mark.parametrize('case', cases(*OPERATORS), ids=str)
def test_equals_compiled(provider, case):
    check_stored(case)


def random_convolution(seed):
    """Inputs of both operators, and a geometry."""
    numbers = np.random.RandomState(seed)
    groups, offset_groups, samples = (int(numbers.choice([1, 2])) for _ in range(3))
    kernel = tuple(int(size) for size in numbers.choice([1, 3, 5], 2))
    stride, padding, dilation = (
        tuple(int(value) for value in numbers.choice(values, 2))
        for values in ([1, 2], [0, 1, 2], [1, 2])
    )
    height, width = numbers.randint(9, 16, 2)
    channels = 4 * int(numbers.choice([1, 3]))
    weight = normal(numbers, 6, channels // groups, *kernel)
    x = normal(numbers, samples, channels, height, width)
    geometry = stride, padding, dilation, groups
    size = F.conv2d(x, weight, None, *geometry).shape[2:]
    points = offset_groups * kernel[0] * kernel[1]
    offset = normal(numbers, samples, 2 * points, *size, scale=float(numbers.choice([0.5, 4])))
    mask = normal(numbers, samples, points, *size)
    inputs = dict(x=x, offset=offset, mask=mask, weight=weight, bias=normal(numbers, 6))
    return inputs, (*geometry, offset_groups)


def convolved(inputs, geometry):
    """Outputs and gradients of both operators."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    x, offset, mask, weight, bias = leaves.values()
    first = mmcv.ops.deform_conv2d(x, offset, weight, *geometry)
    second = mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry)
    (first.square().sum() + second.square().sum()).backward()
    gradients = {f'gradient of {name}': leaf.grad for name, leaf in leaves.items()}
    return dict(first=first.detach(), second=second.detach(), **gradients)


def test_random_convolutions(compiled, stand_in):
    settings = [random_convolution(seed) for seed in range(16)]
    with computed_by('mmcv'):
        expected = [convolved(*setting) for setting in settings]
    for setting, wanted in zip(settings, expected, strict=True):
        assert_same(convolved(*setting), wanted, TOLERANCES[torch.float32])


def test_samples_in_steps(provider):
    """mmcv's `im2col_step` divides a batch; the result is the same."""
    numbers = random('steps')
    x, offset = normal(numbers, 6, 4, 5, 5), normal(numbers, 6, 18, 5, 5)
    weight = normal(numbers, 3, 4, 3, 3)
    whole, parts = (
        mmcv.ops.deform_conv2d(x, offset, weight, 1, 1, 1, 1, 1, False, step) for step in (32, 2)
    )
    assert difference(parts, whole).relative < 1e-6


def test_bfloat16(stand_in):
    """Compiled mmcv has no kernel for it."""
    inputs = {name: tensor.bfloat16() for name, tensor in deformed(1.5).items()}
    single = {name: tensor.float() for name, tensor in inputs.items()}
    for function in FUNCTIONS:
        actual, expected = function(**inputs), function(**single)
        for name, tensor in expected.items():
            assert actual[name].dtype == torch.bfloat16
            assert difference(actual[name], tensor).relative < TOLERANCES[torch.bfloat16]


@pytest.mark.parametrize('geometry', [(1, 1, 1, 1, 1), (2, 2, 2, 2, 2)], ids=str)
def test_gradients(provider, geometry):
    numbers = random('gradients')
    groups, offset_groups = geometry[3:]
    size = 4 // geometry[0]
    inputs = dict(
        x=normal(numbers, 2, 4, 4, 4),
        offset=normal(numbers, 2, 18 * offset_groups, size, size, scale=1.5),
        mask=normal(numbers, 2, 9 * offset_groups, size, size),
        weight=normal(numbers, 2, 4 // groups, 3, 3),
        bias=normal(numbers, 2),
    )

    def first(x, offset, mask, weight, bias):
        return mmcv.ops.deform_conv2d(x, offset, weight, *geometry)

    def second(x, offset, mask, weight, bias):
        return mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry)

    gradcheck(first, inputs, 'x', 'offset', 'weight')
    gradcheck(second, inputs, *inputs)


def test_only_some_gradients(provider):
    """Frozen weights, and an input that is an image."""
    inputs = deformed(1.5)
    for name in ('x', 'offset', 'weight'):
        leaves = {key: tensor.clone() for key, tensor in inputs.items()}
        leaves[name].requires_grad_()
        output = mmcv.ops.deform_conv2d(leaves['x'], leaves['offset'], leaves['weight'], 1, 1)
        output.sum().backward()
        assert leaves[name].grad.any()
        assert all(leaf.grad is None for key, leaf in leaves.items() if key != name)


def test_layouts(stand_in):
    for case in cases(*OPERATORS):
        if case.dtype == torch.float32:
            check_layouts(case.run, stored_references.inputs(case), case.tolerance)


def test_determinism(provider):
    numbers = random('determinism')
    inputs = dict(
        x=normal(numbers, 2, 16, 20, 20),
        offset=normal(numbers, 2, 18, 20, 20),
        mask=normal(numbers, 2, 9, 20, 20),
        weight=normal(numbers, 16, 16, 3, 3),
        bias=normal(numbers, 16),
    )
    check_determinism(lambda: convolved(inputs, (1, 1, 1, 1, 1)))


@pytest.mark.parametrize(
    'layer',
    [mmcv.ops.DeformConv2dPack, mmcv.ops.ModulatedDeformConv2dPack],
    ids=lambda x: x.__name__,
)
def test_packs(provider, layer):
    """The layers of configs begin as plain convolutions; v2's with masks of 0.5."""
    pack = layer(4, 6, 3, padding=1, bias=False)
    x = torch.randn(2, 4, 8, 9)
    expected = F.conv2d(x, pack.weight, padding=1)
    if layer is mmcv.ops.ModulatedDeformConv2dPack:
        expected = expected / 2
    output = pack(x)
    assert difference(output, expected).relative < TOLERANCES[torch.float32]
    output.square().sum().backward()
    assert all(parameter.grad.any() for parameter in pack.parameters())


def test_an_input_smaller_than_the_kernel(provider):
    """mmcv pads it, and cuts the output."""
    layer = mmcv.ops.DeformConv2d(2, 3, 3, padding=1)
    x, offset = torch.randn(1, 2, 2, 2), torch.zeros(1, 18, 2, 2)
    expected = F.conv2d(x, layer.weight, padding=1)
    assert difference(layer(x, offset), expected).relative < TOLERANCES[torch.float32]
