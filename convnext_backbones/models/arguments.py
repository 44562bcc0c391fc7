"""Checks of arguments, shared by the models."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

import torch

# Layer scale is kept in fp32.
LARGEST = torch.finfo(torch.float32).max


def normalize_out_indices(out_indices: int | Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Return ``out_indices`` as a tuple of indices in ``[0, num_stages)``.

    Raises:
        TypeError: Not an int or a sequence of ints.
        ValueError: Empty, out of range, repeated, or not in increasing order.
    """
    if isinstance(out_indices, (str, bytes)) or not isinstance(out_indices, (Integral, Sequence)):
        raise TypeError(
            f'expected out_indices to be an int or a list of ints, got {out_indices!r} of type '
            f'{type(out_indices).__name__}'
        )
    given = out_indices if isinstance(out_indices, Sequence) else (out_indices,)
    for index in given:
        check_integer('each of out_indices', index, minimum=-num_stages, maximum=num_stages - 1)
    indices = tuple(int(index) % num_stages for index in given)
    if not indices:
        raise ValueError('expected at least one index in out_indices, got none; for example (3,)')
    if any(a >= b for a, b in zip(indices, indices[1:], strict=False)):
        raise ValueError(
            'expected out_indices in increasing order and without repetition, got '
            f'{tuple(given)}, which means the stages {indices}; '
            f'try {tuple(sorted(set(indices)))}'
        )
    return indices


def check_integer(name: str, value: int, minimum: int, maximum: int | None = None) -> None:
    """Raise TypeError unless ``value`` is an integer, ValueError unless it is within the limits."""
    limits = f'of at least {minimum}' if maximum is None else f'from {minimum} to {maximum}'
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(
            f'expected {name} to be an integer {limits}, got {value!r} of type '
            f'{type(value).__name__}'
        )
    if value < minimum or (maximum is not None and value > maximum):
        raise ValueError(f'expected {name} to be an integer {limits}, got {value}')


def check_real(name: str, value: float) -> None:
    """Raise TypeError unless ``value`` is a number, ValueError unless it is finite in fp32."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f'expected {name} to be a number, got {value!r} of type {type(value).__name__}'
        )
    if not abs(value) <= LARGEST:  # false for NaN as well
        raise ValueError(f'expected {name} to be a finite number, got {value}')


def check_probability(name: str, value: float, hint: str = '') -> None:
    """Raise TypeError unless ``value`` is a number, ValueError unless it is in [0, 1)."""
    check_real(name, value)
    if not 0 <= float(value) < 1:
        raise ValueError(f'expected {name} in [0, 1), got {float(value)}{hint}')


def check_init_cfg(init_cfg: dict | list[dict] | None) -> None:
    """Raise TypeError unless ``init_cfg`` has a form that mmengine understands."""
    cfgs = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    if init_cfg is not None and not all(isinstance(cfg, dict) and 'type' in cfg for cfg in cfgs):
        raise TypeError(
            'expected init_cfg to be None, a dict with a type or a list of such dicts, got '
            f'{init_cfg!r}'
        )


def check_flag(name: str, value: bool) -> None:
    """Raise TypeError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(
            f'expected {name} to be True or False, got {value!r} of type {type(value).__name__}'
        )
