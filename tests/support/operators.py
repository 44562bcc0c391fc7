"""mmcv's operators by a provider of choice, whichever serves this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import mmcv
import pytest
import torch
from torch import Tensor

from convnext_backbones.ops import providers

# What rounding may change, as a fraction of the largest value.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 2e-2}


@cache
def _module_or_reason(provider: str) -> ModuleType | str:
    import_module('mmcv.ops')  # not at the top: the package, which is below, has the finder
    served = sys.modules[providers.EXTENSION]
    if providers.provider_of(served) == provider:
        return served  # compiled code is loaded once
    try:
        return providers.PROVIDERS[provider](mmcv.__path__)
    except providers.ProviderError as error:
        return str(error)


def extension(provider: str) -> ModuleType:
    """The module of a provider.

    Raises:
        ProviderError: It does not run here; the message says why.
    """
    found = _module_or_reason(provider)
    if isinstance(found, str):
        raise providers.ProviderError(found)
    return found


def available_providers() -> list[str]:
    """Names of those that run here, best first."""
    return [name for name in providers.PROVIDERS if not isinstance(_module_or_reason(name), str)]


def skip_unless_it_runs(provider: str) -> None:
    """Skip the test where the provider does not run."""
    found = _module_or_reason(provider)
    if isinstance(found, str):
        pytest.skip(found)


@contextmanager
def computed_by(provider: str) -> Iterator[ModuleType]:
    """Let a provider compute all operators of mmcv; yields its module."""
    module = extension(provider)
    with pytest.MonkeyPatch.context() as patch:
        for name, user in [*sys.modules.items()]:
            if name.startswith('mmcv.ops.') and hasattr(user, 'ext_module'):
                patch.setattr(user, 'ext_module', module)
        patch.setitem(sys.modules, providers.EXTENSION, module)
        yield module


class Difference(NamedTuple):
    """The largest one between two tensors, and as a fraction of the largest expected value."""

    absolute: float
    relative: float


def difference(actual: Tensor, expected: Tensor) -> Difference:
    """Compare values; where one is not finite, the other is the same."""
    assert actual.shape == expected.shape, f'{tuple(actual.shape)}, not {tuple(expected.shape)}'
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    finite = expected.isfinite()
    assert torch.equal(actual.isfinite(), finite)
    assert torch.equal(actual[~finite].nan_to_num(), expected[~finite].nan_to_num())
    if not finite.any():
        return Difference(0.0, 0.0)
    largest = (actual - expected)[finite].abs().max().item()
    return Difference(largest, largest / max(expected[finite].abs().max().item(), 1e-30))


def assert_same(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float
) -> None:
    """Compare results by name: numbers within a tolerance, everything else exactly."""
    assert actual.keys() == expected.keys()
    for name, wanted in expected.items():
        found = actual[name]
        assert found.dtype == wanted.dtype, f'{name}: {found.dtype}, not {wanted.dtype}'
        apart = difference(found, wanted)
        allowed = tolerance if wanted.is_floating_point() else 0
        assert apart.relative <= allowed, f'{name}: {apart}, allowed is {allowed:g}'


def upstream(output: Tensor) -> Tensor:
    """A gradient for an output, different for every element."""
    steps = torch.linspace(-1, 1, output.numel(), dtype=torch.float64)
    return steps.view(output.shape).to(output)


def with_gradients(function, inputs: Mapping[str, Tensor], *names: str) -> dict[str, Tensor]:
    """The output of a function, and the gradients of the inputs of these names."""
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in names}
    output = function(**{**inputs, **leaves})
    found = torch.autograd.grad(output, [*leaves.values()], upstream(output))
    for name, leaf in leaves.items():
        assert torch.equal(leaf, inputs[name]), f'{name} was modified'
    gradients = {f'gradient of {name}': value for name, value in zip(names, found, strict=True)}
    return {'output': output.detach(), **gradients}
