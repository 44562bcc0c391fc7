"""Checks that hold for every operator, by any provider."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from support import operator_cases, operator_loops, stored_references
from support.operators import TOLERANCES, assert_same, difference

Tensors = Mapping[str, Tensor]


def cases(*operators: str) -> list[operator_cases.Case]:
    """Those with results of compiled mmcv."""
    return [case for case in operator_cases.CASES if case.operator in operators]


def loops(*operators: str) -> list[operator_loops.Case]:
    """Those with loops."""
    return [case for case in operator_loops.CASES if case.operator in operators]


def check_stored(case: operator_cases.Case) -> None:
    """A case gives what compiled mmcv gave, and its inputs stay as they are."""
    inputs = stored_references.inputs(case)
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    assert_same(case.run(inputs), stored_references.outputs(case), case.tolerance)
    assert all(torch.equal(inputs[name], tensor) for name, tensor in before.items())


def check_loop(case: operator_loops.Case, dtype: torch.dtype) -> None:
    """A case gives what a loop in float64 gives."""
    assert_same(case.run(dtype), case.expected(dtype), TOLERANCES[dtype])


def transposed(tensor: Tensor) -> Tensor:
    """The same values with the last two dimensions exchanged in memory."""
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor


def channels_last(tensor: Tensor) -> Tensor:
    """The same values, a map's in channels_last."""
    if tensor.dim() != 4:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def check_layouts(run: Callable[[Tensors], Tensors], inputs: Tensors, tolerance: float) -> None:
    """The order of the values in memory does not matter."""
    expected = run(inputs)
    for layout in (transposed, channels_last):
        given = {name: layout(tensor) for name, tensor in inputs.items()}
        if layout is transposed or any(tensor.dim() == 4 for tensor in given.values()):
            assert any(not tensor.is_contiguous() for tensor in given.values())
            assert_same(run(given), expected, tolerance)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_determinism(run: Callable[[], Tensors], rounding: float = 0) -> None:
    """The same bits twice, and with one and two threads.

    Args:
        run: Computes something.
        rounding: By how much torch's own matrix products differ with the number of threads.
    """
    with threads(1):
        once, twice = run(), run()
    with threads(2):
        parallel, again = run(), run()
    for name, tensor in once.items():
        assert same_bits(twice[name], tensor), name
        assert same_bits(again[name], parallel[name]), f'{name} with two threads'
        same = same_bits(parallel[name], tensor)
        assert same or difference(parallel[name], tensor).relative < rounding, name


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Equal, also where values are not numbers."""
    return first.shape == second.shape and bytes_of(first) == bytes_of(second)


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()


def gradcheck(function: Callable[..., Tensor], inputs: Tensors, *names: str) -> None:
    """Gradients are those of small steps, in float64."""
    given = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    leaves = [given[name].requires_grad_() for name in names]

    def of_leaves(*values: Tensor) -> Tensor:
        return function(**{**given, **dict(zip(names, values, strict=True))})

    assert torch.autograd.gradcheck(of_leaves, leaves, fast_mode=True)
