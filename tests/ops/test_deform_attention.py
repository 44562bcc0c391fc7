"""Multi-scale deformable attention equals a loop over its definition."""

import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttention
from support.operator_checks import (
    check_determinism,
    check_layouts,
    check_loop,
    gradcheck,
    loops,
)
from support.operators import TOLERANCES

(CASE,) = loops('deform_attention')


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
def test_equals_a_loop(stand_in, dtype):
    check_loop(CASE, dtype)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(stand_in, dtype):
    check_loop(CASE, dtype)


def test_gradients(stand_in):
    gradcheck(CASE.function, CASE.inputs, *CASE.differentiable)


def test_layouts(stand_in):
    check_layouts(CASE.of, CASE.inputs, TOLERANCES[torch.float32])


def test_determinism(stand_in):
    check_determinism(lambda: CASE.run(torch.float32))


def test_layer(stand_in):
    """As a transformer calls it, which on a CPU computes without the operator."""
    layer = MultiScaleDeformableAttention(embed_dims=8, num_heads=2, num_levels=2, num_points=2)
    shapes = torch.tensor([[4, 4], [2, 2]])
    query = torch.randn(5, 1, 8, requires_grad=True)
    output = layer(
        query,
        value=torch.randn(20, 1, 8),
        reference_points=torch.rand(1, 5, 2, 2),
        spatial_shapes=shapes,
        level_start_index=torch.tensor([0, 16]),
    )
    output.sum().backward()
    assert output.shape == (5, 1, 8) and query.grad.any()
