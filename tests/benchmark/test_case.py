"""Contenders get the same weights, and differences between their outputs are found."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from convnext_backbones import ConvNeXt
from convnext_backbones.benchmark import case as benchmark_case


def test_memory_of_activations_counts_storages_once(miniature):
    x = torch.randn(4, 8, requires_grad=True)
    weight = torch.randn(8, 8, requires_grad=True)

    def forward():
        y = x @ weight  # keeps x and weight
        return y.exp() + y.square() + y.view(8, 4).square().sum()  # keeps y once, and exp(y)

    assert benchmark_case.saved_bytes(forward, [x, weight]) == 2 * 4 * 8 * 4
    assert benchmark_case.saved_bytes(forward, [weight]) == 3 * 4 * 8 * 4
    images = torch.randn(1, 3, 64, 64)
    plain, lean = (
        benchmark_case.saved_bytes(partial(backbone, images), [*backbone.parameters(), images])
        for backbone in (ConvNeXt(miniature), ConvNeXt(miniature, with_cp=True))
    )
    assert lean < plain / 2


def test_other_weights_are_found_out(prepared):
    _, folder = prepared
    reference = load_file(folder / benchmark_case.REFERENCE)
    maps = [reference[str(i)].clone() for i in range(4)]
    assert benchmark_case.largest_difference(maps, folder) == 0
    maps[2][0, 0, 0, 0] += maps[2].abs().max() / 100
    assert benchmark_case.largest_difference(maps, folder) == pytest.approx(0.01)
    with pytest.raises(ValueError, match='expected 4 outputs, got 3'):
        benchmark_case.largest_difference(maps[:3], folder)
